"""What has to change, in which order, and why? Pure: nothing here touches the host."""
