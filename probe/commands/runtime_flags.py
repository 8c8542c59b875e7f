"""Adds the flags of Docker and Kubernetes, for all subcommands that name containers."""

from __future__ import annotations

import argparse

from probe.owners.runtimes import RUNTIMES


def add_runtimes(run: argparse.ArgumentParser) -> None:
    """Adds the flags that say where the names of containers come from."""
    add_switches(run)
    run.add_argument(
        "--kubernetes-node", metavar="NAME",
        help="the name of this node (default: NODE_NAME of the environment, else the host's name)",
    )  # fmt: skip
    run.add_argument(
        "--kubernetes-labels", action="append", metavar="KEY",
        help="tell this label of Pods, or those that begin with KEY where a * is behind it; "
        "repeatable",
    )  # fmt: skip
    run.add_argument(
        "--kubernetes-remote", action=argparse.BooleanOptionalAction,
        help="name Pods, Services and nodes of the whole cluster at the other end (default: no)",
    )  # fmt: skip
    run.add_argument(
        "--kubernetes-cluster", metavar="NAME", help="tell Pods and nodes with this name of theirs",
    )  # fmt: skip


def add_switches(parser: argparse.ArgumentParser) -> None:
    """Adds ``--NAME [PLACE]`` and ``--no-NAME`` for each runtime."""
    for kind in RUNTIMES:
        parser.add_argument(
            f"--{kind.name}", nargs="?", const=True, metavar=kind.place, help=kind.help
        )
        parser.add_argument(
            f"--no-{kind.name}",
            dest=kind.name,
            action="store_false",
            help=f"asks {kind.title} for no names",
        )
