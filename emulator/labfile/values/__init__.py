"""How are values written that have a notation of their own? Slurm's host lists and durations."""
