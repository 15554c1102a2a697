"""Does the lab work? Probes in the guests, and verdicts over what they bring back."""
