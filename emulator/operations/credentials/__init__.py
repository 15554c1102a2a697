"""How do people get in, and how are secrets changed?"""
