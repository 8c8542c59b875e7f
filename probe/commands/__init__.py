"""Declares the subcommands of ``sockflow`` and their flags, one file for each."""
