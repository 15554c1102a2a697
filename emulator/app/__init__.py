"""The use cases that the verbs call. They decide; adapters and handlers do."""
