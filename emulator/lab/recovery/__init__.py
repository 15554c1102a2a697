"""What if records are lost or foreign? Finds what belongs to a lab, and leaves alone what does not."""
