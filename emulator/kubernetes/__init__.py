"""Which Kubernetes does a lab get, and where does it come from?"""
