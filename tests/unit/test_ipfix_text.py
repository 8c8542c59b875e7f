from __future__ import annotations

import pytest

from probe.ipfix.text import cut_text, encode_text, encode_variable


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("nginx: worker", b"nginx: worker"),
        ("", b""),
        ("größe", "größe".encode()),
        ("a\nb\0c\x7f", "a�b�c�".encode()),
        ("bad\udcff", b"bad?"),
    ],
)
def test_text_is_valid_utf8_without_control_characters(text: str, octets: bytes) -> None:
    assert encode_text(text) == octets


@pytest.mark.parametrize("limit", range(8))
def test_a_cut_never_splits_a_character(limit: int) -> None:
    cut = cut_text("aé€b".encode(), limit)
    assert len(cut) <= limit
    assert "aé€b".startswith(cut.decode())


def test_cut_keeps_what_fits() -> None:
    assert cut_text("aé€".encode(), 6) == "aé€".encode()
    assert cut_text("aé€".encode(), 5) == "aé".encode()


@pytest.mark.parametrize(
    ("length", "prefix"),
    [
        (0, b"\x00"),
        (1, b"\x01"),
        (254, b"\xfe"),
        (255, b"\xff\x00\xff"),
        (256, b"\xff\x01\x00"),
        (4096, b"\xff\x10\x00"),
    ],
)
def test_variable_length_forms(length: int, prefix: bytes) -> None:
    """RFC 7011 section 7: the length takes one octet below 255, else three."""
    assert encode_variable(b"x" * length) == prefix + b"x" * length
