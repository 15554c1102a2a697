"""Who may log in to a lab: users, their roles and their ssh certificates. Pure."""
