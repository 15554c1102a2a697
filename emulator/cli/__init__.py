"""The command line: one file per verb. A verb parses, calls a use case and prints; it holds no logic."""
