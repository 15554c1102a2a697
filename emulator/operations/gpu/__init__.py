"""How are GPUs shown, mapped to nodes and given back?"""
