"""What does the file say, and where? From bytes to a tree that knows line and column."""
