"""What is metered in a lab: the probe or its parts, at work beside actors that tests direct."""
