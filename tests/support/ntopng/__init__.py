"""What ntopng reads of the probe."""
