"""How is a release compiled from Go modules? Which programs, the toolchain, the compiler, and what comes of it."""
