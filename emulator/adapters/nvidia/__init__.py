"""How do we talk to NVIDIA GPUs? NVML, SR-IOV, both vGPU frameworks, and passthrough."""
