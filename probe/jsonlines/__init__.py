"""Flows, events, sockets and counters as lines of JSON, to files and to Kafka."""
