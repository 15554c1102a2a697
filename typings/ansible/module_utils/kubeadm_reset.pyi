from kubeadm_reset import RECORD, NodeError, has_remains, reset, run

__all__ = ["RECORD", "NodeError", "has_remains", "reset", "run"]
