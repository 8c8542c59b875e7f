"""Tests IANA's registry as shipped against Wireshark's."""

from __future__ import annotations

import re
import subprocess

from probe.mapping import load_registry

REGISTRY = load_registry()


def test_the_list_of_wireshark_agrees() -> None:
    done = subprocess.run(["tshark", "-G", "values"], capture_output=True, text=True, check=True)
    found = re.findall(r"^V\tcflow\.template_ipfix_field_type\t(\d+)\t(.+)$", done.stdout, re.M)
    listed = {int(number): name for number, name in found if int(number) <= 491}
    assert len(listed) > 400
    withdrawn = {number for number, name in listed.items() if name.startswith("deprecated")}
    assert set(listed) - set(REGISTRY) == withdrawn
    for number in range(216, 492):  # lower ones have NetFlow's names
        if number in listed and number not in (*withdrawn, 313, 314):
            assert REGISTRY[number].name == listed[number]
