"""An SNMP agent for the interfaces of this host, in a process of its own: IF-MIB (RFC 2863) with
the names of containers.

The parent binds the socket, starts the process, and tells it who is behind which interface. The
process reads counters from rtnetlink by itself, so a walk through thousands of rows never holds up
metering. Versions 1 and 2c are answered by ``responder`` alone; version 3 by pysnmp's engine, which
has the security models, with the same ``responder`` behind it.
"""
