"""What is added to records after they were metered: translations of addresses, and names."""
