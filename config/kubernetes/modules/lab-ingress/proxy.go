package main

import (
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// All connections together: each has a goroutine or two and their buffers.
	connections = 256
	headerBytes = 64 * 1024
)

type chosen struct{}

// serve answers requests for what Ingresses say, until it fails.
func serve(address string, table *atomic.Pointer[routes]) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: handler(table),
		// A client that sends nothing, or reads nothing for a while, keeps its place from others.
		ReadHeaderTimeout: time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    headerBytes,
	}
	return server.Serve(&bounded{Listener: listener, free: make(chan struct{}, connections)})
}

func handler(table *atomic.Pointer[routes]) http.Handler {
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			to, _ := r.In.Context().Value(chosen{}).(*url.URL)
			r.SetURL(to)
			r.Out.Host = r.In.Host
			aliases(r.Out.Header)
			r.SetXForwarded()
		},
		Transport: &http.Transport{
			// Patient with pods on an emulated CPU.
			DialContext:         (&net.Dialer{Timeout: time.Minute}).DialContext,
			MaxIdleConns:        64,
			MaxIdleConnsPerHost: 8,
			IdleConnTimeout:     30 * time.Second,
			DisableCompression:  true,
			// Of what a pod answers, too.
			MaxResponseHeaderBytes: headerBytes,
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			log.Printf("%q: %v", r.Host, err)
			http.Error(w, "the service does not answer: look for its pods with kubectl get endpointslices", http.StatusBadGateway)
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		found := (*table.Load()).find(r.Host, r.URL.Path)
		switch {
		case r.Method == http.MethodConnect, found == nil:
			http.Error(w, "no Ingress of the class "+class+" has this host and path", http.StatusNotFound)
		case found.target == nil:
			http.Error(w, "the Ingress names a service or port that is not there", http.StatusServiceUnavailable)
		default:
			forward.ServeHTTP(w, r.WithContext(contextWith(r, found.target)))
		}
	})
}

// aliases takes away what many programs read as X-Forwarded-For and the like, which is the proxy's to say.
func aliases(header http.Header) {
	for name := range header {
		plain := strings.ReplaceAll(strings.ToLower(name), "_", "-")
		if strings.Contains(name, "_") && (plain == "forwarded" || strings.HasPrefix(plain, "x-forwarded-") || plain == "x-real-ip") {
			delete(header, name)
		}
	}
	delete(header, "X-Real-Ip")
}

// bounded takes so many connections at a time; the others wait in the kernel.
type bounded struct {
	net.Listener
	free chan struct{}
}

func (b *bounded) Accept() (net.Conn, error) {
	b.free <- struct{}{}
	conn, err := b.Listener.Accept()
	if err != nil {
		<-b.free
		return nil, err
	}
	return &counted{Conn: conn, free: b.free}, nil
}

type counted struct {
	net.Conn
	free   chan struct{}
	closed atomic.Bool
}

func (c *counted) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		<-c.free
	}
	return c.Conn.Close()
}
