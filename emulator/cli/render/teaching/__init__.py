"""What classes and their exercises look like."""
