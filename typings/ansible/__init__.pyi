"""The parts of Ansible that the playbooks' modules and their tests use. Ansible itself comes without types."""
