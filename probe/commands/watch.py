"""Runs the probe with a view and without destinations.

``sockflow flows`` and ``sockflow events`` do so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from probe.config import RunConfig
from probe.errors import MeteringError
from probe.flow.codes import EventKind
from probe.flow.filter import Choice, Rule
from probe.flow.owner import OwnerTable
from probe.log import say
from probe.run.loop import Loop
from probe.run.summary import lost_line, notice_line
from probe.run.wiring import open_probe
from probe.stop import StopSignals
from probe.view.event_views import Events, Listening, ListeningOnScreen
from probe.view.flow_views import (
    FlowsByLine,
    FlowsOnScreen,
    GroupsAtEnd,
    GroupsOnScreen,
    JsonFlows,
    View,
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request of the user for a view.

    ``by`` is one of groups.GROUPS or ''. ``order`` is one of order.FLOW_ORDERS, or with ``by`` one
    of groups.GROUP_ORDERS.
    """

    include: Sequence[Rule] = ()
    exclude: Sequence[Rule] = ()
    as_json: bool = False
    as_tree: bool = False
    listening: bool = False
    by: str = ""
    order: str = ""


def show_flows(config: RunConfig, request: Request) -> None:
    """Shows flows until a signal or for the duration. Raises SockflowError on failure."""
    _show(config, lambda owners: _flow_view(owners, request))


def show_events(config: RunConfig, request: Request, kinds: Collection[EventKind]) -> None:
    """Shows events until a signal or for the duration. Raises SockflowError on failure."""
    choice = Choice(request.include, request.exclude)
    _show(config, lambda owners: Events(owners, choice, sys.stdout, request.as_json, kinds))


def _show(config: RunConfig, make: Callable[[OwnerTable], View]) -> None:
    views: list[View] = []

    def make_view(owners: OwnerTable) -> list[View]:
        views.append(make(owners))
        return views

    probe = open_probe(config, make_sinks=make_view)
    (view,), (outlet,) = views, probe.exporter.outlets
    failure: MeteringError | None = None
    try:
        with StopSignals() as stop:
            try:
                for _ in Loop(probe, stop).steps(config.duration):
                    outlet.do(view.refresh)
            except MeteringError as error:
                failure = error
        outlet.do(view.end)
    finally:
        probe.close()
    figures = probe.figures()
    if noticed := notice_line(figures.notices):
        say(noticed)
    ended = f", ended by {outlet.part.error}" if outlet.part.error else ""
    say(f"{view.summary()} shown{ended}, {lost_line(figures.losses)}")
    if failure:
        raise failure


def _flow_view(owners: OwnerTable, asked: Request) -> View:
    choice, out = Choice(asked.include, asked.exclude), sys.stdout
    is_live = out.isatty() and not asked.as_json
    if asked.listening and is_live:
        return ListeningOnScreen(owners, choice, out)
    if asked.listening:
        return Listening(owners, choice, out, asked.as_json)
    if asked.by and is_live:
        return GroupsOnScreen(owners, choice, out, asked.order, asked.by)
    if asked.by:
        return GroupsAtEnd(owners, choice, out, asked.order, asked.by, asked.as_json)
    if asked.as_json:
        return JsonFlows(owners, choice, out)
    kind = FlowsOnScreen if is_live else FlowsByLine
    return kind(owners, choice, out, asked.order, asked.as_tree)
