"""What would the kernel show of these GPUs? A made-up /sys whose files act when they are written."""
