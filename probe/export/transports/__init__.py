"""Ways for messages to leave: UDP, TCP, TLS, files and lines of text."""
