"""How is a result shown? Text, tables, live progress."""
