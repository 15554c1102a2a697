"""Do the values fit together? Checks over the lab file alone, without a host."""
