from kubeadm_reset import RECORD, NodeError, ctr, has_remains, reset, run

__all__ = ["RECORD", "NodeError", "ctr", "has_remains", "reset", "run"]
