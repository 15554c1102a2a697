"""How is a Kubernetes cluster configured? Names, addresses and settings, pure."""
