from node_units import Unit, converge_units

__all__ = ["Unit", "converge_units"]
