"""How do we talk to the host? Programs, packet filter, disks, units, clocks and kernel files."""
