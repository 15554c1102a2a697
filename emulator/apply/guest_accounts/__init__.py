"""Which guest's QEMU runs as which account?"""
