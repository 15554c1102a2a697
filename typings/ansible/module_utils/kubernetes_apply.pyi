from kubernetes_apply import ClusterError, Key, Object, apply, kubectl

__all__ = ["ClusterError", "Key", "Object", "apply", "kubectl"]
