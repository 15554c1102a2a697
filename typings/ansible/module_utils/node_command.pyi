from node_command import NodeStateError, run

__all__ = ["NodeStateError", "run"]
