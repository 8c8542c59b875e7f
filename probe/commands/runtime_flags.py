"""Adds the flags of Docker and Kubernetes, for all subcommands that name containers."""

from __future__ import annotations

import argparse


def add_runtimes(run: argparse.ArgumentParser) -> None:
    """Adds the flags that say where the names of containers come from."""
    run.add_argument(
        "--docker", nargs="?", const=True, metavar="URL",
        help="names of containers from Docker's API, unix:///var/run/docker.sock or DOCKER_HOST "
        "unless a URL is given (default: if the package docker is there)",
    )  # fmt: skip
    run.add_argument("--no-docker", dest="docker", action="store_false")
    run.add_argument(
        "--kubernetes", nargs="?", const=True, metavar="KUBECONFIG",
        help="names of Pods from the Kubernetes API, as the Pod that this is in or the kubeconfig "
        "file may ask it (default: in a Pod that may)",
    )  # fmt: skip
    run.add_argument("--no-kubernetes", dest="kubernetes", action="store_false")
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
