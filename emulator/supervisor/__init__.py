"""What keeps a lab's services running? Their records, when they start and restart, and the loop of the supervisor."""
