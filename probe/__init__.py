"""Sockflow: a container-aware IPFIX exporter probe that meters flows at the sockets."""

__version__ = "0.1.0"
