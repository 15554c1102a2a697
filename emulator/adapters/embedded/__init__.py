"""How does a lab get a libvirtd of its own? Namespaces, processes, and their end."""
