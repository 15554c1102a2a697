package main

import (
	"log"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// Seconds that clients may keep an answer: short, because pods come and go.
	ttl = 5
	// What one upstream resolver may take before the next one is asked.
	upstreamTimeout = 3 * time.Second
)

type server struct {
	zone    *zone
	forward *forwarder
}

func (s *server) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	reply := s.answer(request, w.RemoteAddr().Network())
	if w.RemoteAddr().Network() == "udp" {
		size := dns.MinMsgSize
		if option := request.IsEdns0(); option != nil && int(option.UDPSize()) > size {
			size = int(option.UDPSize())
		}
		truncate(reply, size)
	}
	if err := w.WriteMsg(reply); err != nil {
		log.Printf("answer not sent: %v", err)
	}
}

// truncate drops answers until the reply fits a datagram, and says so: the asker then comes back over TCP.
func truncate(reply *dns.Msg, size int) {
	reply.Compress = true
	for reply.Len() > size && len(reply.Answer) > 0 {
		reply.Truncated = true
		reply.Answer = reply.Answer[:len(reply.Answer)-1]
	}
}

func (s *server) answer(request *dns.Msg, network string) *dns.Msg {
	reply := new(dns.Msg)
	reply.SetReply(request)
	if len(request.Question) != 1 || request.Opcode != dns.OpcodeQuery {
		reply.Rcode = dns.RcodeFormatError
		return reply
	}
	question := request.Question[0]
	if !s.zone.owns(question.Name) {
		return s.forward.exchange(request, reply, network)
	}
	reply.Authoritative = true
	reply.RecursionAvailable = true
	records, exists := s.zone.lookup(strings.ToLower(question.Name), question.Qtype)
	// Names are compared without regard to case, and given back in the asker's spelling.
	for _, record := range records {
		if strings.EqualFold(record.Header().Name, question.Name) {
			record.Header().Name = question.Name
		}
	}
	reply.Answer = records
	if !exists {
		reply.Rcode = dns.RcodeNameError
	}
	if len(records) == 0 {
		reply.Ns = []dns.RR{s.zone.soa()}
	}
	return reply
}

type forwarder struct {
	servers []string
}

// newForwarder reads the resolvers of the node. Without any, other domains do not exist: an isolated lab has no
// way to the outside, and a quick answer is better than a timeout in every program.
func newForwarder(path string) *forwarder {
	config, err := dns.ClientConfigFromFile(path)
	if err != nil {
		log.Printf("no resolvers for other domains: %v", err)
		return &forwarder{}
	}
	var servers []string
	for _, address := range config.Servers {
		if strings.Contains(address, ":") {
			address = "[" + address + "]"
		}
		servers = append(servers, address+":"+config.Port)
	}
	return &forwarder{servers}
}

func (f *forwarder) exchange(request, reply *dns.Msg, network string) *dns.Msg {
	client := &dns.Client{Net: network, Timeout: upstreamTimeout}
	for _, address := range f.servers {
		upstream, _, err := client.Exchange(request, address)
		if err == nil {
			upstream.Id = request.Id
			return upstream
		}
		log.Printf("%s did not answer for %s: %v", address, request.Question[0].Name, err)
	}
	reply.RecursionAvailable = true
	reply.Rcode = dns.RcodeServerFailure
	if len(f.servers) == 0 {
		reply.Rcode = dns.RcodeNameError
	}
	return reply
}
