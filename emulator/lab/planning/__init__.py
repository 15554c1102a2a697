"""What would change? The host looked at and compared with the file; nothing is changed."""
