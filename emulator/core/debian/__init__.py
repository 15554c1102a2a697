"""Which Debian do guests have?"""
