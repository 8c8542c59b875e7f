"""The error hierarchy: what stops the probe with one line and exit status 2, and their bytes."""


class SockflowError(Exception):
    """Something the user can act on; its text says what to do. The CLI exits with status 2."""


class ConfigError(SockflowError):
    """A flag, configuration file, template file or destination that cannot be used."""


class KernelError(SockflowError):
    """A privilege, kernel feature or kernel object that the eBPF collector needs is missing."""


class MeteringError(SockflowError):
    """Metering broke while it ran, or nobody is left to tell of it. What was metered before has
    been given to the destinations."""


class DecodeError(Exception):
    """Octets that are not a valid message: counted by the Collecting Process, never fatal."""
