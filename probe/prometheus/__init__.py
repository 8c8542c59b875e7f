"""What Prometheus scrapes: interfaces, containers, and how the probe itself does.

The loop's thread takes a ``Snapshot`` when somebody scrapes, which is plain copies; families and
their text are made of it in a thread of the server. Needs the package ``prometheus-client``, and
imports it in ``families``, ``texts`` and ``server`` only.
"""
