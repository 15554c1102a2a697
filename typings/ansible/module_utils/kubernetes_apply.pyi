from kubernetes_apply import ClusterError, Key, Object, apply, kubectl, served

__all__ = ["ClusterError", "Key", "Object", "apply", "kubectl", "served"]
