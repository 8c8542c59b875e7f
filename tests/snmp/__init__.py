"""A black-box check of an IF-MIB agent, which shares no code with ``probe``."""

from tests.snmp import interfaces, operations
from tests.snmp.checks import CHECKS, broken
from tests.snmp.manager import Manager, over_udp

__all__ = ["CHECKS", "Manager", "broken", "interfaces", "operations", "over_udp"]
