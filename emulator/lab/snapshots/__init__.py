"""How does a lab go back to an earlier state?"""
