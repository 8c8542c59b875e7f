"""Checks Templates against RFC 7011, 7012 and 5103, and for what collectors misread."""

from __future__ import annotations

from tests.support.reader import registry
from tests.support.reader.registry import REVERSE
from tests.support.reader.values import Say
from tests.support.reader.wire import VARIABLE, Field, Layout

_COUNTERS = {1, 2, 23, 24, 85, 86}
_TCP_CONTROL_BITS, _PADDING = 6, 210
_ADDRESSES = ({8, 27}, {12, 28})
_PRIVATE = 32768
_SCOPES = range(1, 6)


def scope_name(field: Field) -> str:
    return f"scope/{field.number}"


def is_scope9(layout: Layout, index: int, version: int) -> bool:
    """Returns True if the field has a scope type of NetFlow v9 instead of an element."""
    return version == 9 and layout.is_options and index < layout.scopes


def check(layout: Layout, version: int, say: Say) -> None:
    where = f"Template {layout.number}"
    for index, field in enumerate(layout.fields):
        if is_scope9(layout, index, version):
            if field.number not in _SCOPES:
                say("flowset.scope", f"{where}: {field.number}")
        elif version == 9 and field.number >= _PRIVATE:
            say("advice.private", f"{where}: {field.number}")
        elif field.enterprise in (0, REVERSE):
            _check_element(field, where, say)
    elements = layout.fields[layout.scopes if version == 9 else 0 :]
    _check_together(elements, where, say)
    _advise(layout, version, say)


def _check_element(field: Field, where: str, say: Say) -> None:
    kind, name = registry.type_of(field), registry.name_of(field)
    if kind is None:
        return say("template.unknown", f"{where}: {name}")
    check_length(kind, field, f"{where}: {name}", say, "template.length", "template.variable")
    if field.enterprise == REVERSE and field.number in registry.IRREVERSIBLE:
        say("biflow.irreversible", f"{where}: {name}")
    return None


def check_length(kind: str, field: Field, where: str, say: Say, rule: str, varying: str) -> None:
    if field.length == VARIABLE:
        if not registry.may_vary(kind):
            say(varying, f"{where} is {kind}")
    elif not registry.is_legal(kind, field.length):
        say(rule, f"{where} is {kind} and has {field.length} octets")


def _check_together(fields: tuple[Field, ...], where: str, say: Say) -> None:
    seen = [(one.enterprise, one.number) for one in fields if one.number != _PADDING]
    for one in {one for one in seen if seen.count(one) > 1}:
        say("template.twice", f"{where}: {one}")
    own = {number for enterprise, number in seen if not enterprise}
    if any(both <= own for both in _ADDRESSES):
        say("template.families", where)
    for enterprise, number in seen:
        if enterprise == REVERSE and number not in own:
            say("biflow.forward", f"{where}: the reverse of {number}")


def _advise(layout: Layout, version: int, say: Say) -> None:
    where = f"Template {layout.number}"
    for field in layout.fields[layout.scopes if version == 9 else 0 :]:
        if field.enterprise:
            continue
        if field.number == _TCP_CONTROL_BITS and field.length == 2 and version == 10:
            say("advice.tcp-flags", where)
        if field.number in _COUNTERS and field.length not in (4, 8):
            say("advice.counter", f"{where}: {registry.name_of(field)}, {field.length} octets")
    if layout.is_options and sum(one.length == VARIABLE for one in layout.fields) > 1:
        say("advice.strings", where)
