"""What does the lab file ask for, and is it valid? `cluster.yaml` read, checked and turned into frozen types."""
