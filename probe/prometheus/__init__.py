"""Serves Prometheus with the metrics of interfaces, containers and the probe itself.

For each scrape, the loop's thread takes a ``Snapshot``, which consists of plain copies. A thread of
the server turns it into families of metrics and their text. Only ``families`` and ``server`` import
the package ``prometheus-client``, which they need.
"""
