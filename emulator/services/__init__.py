"""What runs in the processes that stay after a command? The supervisor's process and the programs of services."""
