package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"slices"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const condition = "LabPorts"

// reserved are ports on which the nodes themselves serve: ssh, etcd, the API server, kubelet, the control plane, and node
// ports. kube-proxy takes packets before the node's own programs see them, so that a service there would cut them off.
var reserved = [][2]int32{{22, 22}, {2379, 2381}, {6443, 6443}, {9080, 9080}, {10240, 10299}, {30000, 32767}}

type port struct {
	protocol core.Protocol
	number   int32
}

// decide says for every service of type LoadBalancer why it gets no addresses; "" for one that gets them. The older of two
// services keeps a port that both ask for.
func decide(services []*core.Service) map[string]string {
	asking := slices.DeleteFunc(slices.Clone(services), func(s *core.Service) bool {
		return s.Spec.Type != core.ServiceTypeLoadBalancer || s.Spec.LoadBalancerClass != nil || s.DeletionTimestamp != nil
	})
	slices.SortFunc(asking, func(a, b *core.Service) int { return older(&a.ObjectMeta, &b.ObjectMeta) })
	taken, refused := map[port]string{}, map[string]string{}
	for _, service := range asking {
		key := service.Namespace + "/" + service.Name
		refused[key] = refusal(service, taken)
		if refused[key] != "" {
			continue
		}
		for _, each := range service.Spec.Ports {
			taken[port{each.Protocol, each.Port}] = key
		}
	}
	return refused
}

func refusal(service *core.Service, taken map[port]string) string {
	for _, each := range service.Spec.Ports {
		for _, span := range reserved {
			if span[0] <= each.Port && each.Port <= span[1] {
				return fmt.Sprintf("port %d is the nodes' own", each.Port)
			}
		}
		if taken[port{each.Protocol, each.Port}] != "" {
			// Not by whom: that may be in a namespace which the owner of this one cannot see.
			return fmt.Sprintf("port %d has an older service of type LoadBalancer", each.Port)
		}
	}
	return ""
}

func older(a, b *meta.ObjectMeta) int {
	if n := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); n != 0 {
		return n
	}
	if a.UID < b.UID {
		return -1
	} else if a.UID > b.UID {
		return 1
	}
	return 0
}

// write brings the status of services and Ingresses up to date, and says whether something has to be tried again.
func (c *cluster) write(ctx context.Context) (again bool) {
	addresses := c.addresses()
	for key, reason := range decide(all[core.Service](c.services)) {
		object, there, err := c.services.GetByKey(key)
		service, ok := object.(*core.Service)
		if err != nil || !there || !ok {
			continue
		}
		wanted := service.DeepCopy()
		wanted.Status.LoadBalancer.Ingress = nil
		if reason == "" {
			for _, address := range addresses {
				wanted.Status.LoadBalancer.Ingress = append(wanted.Status.LoadBalancer.Ingress, core.LoadBalancerIngress{IP: address})
			}
		}
		setCondition(wanted, reason)
		if sameService(&service.Status, &wanted.Status) {
			continue
		}
		again = failed(key, c.core.Put().Namespace(service.Namespace).Resource("services").Name(service.Name).
			SubResource("status").Body(wanted).Do(ctx).Error()) || again
	}
	for _, ingress := range all[networking.Ingress](c.ingresses) {
		if !ours(ingress) {
			continue
		}
		wanted := ingress.DeepCopy()
		wanted.Status.LoadBalancer.Ingress = nil
		for _, address := range addresses {
			wanted.Status.LoadBalancer.Ingress = append(wanted.Status.LoadBalancer.Ingress, networking.IngressLoadBalancerIngress{IP: address})
		}
		if equality.Semantic.DeepEqual(ingress.Status, wanted.Status) {
			continue
		}
		again = failed(ingress.Namespace+"/"+ingress.Name, c.networking.Put().Namespace(ingress.Namespace).
			Resource("ingresses").Name(ingress.Name).SubResource("status").Body(wanted).Do(ctx).Error()) || again
	}
	return again
}

func failed(key string, err error) bool {
	if err != nil {
		log.Printf("%s: %v", key, err)
	}
	return err != nil
}

// sameService leaves out what the API server adds by itself to an address (its mode).
func sameService(a, b *core.ServiceStatus) bool {
	of := func(status *core.ServiceStatus) []string {
		found := []string{}
		for _, each := range status.LoadBalancer.Ingress {
			found = append(found, each.IP)
		}
		return found
	}
	return slices.Equal(of(a), of(b)) && equality.Semantic.DeepEqual(a.Conditions, b.Conditions)
}

// setCondition says in a service's own words (kubectl describe, status.conditions) why it got no addresses.
func setCondition(service *core.Service, reason string) {
	before := service.Status.Conditions
	kept := slices.DeleteFunc(slices.Clone(before), func(each meta.Condition) bool { return each.Type == condition })
	if reason != "" {
		now := meta.Condition{
			Type: condition, Status: meta.ConditionFalse, Reason: "PortTaken", Message: reason,
			ObservedGeneration: service.Generation, LastTransitionTime: meta.Now(),
		}
		for _, each := range before {
			if each.Type == condition && each.Message == reason {
				now = each
			}
		}
		kept = append(kept, now)
	}
	if len(kept) == 0 {
		kept = nil
	}
	service.Status.Conditions = kept
}

func contextWith(r *http.Request, to *url.URL) context.Context {
	return context.WithValue(r.Context(), chosen{}, to)
}
