// cluster-dns answers DNS for a Kubernetes cluster where CoreDNS's image cannot be had: names of services and pods
// as the Kubernetes DNS specification 1.1.0 says, everything else from the resolvers of the node.
//
// It watches services and endpoints, keeps no state of its own, and serves /health and /ready over HTTP.
package main

import (
	"flag"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	domain := flag.String("domain", "cluster.local", "domain of the cluster")
	listen := flag.String("listen", ":53", "address of the DNS server, UDP and TCP")
	status := flag.String("status", ":8080", "address of /health and /ready")
	kubeconfig := flag.String("kubeconfig", "", "file; empty means the pod's service account")
	resolvers := flag.String("resolv-conf", "/etc/resolv.conf", "file that names the resolvers for other domains")
	flag.Parse()

	client, err := connect(*kubeconfig)
	if err != nil {
		log.Fatalf("no way to the API server: %v", err)
	}
	waitForServer(client)
	factory := informers.NewSharedInformerFactory(client, 0)
	services := factory.Core().V1().Services()
	endpoints := factory.Core().V1().Endpoints()
	if err := services.Informer().AddIndexers(cache.Indexers{byClusterIP: clusterIPs}); err != nil {
		log.Fatal(err)
	}
	zone := newZone(*domain, services.Lister(), endpoints.Lister(), services.Informer().GetIndexer())
	handler := &server{zone: zone, forward: newForwarder(*resolvers)}

	stop := make(chan struct{})
	synced := []cache.InformerSynced{services.Informer().HasSynced, endpoints.Informer().HasSynced}
	factory.Start(stop)
	go serveStatus(*status, synced)
	if !cache.WaitForCacheSync(stop, synced...) {
		log.Fatal("the API server's services and endpoints could not be read")
	}
	serveDNS(*listen, handler)
	close(stop)
}

func connect(kubeconfig string) (*kubernetes.Clientset, error) {
	var config *rest.Config
	var err error
	if kubeconfig == "" {
		config, err = rest.InClusterConfig()
	} else {
		config, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	if err != nil {
		return nil, err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	return kubernetes.NewForConfig(config)
}

// waitForServer returns when the API server answers. In a cluster that is coming up, kube-proxy may be minutes away;
// informers would then wait longer and longer between their tries.
func waitForServer(client *kubernetes.Clientset) {
	for {
		_, err := client.Discovery().ServerVersion()
		if err == nil {
			return
		}
		log.Printf("waiting for the API server: %v", err)
		time.Sleep(time.Second)
	}
}

// serveDNS answers until the process gets a signal to stop, and then finishes the queries under way.
func serveDNS(listen string, handler dns.Handler) {
	servers := []*dns.Server{
		{Addr: listen, Net: "udp", Handler: handler},
		{Addr: listen, Net: "tcp", Handler: handler},
	}
	for _, one := range servers {
		go func(one *dns.Server) {
			if err := one.ListenAndServe(); err != nil {
				log.Fatalf("cannot serve DNS over %s on %s: %v", one.Net, one.Addr, err)
			}
		}(one)
	}
	log.Printf("serving DNS on %s", listen)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	<-signals
	for _, one := range servers {
		_ = one.Shutdown()
	}
}

// serveStatus: /health says that the process runs, /ready that it knows the cluster's services.
func serveStatus(listen string, synced []cache.InformerSynced) {
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		for _, done := range synced {
			if !done() {
				http.Error(w, "the services are not known yet", http.StatusServiceUnavailable)
				return
			}
		}
		w.WriteHeader(http.StatusOK)
	})
	server := &http.Server{Addr: listen, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	log.Fatal(server.ListenAndServe())
}
