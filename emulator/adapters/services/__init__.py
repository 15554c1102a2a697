"""How do services become processes, and how does a command reach the supervisor that keeps them?"""
