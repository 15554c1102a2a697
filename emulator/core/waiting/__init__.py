"""How long is waited for something, and when it is given up: by what the host can, and by whether it goes on."""
