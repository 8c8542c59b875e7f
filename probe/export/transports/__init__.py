"""Transports of messages and lines: UDP, TCP, TLS, and files."""
