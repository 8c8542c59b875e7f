"""ntopng over ZMQ: flows as TLV records, and topics of JSON."""
