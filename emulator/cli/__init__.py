"""What does the user type and see? One file per verb: parse, call, print; no logic."""
