"""What stands in for the host in tests and in labs without GPUs? The same rules, no hardware."""
