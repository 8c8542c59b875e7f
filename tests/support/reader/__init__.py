"""A second, strict reader of IPFIX and NetFlow v9, which shares no code with ``probe``."""

from tests.support.reader.reader import StrictReader
from tests.support.reader.rules import Severity

#: How late a message may come where tests run beside much else.
ON_A_BUSY_MACHINE_S = 120.0

__all__ = ["ON_A_BUSY_MACHINE_S", "Severity", "StrictReader"]
