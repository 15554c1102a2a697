"""How are golden images managed?"""
