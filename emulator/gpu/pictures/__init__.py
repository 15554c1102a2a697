"""What does a GPU look like when it is cut? Drawings as text and as SVG."""
