"""The rules of the strict reader: name, severity, reference and text."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    #: Severity: a standard forbids it.
    ERROR = "error"
    #: Severity: no standard forbids it, but something is probably wrong.
    WARNING = "warning"
    #: Severity: it is legal, but a collector in use reads it wrongly.
    ADVICE = "advice"


@dataclass(frozen=True)
class Rule:
    name: str
    severity: Severity
    reference: str
    text: str


#: Severities are E (error), W (warning) and A (advice). A reference is an RFC with its section, or
#: a collector.
_TABLE = """
message.short        E 7011 3.1     | The message is shorter than its header.
message.version      E 7011 3.1     | The version is 9 or 10, and stays so in a session.
message.length       E 7011 3.1     | Length is the number of octets of the message.
message.time         E 7011 3.1     | Export time is the time at which the message left.
message.time-back    W 7011 3.1     | Export time does not go backwards.
message.sequence     E 7011 3.1     | Sequence counts the domain's Data Records sent before.
message.size         E 7011 10.3.3  | A datagram fits into one packet of the path.
message.fragment     E 7011 10.3.3  | A datagram is not sent as IP fragments.
message.empty        W 7011 3.1     | A message has a Set.
packet.sequence      E 3954 5.1     | Sequence counts the source's Export Packets sent before.
packet.count         E 3954 5.1     | Count is the number of records, Templates included.
packet.uptime        E 3954 5.1     | sysUptime advances as UNIX seconds do.
set.reserved         E 7011 3.3.2   | Set IDs below 256 are those of Template Sets.
set.length           E 7011 3.3.2   | A Set has at least the 4 octets of its header.
set.overrun          E 7011 3.3.2   | A Set ends within its message.
set.trailing         E 7011 3.1     | No octets follow the last Set.
set.empty            W 7011 3.4     | A Set has a record.
set.padding-value    E 7011 3.3.1   | Padding octets are zero.
set.padding-length   E 7011 3.3.1   | Padding is shorter than any record of the Set.
flowset.alignment    W 3954 5.3     | A FlowSet ends at a boundary of 4 octets.
template.id          E 7011 3.4.1   | Template IDs are 256 or more.
template.cut         E 7011 3.4.1   | A Template Record ends within its Set.
template.no-field    E 3954 5.2     | A Template has a field.
template.zero-length E 7011 3.2     | A field has a length.
template.length      E 7011 6.2     | A length is legal for the element's type.
template.variable    E 7011 7       | Only octetArray, string and lists have variable length.
template.unknown     E 7012 4       | An element without enterprise is in IANA's registry.
template.enterprise  E 7011 3.2     | An enterprise number behind an enterprise bit is not 0.
template.twice       W 7011 8       | An element is once in a Template.
template.families    W 7011 8       | A Template has addresses of one IP version.
template.scope       E 7011 3.4.2.2 | One to all fields of an Options Template are its scope.
template.kind        E 7011 8       | Templates and Options Templates share no ID.
template.redefined   E 7011 8       | An ID keeps its meaning for its lifetime, or until withdrawn.
template.refresh     E 7011 8.4     | Over UDP a Template in use is sent again in time.
withdrawal.udp       E 7011 8.4     | Nothing is withdrawn over UDP.
withdrawal.unknown   E 7011 8.1     | What is withdrawn was sent before.
withdrawal.kind      E 7011 8.1     | A withdrawal is in a Set of its Template's kind.
flowset.scope        E 3954 6.1     | Scope fields have the types 1 to 5.
flowset.options      E 3954 6.1     | Scope and option lengths are multiples of 4 in the FlowSet.
flowset.variable     E 3954 5.2     | NetFlow v9 has no variable length.
flowset.enterprise   E 3954 5.2     | NetFlow v9 has no enterprise numbers in Templates.
data.no-template     E 7011 8       | Data come behind their Template.
data.cut             E 7011 3.4.3   | A Data Record ends within its Set.
data.long-form       W 7011 7       | Lengths below 255 take one octet.
value.utf8           E 7011 6.1.6   | A string is UTF-8.
value.nul            W 7011 6.1.6   | A string has no NUL.
value.control        W 7011 6.1.6   | A string has no control characters.
value.boolean        E 7011 6.1.5   | A boolean is 1 or 2.
value.range          E 7012 5       | An element's value is one that its definition names.
flow.order           E 7012 5.9     | A flow ends after it started.
flow.future          E 7012 5.9     | A flow ended before it was exported.
flow.old             W 7012 5.9     | A flow started within the time that is expected.
flow.zero            W 7012 5.10    | There are octets exactly where there are packets.
flow.small           W 7012 5.10    | A packet has at least the 20 octets of an IP header.
biflow.irreversible  E 5103 6.1     | Identifiers and descriptions of processes have no reverse.
biflow.forward       E 5103 6       | A reverse element stands beside its forward element.
biflow.direction     W 5103 6.3     | A record with reverse elements has a biflowDirection.
type.missing         E 5610 3       | An enterprise's element in use has a type record.
type.late            W 5610 3       | The type record comes before data with the element.
type.unknown         E 5610 3.1     | The data type is one of RFC 5610.
type.scope           E 5610 3       | Enterprise number and element are a type record's scope.
type.name            W 5610 3.9     | A type record has a name.
type.changed         W 5610 3       | Type records of one element agree.
type.length          E 5610 3.1     | A Template's length is legal for the announced type.
advice.padding       A python-ipfix 0.9| Padding in a Template Set makes it refuse the message.
advice.tcp-flags     A pmacct 1.7.7 | It reads tcpControlBits in 2 octets as 0.
advice.counter       A pmacct 1.7.7 | It reads counters in other than 4 or 8 octets as 0.
advice.strings       A nfdump 1.7.8 | It refuses Options Templates with two variable lengths.
advice.shared-id     A vflow        | It keeps one layout of an ID for all domains.
advice.one-set       A go-ipfix     | It reads the first Set of a message only.
advice.private       A 3954 8       | Field types above 32767 are a convention of vendors.
"""


def _rule(line: str) -> Rule:
    head, _, text = line.partition("| ")
    name, letter, reference = head.split(maxsplit=2)
    severity = next(one for one in Severity if one.value[0].upper() == letter)
    is_rfc = reference[0].isdigit()
    return Rule(name, severity, f"RFC {reference}".strip() if is_rfc else reference.strip(), text)


RULES = {rule.name: rule for rule in map(_rule, _TABLE.strip().splitlines())}
