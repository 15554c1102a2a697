"""What does the program do inside running guests? ssh, inventories, playbooks and probes."""
