"""Tests KeyIndex against a dict."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from probe.flow import key_index as index_module
from probe.flow.key_index import MOST_PROBES, KeyIndex


@pytest.mark.parametrize("seed", range(10))
def test_an_index_is_a_dict(seed: int) -> None:
    random = np.random.default_rng(seed)
    index, model, serial = KeyIndex(), dict[int, int](), 0
    for _ in range(60):
        keys = random.integers(0, 2000, random.integers(0, 500)).astype(np.uint64) << np.uint64(32)
        values = serial + 1 + np.arange(len(keys))
        serial += len(keys)
        got = index.insert(keys, values)
        offered: dict[int, set[int]] = {}
        for key, value in zip(keys.tolist(), values.tolist(), strict=True):
            offered.setdefault(key, set()).add(value)
        for key, value in zip(keys.tolist(), got.tolist(), strict=True):
            assert value == model.setdefault(key, value)
            assert value in offered[key] or value <= serial - len(keys)
        gone = [key for key in model if random.random() < 0.4]
        index.remove(np.array(gone, np.uint64))
        for key in gone:
            del model[key]
        probes = random.integers(0, 2500, 300).astype(np.uint64) << np.uint64(32)
        assert index.find(probes).tolist() == [model.get(key, 0) for key in probes.tolist()]
        assert len(index) == len(model)


def test_removing_an_absent_key_is_an_error() -> None:
    with pytest.raises(KeyError):
        KeyIndex().remove(np.array([5], np.uint64))


COUNT = 20_000
_N = np.arange(COUNT, dtype=np.uint64)
#: Multiplying by this undoes the multiplication by the Fibonacci constant.
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))

#: Keys of strangers or counters. For each kind, some hash would need probes 100 times as long.
STRUCTURED = {
    "one cell of an index without a secret": (_N + np.uint64(1)) * _INVERSE,
    "one cell, high bits": (_N << np.uint64(20)) * _INVERSE,
    "serial numbers": _N,
    "high halves": _N << np.uint64(32),
    "times": np.uint64(1 << 63) + (_N << np.uint64(8)),
    "powers of two apart": _N << np.uint64(48),
    "sequence numbers and their mirrors": _N << np.uint64(32) | (_N ^ np.uint64(0xFFFF)),
    "multiples of a prime": _N * np.uint64(0x1F123BB5159A55E5),
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_nobody_can_choose_keys_that_are_long_to_find(name: str) -> None:
    """The longest probe stays short, counted in cells instead of time. Random keys take some 20."""
    keys = np.array(list(dict.fromkeys(STRUCTURED[name].tolist())), np.uint64)
    index = KeyIndex()
    for start in range(0, len(keys), 4096):
        some = keys[start : start + 4096]
        index.insert(some, start + 1 + np.arange(len(some)))
    assert index.longest < 64
    assert (index.find(keys) == 1 + np.arange(len(keys))).all()


def _unmixed(self: KeyIndex, keys: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Puts all keys below 1000 in the same cell, until the index has taken its next secret."""
    crowded = (keys < 1000) & (self._secret == _secrets[0])
    return np.where(crowded, 7, _home(self, keys))


_home = KeyIndex._home
_secrets: list[np.uint64] = []


def test_at_the_bound_an_index_takes_another_secret_and_keeps_every_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index = KeyIndex()
    _secrets[:] = [index._secret]
    monkeypatch.setattr(index_module.KeyIndex, "_home", _unmixed)
    keys = np.arange(900, dtype=np.uint64)
    others = np.arange(5000, 6000, dtype=np.uint64)
    assert (index.insert(others, 1 + np.arange(1000)) == 1 + np.arange(1000)).all()
    assert (index.insert(keys, 1001 + np.arange(900)) == 1001 + np.arange(900)).all()
    assert index._secret != _secrets[0]
    assert index.longest <= MOST_PROBES
    assert (index.find(others) == 1 + np.arange(1000)).all()
    assert (index.find(keys) == 1001 + np.arange(900)).all()
    index.remove(keys)
    assert not index.find(keys).any()
    assert len(index) == 1000
