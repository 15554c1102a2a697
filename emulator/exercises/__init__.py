"""What does an exercise ask of a student, and has it been solved?"""
