"""Runs the probe from its start to its summary, with destinations or with its own view."""

from __future__ import annotations

from probe.config import RunConfig
from probe.errors import MeteringError
from probe.guard import close_quietly
from probe.log import say
from probe.run.heap import keep_freed
from probe.run.loop import Loop
from probe.run.probe import Probe
from probe.run.shown import Shown
from probe.run.summary import summarize
from probe.run.wiring import open_probe
from probe.stop import StopSignals


def run(config: RunConfig) -> None:
    """Runs until a signal or for the duration, then writes the summary to standard error.

    Raises SockflowError if the probe cannot start, or if an error ends metering.
    """
    keep_freed()
    shown = None if config.destinations else Shown(config.pen)
    failure: MeteringError | None = None
    probe: Probe | None = None
    try:
        probe = open_probe(config, config.destinations or (shown.destination if shown else "",))
        if shown:
            shown.follow(probe.exporter.local_addresses)
        with StopSignals(probe.exporter.reopening()) as stop:
            try:
                Loop(probe, stop, shown).run(config.duration)
            except MeteringError as error:
                failure = error
    finally:
        if shown:
            close_quietly("the view", shown.close)
        if probe:
            probe.close()
    say(*summarize(probe.figures(), shown.source.summary() if shown else ""))
    if failure:
        raise failure
