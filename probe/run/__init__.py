"""Runs the probe: opens and wires its parts, drives its loop, and makes its figures."""
