"""What would NVML answer? A library under pynvml, over an engine that enforces the rules of the hardware."""
