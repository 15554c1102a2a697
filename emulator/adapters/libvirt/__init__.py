"""How do we talk to libvirt? Domains and networks, as XML and through its binding."""
