"""What is said of snapshots."""
