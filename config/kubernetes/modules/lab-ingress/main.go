// lab-ingress: what answers for a lab's pods outside the cluster. It gives services of type LoadBalancer the addresses of
// the nodes, where kube-proxy takes their packets (balancer.go), and serves Ingresses over HTTP (routes.go, proxy.go).
// It reads no secrets, and writes the status of services and Ingresses alone.
package main

import (
	"context"
	"flag"
	"log"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	class = "lab"
	// Many changes come at once, and each look is at everything.
	pause = 2 * time.Second
	// Nothing is missed without it; what another program wrote into a status is put right then.
	resync = 30 * time.Minute
)

var known = func() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{core.AddToScheme, networking.AddToScheme} {
		if err := add(scheme); err != nil {
			log.Fatal(err)
		}
	}
	return scheme
}()

// cluster is what the API server has of services, Ingresses and nodes, and the way to write their status.
type cluster struct {
	core, networking           rest.Interface
	services, ingresses, nodes cache.Store
	changed                    chan struct{}
	controllers                []cache.Controller
}

func client(config *rest.Config, group schema.GroupVersion, path string) (rest.Interface, error) {
	own := rest.CopyConfig(config)
	own.GroupVersion = &group
	own.APIPath = path
	own.NegotiatedSerializer = serializer.NewCodecFactory(known).WithoutConversion()
	// Half the work of JSON for both sides.
	own.ContentType = "application/vnd.kubernetes.protobuf"
	own.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	own.UserAgent = "lab-ingress"
	return rest.RESTClientFor(own)
}

func (c *cluster) watch(from rest.Interface, resource string, kind runtime.Object) cache.Store {
	wake := func() {
		select {
		case c.changed <- struct{}{}:
		default: // a look is due already
		}
	}
	store, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(from, resource, "", fields.Everything()),
		ObjectType:    kind,
		ResyncPeriod:  resync,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { wake() },
			UpdateFunc: func(any, any) { wake() },
			DeleteFunc: func(any) { wake() },
		},
	})
	c.controllers = append(c.controllers, controller)
	return store
}

func connect(config *rest.Config) (*cluster, error) {
	c := &cluster{changed: make(chan struct{}, 1)}
	var err error
	if c.core, err = client(config, core.SchemeGroupVersion, "/api"); err != nil {
		return nil, err
	}
	if c.networking, err = client(config, networking.SchemeGroupVersion, "/apis"); err != nil {
		return nil, err
	}
	c.services = c.watch(c.core, "services", &core.Service{})
	c.ingresses = c.watch(c.networking, "ingresses", &networking.Ingress{})
	c.nodes = c.watch(c.core, "nodes", &core.Node{})
	return c, nil
}

// addresses are those that the cluster knows its nodes by, in a fixed order.
func (c *cluster) addresses() []string {
	found := []string{}
	for _, node := range all[core.Node](c.nodes) {
		for _, address := range node.Status.Addresses {
			if address.Type == core.NodeInternalIP && node.DeletionTimestamp == nil {
				found = append(found, address.Address)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func all[T any](store cache.Store) []*T {
	found := []*T{}
	for _, object := range store.List() {
		if each, ok := object.(*T); ok {
			found = append(found, each)
		}
	}
	return found
}

func (c *cluster) run(ctx context.Context, table *atomic.Pointer[routes], ready *atomic.Bool) {
	synced := []cache.InformerSynced{}
	for _, controller := range c.controllers {
		go controller.RunWithContext(ctx)
		synced = append(synced, controller.HasSynced)
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return
	}
	for ctx.Err() == nil {
		made := newRoutes(all[networking.Ingress](c.ingresses), all[core.Service](c.services))
		table.Store(&made)
		ready.Store(true)
		again := c.write(ctx)
		wait := time.After(pause)
		select {
		case <-ctx.Done():
			return
		case <-wait:
		}
		if again {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-c.changed:
		}
	}
}

func main() {
	listen := flag.String("listen", ":8080", "where Ingresses are served")
	health := flag.String("health", ":8081", "where /healthz answers")
	server := flag.String("server", "", "URL of the API server; without it, that of the cluster that this runs in")
	token := flag.String("token-file", "", "with -server: file of the token")
	authority := flag.String("ca-file", "", "with -server: file of the authority")
	flag.Parse()

	config := &rest.Config{Host: *server, BearerTokenFile: *token, TLSClientConfig: rest.TLSClientConfig{CAFile: *authority}}
	if *server == "" {
		var err error
		if config, err = rest.InClusterConfig(); err != nil {
			log.Fatal(err)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := connect(config)
	if err != nil {
		log.Fatal(err)
	}
	var table atomic.Pointer[routes]
	table.Store(&routes{})
	var ready atomic.Bool
	go func() { log.Fatal(http.ListenAndServe(*health, healthy(&ready))) }()
	go func() { log.Fatal(serve(*listen, &table)) }()
	c.run(ctx, &table, &ready)
}

func healthy(ready *atomic.Bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			http.NotFound(w, r)
		} else if !ready.Load() {
			http.Error(w, "the API server has not answered yet", http.StatusServiceUnavailable)
		}
	})
}
