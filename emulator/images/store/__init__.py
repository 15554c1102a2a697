"""Which images are there, and which one is used? Content-addressed builds, pointers and tags."""
