"""Adds to metered records what metering does not know: translations of addresses, and names."""
