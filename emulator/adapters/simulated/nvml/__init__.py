"""What would NVML answer? A library under pynvml, on an engine that enforces the hardware's rules."""
