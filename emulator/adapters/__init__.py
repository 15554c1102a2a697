"""How do we talk to the outside? Translations of libvirt, NVML, sysfs and programs; they decide nothing."""
