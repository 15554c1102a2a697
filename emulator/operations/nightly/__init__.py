"""What does a nightly rebuild do, keep and report?"""
