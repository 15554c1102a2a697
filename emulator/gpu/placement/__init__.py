"""Which slice goes on which GPU, and if none fits, why not? An exact solver, pure."""
