"""What would the kernel show of these GPUs? A simulated /sys whose files act when they are written."""
