"""What is done inside running guests? ssh, inventories, playbooks and probes."""
