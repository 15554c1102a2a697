"""What may be relied on, where other accounts can write, and processes come and go?"""
