"""How many nodes boot at once?"""
