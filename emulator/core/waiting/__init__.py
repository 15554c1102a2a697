"""How long does the program wait for something, and when does it give up? By the host's pace, and by progress."""
