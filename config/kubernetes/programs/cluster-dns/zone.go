package main

import (
	"net"
	"sort"
	"strings"

	"github.com/miekg/dns"
	v1 "k8s.io/api/core/v1"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

const byClusterIP = "clusterIP"

// zone answers for the cluster's domain, and for the reverse names of service addresses.
type zone struct {
	domain    string // absolute, lower case: "cluster.local."
	services  listers.ServiceLister
	endpoints listers.EndpointsLister
	byIP      cache.Indexer
}

func newZone(domain string, s listers.ServiceLister, e listers.EndpointsLister, byIP cache.Indexer) *zone {
	return &zone{strings.ToLower(dns.Fqdn(domain)), s, e, byIP}
}

// clusterIPs indexes services by their addresses.
func clusterIPs(object interface{}) ([]string, error) {
	service, ok := object.(*v1.Service)
	if !ok || headless(service) || service.Spec.ClusterIP == "" {
		return nil, nil
	}
	return []string{service.Spec.ClusterIP}, nil
}

func headless(service *v1.Service) bool { return service.Spec.ClusterIP == v1.ClusterIPNone }

// owns says whether the name is ours to answer: others go to the node's resolvers.
func (z *zone) owns(name string) bool {
	name = strings.ToLower(name)
	if dns.IsSubDomain(z.domain, name) {
		return true
	}
	address := reverseAddress(name)
	if address == "" {
		return false
	}
	found, err := z.byIP.ByIndex(byClusterIP, address)
	return err == nil && len(found) > 0
}

func (z *zone) soa() dns.RR {
	return &dns.SOA{
		Hdr:     dns.RR_Header{Name: z.domain, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:      "ns.dns." + z.domain,
		Mbox:    "hostmaster." + z.domain,
		Serial:  1,
		Refresh: 7200,
		Retry:   1800,
		Expire:  86400,
		Minttl:  ttl,
	}
}

// lookup returns the records of a lower-case name, and whether the name exists at all: an existing name without
// records of the type asked for must not be denied, or clients would not ask for the other type.
func (z *zone) lookup(name string, kind uint16) ([]dns.RR, bool) {
	if address := reverseAddress(name); address != "" {
		return z.reverse(name, address, kind)
	}
	labels := dns.SplitDomainName(strings.TrimSuffix(name, z.domain))
	count := len(labels)
	switch {
	case count == 0:
		if kind == dns.TypeSOA {
			return []dns.RR{z.soa()}, true
		}
		return nil, true
	case count == 1 && labels[0] == "dns-version":
		return z.version(name, kind), true
	case labels[count-1] == "pod" && count == 3:
		return podAddress(name, labels[0], kind)
	case labels[count-1] == "svc":
		return z.service(name, labels[:count-1], kind)
	}
	return nil, labels[count-1] == "pod"
}

func (z *zone) version(name string, kind uint16) []dns.RR {
	if kind != dns.TypeTXT {
		return nil
	}
	return []dns.RR{&dns.TXT{Hdr: header(name, dns.TypeTXT), Txt: []string{"1.1.0"}}}
}

// service: labels are what stands before "svc": [namespace], [service, namespace], [host, service, namespace] or
// [_port, _protocol, service, namespace].
func (z *zone) service(name string, labels []string, kind uint16) ([]dns.RR, bool) {
	count := len(labels)
	if count < 2 || count > 4 {
		return nil, count < 2
	}
	service, err := z.services.Services(labels[count-1]).Get(labels[count-2])
	if err != nil {
		return nil, false
	}
	switch {
	case count == 4:
		return z.ports(name, service, labels[0], labels[1], kind)
	case service.Spec.Type == v1.ServiceTypeExternalName:
		if count == 3 {
			return nil, false
		}
		target := &dns.CNAME{Hdr: header(name, dns.TypeCNAME), Target: dns.Fqdn(service.Spec.ExternalName)}
		return []dns.RR{target}, true
	case count == 3:
		return z.endpoint(name, service, labels[0], kind)
	case headless(service):
		var addresses []string
		for _, one := range z.ready(service) {
			addresses = append(addresses, one.address.IP)
		}
		return hosts(name, kind, addresses...), len(addresses) > 0
	}
	return hosts(name, kind, service.Spec.ClusterIP), true
}

// endpoint: one pod of a headless service, by its host name or by its address with dashes.
func (z *zone) endpoint(name string, service *v1.Service, host string, kind uint16) ([]dns.RR, bool) {
	var addresses []string
	for _, one := range z.ready(service) {
		if headless(service) && one.host() == host {
			addresses = append(addresses, one.address.IP)
		}
	}
	return hosts(name, kind, addresses...), len(addresses) > 0
}

// ports: SRV records, with a target per pod for a headless service and the service itself otherwise.
func (z *zone) ports(name string, service *v1.Service, port, protocol string, kind uint16) ([]dns.RR, bool) {
	if !strings.HasPrefix(port, "_") || !strings.HasPrefix(protocol, "_") {
		return nil, false
	}
	base := service.Name + "." + service.Namespace + ".svc." + z.domain
	matches := func(have string, number string) bool {
		return strings.EqualFold("_"+have, port) && strings.EqualFold("_"+number, protocol)
	}
	var records []dns.RR
	add := func(target string, number int32) {
		records = append(records, &dns.SRV{
			Hdr: header(name, dns.TypeSRV), Weight: 100, Port: uint16(number), Target: target,
		})
	}
	if headless(service) {
		for _, one := range z.ready(service) {
			for _, candidate := range one.ports {
				if matches(candidate.Name, string(candidate.Protocol)) {
					add(one.host()+"."+base, candidate.Port)
				}
			}
		}
	} else {
		for _, candidate := range service.Spec.Ports {
			if matches(candidate.Name, string(candidate.Protocol)) {
				add(base, candidate.Port)
			}
		}
	}
	if kind != dns.TypeSRV {
		return nil, len(records) > 0
	}
	return records, len(records) > 0
}

type readyEndpoint struct {
	address v1.EndpointAddress
	ports   []v1.EndpointPort
}

func (e readyEndpoint) host() string {
	if e.address.Hostname != "" {
		return strings.ToLower(e.address.Hostname)
	}
	return strings.NewReplacer(".", "-", ":", "-").Replace(e.address.IP)
}

// ready: the pods behind a service in a fixed order; unready ones too where the service publishes them.
func (z *zone) ready(service *v1.Service) []readyEndpoint {
	endpoints, err := z.endpoints.Endpoints(service.Namespace).Get(service.Name)
	if err != nil {
		return nil
	}
	var found []readyEndpoint
	for _, subset := range endpoints.Subsets {
		for _, address := range subset.Addresses {
			found = append(found, readyEndpoint{address, subset.Ports})
		}
		if service.Spec.PublishNotReadyAddresses {
			for _, address := range subset.NotReadyAddresses {
				found = append(found, readyEndpoint{address, subset.Ports})
			}
		}
	}
	sort.Slice(found, func(a, b int) bool { return found[a].address.IP < found[b].address.IP })
	return found
}

func (z *zone) reverse(name, address string, kind uint16) ([]dns.RR, bool) {
	found, err := z.byIP.ByIndex(byClusterIP, address)
	if err != nil || len(found) == 0 {
		return nil, false
	}
	service, ok := found[0].(*v1.Service)
	if !ok || kind != dns.TypePTR {
		return nil, ok
	}
	target := service.Name + "." + service.Namespace + ".svc." + z.domain
	return []dns.RR{&dns.PTR{Hdr: header(name, dns.TypePTR), Ptr: target}}, true
}

// podAddress: 10-244-1-5.NAMESPACE.pod.DOMAIN stands for the address that it spells.
func podAddress(name, label string, kind uint16) ([]dns.RR, bool) {
	address := net.ParseIP(strings.ReplaceAll(label, "-", "."))
	if address == nil {
		return nil, false
	}
	return hosts(name, kind, address.String()), true
}

// reverseAddress: the IPv4 address of an in-addr.arpa name, or nothing.
func reverseAddress(name string) string {
	const suffix = ".in-addr.arpa."
	if !strings.HasSuffix(name, suffix) {
		return ""
	}
	parts := strings.Split(strings.TrimSuffix(name, suffix), ".")
	if len(parts) != 4 {
		return ""
	}
	address := net.ParseIP(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
	if address == nil {
		return ""
	}
	return address.String()
}

func hosts(name string, kind uint16, addresses ...string) []dns.RR {
	var records []dns.RR
	for _, text := range addresses {
		address := net.ParseIP(text)
		if v4 := address.To4(); v4 != nil && kind == dns.TypeA {
			records = append(records, &dns.A{Hdr: header(name, dns.TypeA), A: v4})
		} else if v4 == nil && address != nil && kind == dns.TypeAAAA {
			records = append(records, &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: address})
		}
	}
	return records
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}
