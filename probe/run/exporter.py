"""All destinations side by side: those of IPFIX and those of ``probe.run.destinations``."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from probe.config import RunConfig
from probe.errors import ConfigError
from probe.export.record_stream import Burst, Stream
from probe.export.self_report import Metering, SelfReport
from probe.export.share import ShareGroup
from probe.export.sink import EventSink, Reopening, Sink
from probe.export.transports.destination import OTHER_SCHEMES, Destination
from probe.export.transports.sender import PacedSender, Sender, StreamSender, open_sender
from probe.export.transports.targets import parse_target
from probe.flow.codes import TCP, UDP
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows
from probe.guard import Guard, Part
from probe.interfaces.names import Interface, InterfaceList
from probe.ipfix.options import OptionsDefinition
from probe.ipfix.options import for_netflow9 as options_for_netflow9
from probe.ipfix.session import ExportSession, Options
from probe.ipfix.template import TemplateDefinition
from probe.ipfix.text import PLAIN, Strings
from probe.ipfix.wire import IPFIX, NETFLOW9
from probe.mapping import (
    Encoder,
    Profile,
    for_biflow,
    for_netflow9,
    load_elements,
    load_netflow9,
    load_options,
    load_profile,
    load_template,
)
from probe.owners.kubernetes import is_wanted, node_name
from probe.run.destinations import open_sink
from probe.run.outlet import Outlet
from probe.run.own_traffic import OwnSocket

if TYPE_CHECKING:
    from probe.interfaces.table import Link

_log = logging.getLogger(__name__)

Opener = Callable[[Destination], Sender]


class Exporter:
    """All streams of the probe. Inert until ``open``, which raises ConfigError."""

    def __init__(
        self,
        config: RunConfig,
        owners: OwnerTable,
        metering: Metering,
        interfaces: InterfaceList | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._config = config
        self._owners = owners
        self._metering = metering
        self._guard = guard or Guard()
        self._groups: list[tuple[list[Outlet], ShareGroup | None]] = []
        self._interfaces = interfaces or InterfaceList()
        self._announced: list[Interface] = []
        self._burst: Burst | None = None
        self.outlets: list[Outlet] = []
        self.sinks: list[Sink] = []
        #: Those of ``sinks`` that take more than flows.
        self.event_sinks: list[EventSink] = []

    def open(self, destinations: Iterable[str]) -> None:
        """One that cannot be opened is an error of the configuration, for all of them."""
        self._interfaces.refresh()
        self._announced = self._interfaces.described()
        workshop = Workshop(
            self._config, self._owners, self._metering, self._interfaces, guard=self._guard
        )
        shared: dict[str, list[Outlet]] = {}
        for target in [parse_target(text) for text in destinations]:
            outlet = self._keep(workshop.sink(target), self._guard.part(f"destination {target}"))
            if target.share:
                shared.setdefault(target.share, []).append(outlet)
            else:
                self._groups.append(([outlet], None))
        for kind, members in shared.items():
            self._groups.append((members, ShareGroup(kind, [member.name for member in members])))

    def add(self, sink: Sink) -> None:
        """One more, of this process, which shares with none. A reader that is gone is no error of
        it, but the end."""
        part = self._guard.part(f"view {sink.name!r}", passing=(BrokenPipeError,))
        self._groups.append(([self._keep(sink, part)], None))

    @property
    def has_outlets(self) -> bool:
        """Whether anything is left that takes records."""
        return any(outlet.part.is_on for outlet in self.outlets)

    def send(self, records: Rows, now_s: float) -> None:
        for outlet, share in self._shares(records):
            outlet.send(share, now_s)

    @property
    def takes_events(self) -> bool:
        return any(sink.takes_events for sink in self.event_sinks)

    def send_events(self, events: Rows, now_s: float) -> None:
        """EVENT_DTYPE, to those that take events."""
        for outlet in self.outlets:
            outlet.send_events(events, now_s)

    def send_sockets(self, sockets: Rows, now_s: float) -> None:
        """SOCKET_DTYPE, likewise."""
        for outlet in self.outlets:
            outlet.send_sockets(sockets, now_s)

    def send_interfaces(self, links: Sequence[Link], now_s: float) -> None:
        for outlet in self.outlets:
            outlet.send_interfaces(links, now_s)

    def finish(self, now_s: float) -> None:
        for outlet in self.outlets:
            outlet.finish(now_s)

    def reopening(self) -> Callable[[], None] | None:
        """What SIGHUP has to call, as files of lines may have been moved away; None: no such."""
        found = [
            (outlet, outlet.sink)
            for outlet in self.outlets
            if isinstance(outlet.sink, Reopening) and outlet.sink.can_reopen
        ]

        def reopen() -> None:
            for outlet, sink in found:
                outlet.do(sink.reopen)

        return reopen if found else None

    def announce_interfaces(self) -> None:
        """Send the options again when an interface has come or has another name."""
        described = self._interfaces.described()
        if described != self._announced:
            self._announced = described
            for outlet in self.outlets:
                outlet.announce_interfaces()

    def pump(self, now: float) -> float | None:
        """Send what is due; when to call again (monotonic seconds), None: nothing waits."""
        if self._burst and not self.outlets[0].part.error:
            try:
                if (due := self._burst(now)) is not None:
                    return due
            except Exception as error:
                self.outlets[0].fail(error)
        earliest: float | None = None
        for outlet in self.outlets:
            due = outlet.pump(now)
            if due is not None and (earliest is None or due < earliest):
                earliest = due
        return earliest

    @property
    def backlog(self) -> int:
        """Octets that wait to be sent, none of them to a destination that is unreachable."""
        return sum(outlet.backlog for outlet in self.outlets if not outlet.is_down)

    @property
    def unfinished(self) -> list[Outlet]:
        """Those to whom something is on its way yet, or waits for a connection."""
        return [outlet for outlet in self.outlets if outlet.unfinished]

    def local_addresses(self) -> list[OwnSocket]:
        """Where the destinations' sockets send from."""
        found = [(outlet.local_address(), outlet.sink) for outlet in self.outlets]
        return [(*address, _protocol(sink)) for address, sink in found if address]

    def forget(self, owners: list[int]) -> None:
        for outlet in self.outlets:
            outlet.forget(owners)

    def owners_in_use(self) -> set[int]:
        """Owners that sinks have not described yet."""
        return set().union(*(outlet.owners_in_use() for outlet in self.outlets))

    def close(self) -> None:
        """What still waits is dropped and counted."""
        for outlet in self.outlets:
            outlet.close(time.monotonic())

    def _keep(self, sink: Sink, part: Part) -> Outlet:
        self.sinks.append(sink)
        self.outlets.append(outlet := Outlet(sink, part))
        is_alone = len(self.sinks) == 1  # with others, each wake-up has to look after all
        self._burst = sink.burst if is_alone and isinstance(sink, Stream) else None
        if isinstance(sink, EventSink):
            self.event_sinks.append(sink)
        return outlet

    def _shares(self, records: Rows) -> Iterator[tuple[Outlet, Rows]]:
        for members, group in self._groups:
            if group is None:
                yield members[0], records
            else:
                yield from zip(members, _split(group, records, members), strict=True)


