"""A black-box check of an IF-MIB agent, which shares no code with ``probe``."""

from tests.support.snmp import interfaces, operations
from tests.support.snmp.checks import CHECKS, broken
from tests.support.snmp.manager import Manager, over_udp

__all__ = ["CHECKS", "Manager", "broken", "interfaces", "operations", "over_udp"]
