"""What if records are lost or foreign? Finding what belongs to a lab, and leaving alone what does not."""