def _strings(target: Destination, profile: Profile) -> Strings | None:
    """None: names keep all their characters."""
    wanted = target.strings or ("plain" if profile.has_plain_strings else "full")
    return PLAIN if wanted == "plain" else None


def _is_netflow9(target: Destination) -> bool:
    return target.scheme == "netflow9"


@contextlib.contextmanager
def _naming(target: Destination) -> Iterator[None]:
    """Let errors say which destination they are of."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"destination {target}: {error}") from None


def _split(group: ShareGroup, records: Rows, members: Sequence[Outlet]) -> list[Rows]:
    """The share of each; what cannot be divided is lost to all, and counted at the first."""
    try:
        return group.split(records, _which_are_up(members))
    except Exception as error:
        for member in members:
            member.fail(error)
        return [records, *(records[:0] for _ in members[1:])]


def _which_are_up(members: Sequence[Outlet]) -> list[bool]:
    """Those that may be given flows; who has only just come back waits while others are there."""
    is_reliable = [member.is_reliable for member in members]
    return is_reliable if any(is_reliable) else [not one.is_down for one in members]


class Workshop:
    """Makes sinks; what streams share of the declarations in ``templates/`` is read once."""

    def __init__(
        self,
        config: RunConfig,
        owners: OwnerTable,
        metering: Metering,
        interfaces: InterfaceList,
        boot_s: float | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._report_part = (guard or Guard()).part("the probe's report of itself")
        self._config = config
        self._owners = owners
        self._metering = metering
        self._interfaces = interfaces
        self._elements = load_elements(config.pen)
        self._netflow9 = load_netflow9(self._elements)
        self._options = load_options(self._elements)
        # Read once: a step of the clock must not make two sessions disagree.
        self._boot_s = boot_s or time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def sink(self, target: Destination) -> Sink:
        """ConfigError: its options, files or packages cannot be used."""
        if target.scheme not in OTHER_SCHEMES:
            return self.stream(target)
        return open_sink(target, self._config, self._owners, self._metering, self._interfaces)

    def stream(self, target: Destination, open_: Opener | None = None) -> Stream:
        """ConfigError: its profile, Template or files cannot be used."""
        with _naming(target):
            profile = self._profile(target)
            strings = _strings(target, profile)
            encoder, options = self._encoder(target, profile, strings)
        sender = open_(target) if open_ else open_sender(target, self._config.template_refresh)
        try:
            with _naming(target):
                session = self._session(encoder, sender, options, target, strings)
        except BaseException:
            sender.close()
            raise
        return Stream(sender, session, encoder, target.biflow)

    def _profile(self, target: Destination) -> Profile:
        return load_profile(target.profile or self._config.profile or self._default_profile())

    def _encoder(
        self, target: Destination, profile: Profile, strings: Strings | None
    ) -> tuple[Encoder, list[OptionsDefinition]]:
        """With the options that go beside its records."""
        config = self._config
        definition = self._definition(target, profile)
        options = [self._options[name] for name in profile.options]
        if _is_netflow9(target):
            definition = self._for_netflow9(definition, target)
            options = options_for_netflow9(options, self._netflow9, self._elements)
        encoder = Encoder(definition, self._owners, config.privacy, self._boot_s, strings)
        return encoder, options

    def _session(
        self,
        encoder: Encoder,
        sender: Sender,
        options: list[OptionsDefinition],
        target: Destination,
        strings: Strings | None,
    ) -> ExportSession:
        report = SelfReport(
            self._metering, self._interfaces, sender, self._config.odid, self._boot_s,
            node_name(self._config.kubernetes, self._config.kubernetes_node),
        )  # fmt: skip
        return ExportSession(
            encoder,
            self._config.odid,
            target.max_message,
            self._config.template_refresh,
            NETFLOW9 if _is_netflow9(target) else IPFIX,
            Options(
                options,
                self._report_part.wrap(report.read, dict),
                self._netflow9 if _is_netflow9(target) else None,
                {"counters": self._report_part.wrap(report.counters, list)},
                self._config.interface_interval,
                strings,
            ),
            self._boot_s,
            repeats_templates=not isinstance(sender, StreamSender),
        )

    def _default_profile(self) -> str:
        """Where nobody names Pods, their elements would be empty, and too many for Wireshark."""
        return "kubernetes" if is_wanted(self._config.kubernetes) else "full"

    def _definition(self, target: Destination, profile: Profile) -> TemplateDefinition:
        """A destination's own profile wins over the Template of the configuration."""
        chosen = None if target.profile else self._config.template
        definition = load_template(chosen or profile.template, self._elements)
        return for_biflow(definition, self._elements) if target.biflow else definition

    def _for_netflow9(
        self, definition: TemplateDefinition, target: Destination
    ) -> TemplateDefinition:
        changed, left_out = for_netflow9(definition, self._netflow9)
        if left_out:
            _log.warning("%s: NetFlow v9 has no field for %s", target, ", ".join(left_out))
        return changed


def _protocol(sink: Sink) -> int:
    """Only datagrams have a pace."""
    paced = isinstance(sink, Stream) and isinstance(sink.sender, PacedSender)
    return UDP if paced else TCP
