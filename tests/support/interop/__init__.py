"""Collectors and libraries of others, and the flows that all of them are asked for."""
