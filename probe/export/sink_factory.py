"""Makes the sinks of one exporter. What they share is read once and given to each."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from probe.config import RunConfig
from probe.errors import ConfigError
from probe.export.message_sink import MessageSink
from probe.export.self_report import Metering, SelfReport
from probe.export.transports.destination import Destination
from probe.export.transports.sender import Sender, StreamSender
from probe.flow.owner import OwnerTable
from probe.guard import Guard
from probe.interfaces.names import InterfaceList
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

_log = logging.getLogger(__name__)

SenderOpener = Callable[[Destination], Sender]


class SinkFactory:
    """Holds what sinks are made of, and reads the declarations in ``templates/`` once for all.

    The opener of each kind of destination is called with it. config, owners, metering and
    interfaces are those of the probe. boot_s: Unix time at which this host booted; by default it is
    computed from the present time.
    """

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
        self.config = config
        self.owners = owners
        self.metering = metering
        self.interfaces = interfaces
        self._elements = load_elements(config.pen)
        self._netflow9 = load_netflow9(self._elements)
        self._options = load_options(self._elements)
        # Read once: a step of the clock must not make two sessions disagree.
        self._boot_s = boot_s or time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def message_sink(self, target: Destination, open_sender: SenderOpener) -> MessageSink:
        """Returns a sink of IPFIX or NetFlow v9 whose messages leave by ``open_sender(target)``.

        Raises ConfigError where the profile, the Template or a file cannot be used.
        """
        with _naming(target):
            profile = self._profile(target)
            strings = _strings(target, profile)
            encoder, options = self._encoder(target, profile, strings)
        sender = open_sender(target)
        try:
            with _naming(target):
                session = self._session(encoder, sender, options, target, strings)
        except BaseException:
            sender.close()
            raise
        return MessageSink(sender, session, encoder, target.biflow)

    def _profile(self, target: Destination) -> Profile:
        return load_profile(target.profile or self.config.profile or self._default_profile())

    def _encoder(
        self, target: Destination, profile: Profile, strings: Strings | None
    ) -> tuple[Encoder, list[OptionsDefinition]]:
        """Returns the encoder of records, and the options that are sent beside them."""
        config = self.config
        definition = self._definition(target, profile)
        options = [self._options[name] for name in profile.options]
        if target.is_netflow9:
            definition = self._for_netflow9(definition, target)
            options = options_for_netflow9(options, self._netflow9, self._elements)
        encoder = Encoder(definition, self.owners, config.privacy, self._boot_s, strings)
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
            self.metering, self.interfaces, sender, self.config.odid, self._boot_s,
            node_name(self.config.kubernetes, self.config.kubernetes_node),
        )  # fmt: skip
        return ExportSession(
            encoder,
            self.config.odid,
            target.max_message,
            self.config.template_refresh,
            NETFLOW9 if target.is_netflow9 else IPFIX,
            Options(
                options,
                self._report_part.wrap(report.read, dict),
                self._netflow9 if target.is_netflow9 else None,
                {"counters": self._report_part.wrap(report.counters, list)},
                self.config.interface_interval,
                strings,
            ),
            self._boot_s,
            repeats_templates=not isinstance(sender, StreamSender),
        )

    def _default_profile(self) -> str:
        """Returns the profile for a user who chose none.

        It has the elements of Pods only if Kubernetes is in use. They would be empty otherwise, and
        with them a Template has more fields than Wireshark reads.
        """
        return "kubernetes" if is_wanted(self.config.kubernetes) else "full"

    def _definition(self, target: Destination, profile: Profile) -> TemplateDefinition:
        """Returns the Template. A destination's own profile wins over ``--template``."""
        chosen = None if target.profile else self.config.template
        definition = load_template(chosen or profile.template, self._elements)
        return for_biflow(definition, self._elements) if target.biflow else definition

    def _for_netflow9(
        self, definition: TemplateDefinition, target: Destination
    ) -> TemplateDefinition:
        changed, left_out = for_netflow9(definition, self._netflow9)
        if left_out:
            _log.warning("%s: NetFlow v9 has no field for %s", target, ", ".join(left_out))
        return changed


def _strings(target: Destination, profile: Profile) -> Strings | None:
    """Returns how names are written, or None if they keep all their characters."""
    wanted = target.strings or ("plain" if profile.has_plain_strings else "full")
    return PLAIN if wanted == "plain" else None


@contextlib.contextmanager
def _naming(target: Destination) -> Iterator[None]:
    """Adds the destination to the text of a ConfigError."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"destination {target}: {error}") from None
