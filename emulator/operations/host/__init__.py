"""How is this machine checked, prepared and restored?"""
