"""Where do the programs of Kubernetes come from? Releases built, fetched, bundled and checked."""
