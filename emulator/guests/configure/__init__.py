"""How does a playbook run, and what does it report?"""
