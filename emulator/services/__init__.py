"""What stays running after a command has ended? The programs of a lab's services, and the way in to its supervisor."""
