"""Lists the settings of librdkafka that a destination may have in its URL."""

from __future__ import annotations

#: Settings of librdkafka that a Kafka URL may have; the file of ``config=FILE`` may hold all.
_SETTINGS = """
    acks batch.size client.id compression.codec compression.level compression.type
    enable.ssl.certificate.verification linger.ms message.max.bytes message.timeout.ms
    queue.buffering.max.kbytes queue.buffering.max.messages reconnect.backoff.max.ms
    request.timeout.ms sasl.mechanism sasl.mechanisms sasl.username security.protocol
    socket.keepalive.enable socket.timeout.ms ssl.ca.location ssl.certificate.location
    ssl.endpoint.identification.algorithm ssl.key.location
"""
KAFKA_SETTINGS = frozenset(_SETTINGS.split())
