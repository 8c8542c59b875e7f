"""Defines the errors that end the probe with one line and exit status 2, and DecodeError."""


class SockflowError(Exception):
    """An error that the user can act on. Its text says how; the CLI exits with status 2."""


class ConfigError(SockflowError):
    """An error in a flag, configuration file, template file or destination."""


class KernelError(SockflowError):
    """The lack of a privilege, kernel feature or kernel object that a collector needs."""


class MeteringError(SockflowError):
    """An error that ended metering, or the end of all outputs.

    Everything metered before has been given to the destinations.
    """


class DecodeError(Exception):
    """An error in the octets of a message. The Collecting Process counts it and goes on."""
