"""KeyIndex against a dict."""

from __future__ import annotations

import numpy as np
import pytest

from probe.flow.index import KeyIndex


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
