// pause holds the namespaces of a pod: it does nothing until a signal stops it, and collects orphaned children
// where the pod shares its process namespace.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for number := range signals {
		if number != syscall.SIGCHLD {
			return
		}
		for {
			// Several children may have ended behind one signal.
			child, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if child <= 0 || (err != nil && err != syscall.EINTR) {
				break
			}
		}
	}
}
