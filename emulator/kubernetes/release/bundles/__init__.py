"""What bundles are as files: read with bounds, signed and checked."""
