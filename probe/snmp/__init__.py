"""An SNMP agent that serves this host's interfaces as IF-MIB (RFC 2863) with container names.

The agent runs in a process of its own. The probe binds the socket, starts the process, and sends it
which container is behind which interface. The process reads counters from rtnetlink itself, so a
walk through thousands of rows never delays metering. ``responder`` alone answers versions 1 and 2c.
For version 3, pysnmp's engine does the security models, and the same ``responder`` answers.
"""
