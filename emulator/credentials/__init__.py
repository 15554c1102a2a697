"""Who may get in, and with what? Users, certificate authorities, and secrets that are rotated."""
