"""What does everything else stand on? Errors, units, paths, files, locks, progress, and the ports to the host."""
