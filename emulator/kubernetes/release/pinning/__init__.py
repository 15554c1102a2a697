"""Does a name of upstream still mean what it did when this host first fetched it?"""
