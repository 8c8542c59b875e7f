"""Measurements behind the figures in docs/measured.md: ``make bench``."""
