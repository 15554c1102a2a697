"""How is the file of a bundle read, signed and checked?"""
