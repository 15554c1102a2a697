"""How does Packer build an image, and how does its disk come into the store?"""
