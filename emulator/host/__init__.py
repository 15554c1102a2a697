"""What does this machine have, and is it fit for labs?"""
