"""Writes the owners of a flow's ends as a tree of host, parent and process."""

from __future__ import annotations

from typing import Any

from probe.flow.owner import Owner, OwnerTable
from probe.view.describe import (
    address_text,
    container_text,
    parent_text,
    process_text,
    to_flow,
    user_text,
)
from probe.view.text import ALL_COLUMNS, cells

_HEAD = tuple(name for name in ALL_COLUMNS if name not in ("process", "user", "container"))


def tree_lines(row: Any, owners: OwnerTable, node: str, now_s: float) -> list[str]:
    """Returns the tree of a row of LIVE_DTYPE. ``node`` is the name of this host."""
    proto, client, server, *others = cells(to_flow(row, owners), now_s, _HEAD)
    named = (f"{name} {text}" for name, text in zip(_HEAD[3:], others, strict=True) if text)
    lines = [", ".join([f"{proto} {client} > {server}", *named])]
    for end, branch, trunk in (("client", "├─ ", "│  "), ("server", "└─ ", "   ")):
        owner = owners[int(row[f"{end}_owner"])]
        host = f" on {owner.node.name or node}" if row[f"{end}_is_here"] else ""
        lines.append(f"{branch}{address_text(row, end)}{host}")
        lines += [trunk + line for line in _family(owner)]
    return lines


def _family(owner: Owner) -> list[str]:
    """Returns the lines of the parent, and of the process below it."""
    process, parent = process_text(owner), parent_text(owner)
    if not process:  # a Pod or a Service of another host
        container = container_text(owner)
        return [f"└─ container {container}"] if container else []
    named = (("user", user_text(owner)), ("container", container_text(owner)))
    process = ", ".join([process, *(f"{name} {text}" for name, text in named if text)])
    return [f"└─ {parent}", f"   └─ {process}"] if parent else [f"└─ {process}"]
