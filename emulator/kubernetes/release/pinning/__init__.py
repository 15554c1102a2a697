"""Which digest a name of upstream had when this host first fetched it."""
