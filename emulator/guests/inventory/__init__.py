"""What does Ansible know about a lab? Inventories, pure."""
