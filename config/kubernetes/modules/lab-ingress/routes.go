package main

import (
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
)

// route leads requests for a path of a host to the address of a service in the cluster.
type route struct {
	path   string
	exact  bool
	target *url.URL // nil: the Ingress names a service or port that is not there
}

// routes are those of each host, in the order in which they are tried. Hosts are in lower case; "*.example.org" stands for
// one label more, "" for every host.
type routes map[string][]route

// newRoutes reads all Ingresses of the class. Of two that say the same of one path, the older one holds, so that nobody
// takes a path from another by asking for it, too.
func newRoutes(ingresses []*networking.Ingress, services []*core.Service) routes {
	targets := map[string]*core.Service{}
	for _, service := range services {
		targets[service.Namespace+"/"+service.Name] = service
	}
	slices.SortFunc(ingresses, func(a, b *networking.Ingress) int {
		return older(&a.ObjectMeta, &b.ObjectMeta)
	})
	made, last := routes{}, routes{}
	for _, ingress := range ingresses {
		if !ours(ingress) {
			continue
		}
		at := func(backend *networking.IngressBackend) *url.URL { return target(targets, ingress.Namespace, backend) }
		for _, rule := range ingress.Spec.Rules {
			if rule.HTTP == nil {
				continue
			}
			host := strings.ToLower(rule.Host)
			for _, each := range rule.HTTP.Paths {
				exact := each.PathType != nil && *each.PathType == networking.PathTypeExact
				made[host] = append(made[host], route{rooted(each.Path), exact, at(&each.Backend)})
			}
		}
		if backend := ingress.Spec.DefaultBackend; backend != nil {
			last[""] = append(last[""], route{"/", false, at(backend)})
		}
	}
	for host, list := range made {
		// Stable: what is equally long stays in the order of age.
		slices.SortStableFunc(list, func(a, b route) int {
			if n := len(b.path) - len(a.path); n != 0 || a.exact == b.exact {
				return n
			}
			if a.exact {
				return -1
			}
			return 1
		})
		made[host] = list
	}
	made[""] = append(made[""], last[""]...)
	return made
}

func rooted(path string) string {
	if !strings.HasPrefix(path, "/") {
		return "/" + path
	}
	return path
}

func ours(ingress *networking.Ingress) bool {
	return ingress.DeletionTimestamp == nil && ingress.Spec.IngressClassName != nil && *ingress.Spec.IngressClassName == class
}

// target is a service of the Ingress' own namespace, by its address in the cluster: names are not followed, since a service
// of type ExternalName would lead to whatever its owner writes.
func target(services map[string]*core.Service, namespace string, backend *networking.IngressBackend) *url.URL {
	if backend.Service == nil {
		return nil
	}
	service := services[namespace+"/"+backend.Service.Name]
	if service == nil || service.Spec.Type == core.ServiceTypeExternalName {
		return nil
	}
	address := net.ParseIP(service.Spec.ClusterIP)
	if address == nil { // none, or not yet
		return nil
	}
	for _, port := range service.Spec.Ports {
		wanted := backend.Service.Port
		if port.Protocol == core.ProtocolTCP && (port.Port == wanted.Number || wanted.Name != "" && port.Name == wanted.Name) {
			return &url.URL{Scheme: "http", Host: net.JoinHostPort(address.String(), strconv.Itoa(int(port.Port)))}
		}
	}
	return nil
}

// find is the route of a request: of its host if that has one, else of the host's wildcard, else of every host.
func (r routes) find(host, path string) *route {
	host = strings.TrimSuffix(strings.ToLower(withoutPort(host)), ".")
	names := []string{host}
	if _, domain, ok := strings.Cut(host, "."); ok {
		names = append(names, "*."+domain)
	}
	for _, name := range append(names, "") {
		for number := range r[name] {
			if r[name][number].takes(path) {
				return &r[name][number]
			}
		}
	}
	return nil
}

func withoutPort(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return host
}

// takes compares whole elements of a path, as the Ingress API asks for: /a takes /a and /a/b, not /ab.
func (r *route) takes(path string) bool {
	if r.exact {
		return path == r.path
	}
	prefix := strings.TrimSuffix(r.path, "/")
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}
