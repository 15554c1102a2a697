"""What a Kubernetes cluster of a lab is told: versions, configurations, names. Pure."""
