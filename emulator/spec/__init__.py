"""The request: `cluster.yaml` loaded, judged and turned into frozen types."""
