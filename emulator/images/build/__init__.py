"""How does a recipe become an image?"""
