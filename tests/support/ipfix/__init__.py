"""Messages and sessions of IPFIX and NetFlow v9."""
