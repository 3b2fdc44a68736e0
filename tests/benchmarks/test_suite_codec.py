"""Suite `codec` at its smallest: its contenders give back every bit of parameters that are what they are called."""

import math
import os

import numpy as np
import pytest

from experiments.benchmarks import ans, codec, machine, tables
from jopt import report

SMALL = 4 * 60 * 60


@pytest.fixture(scope="module")
def models():
    return {case: make(codec.kernels(SMALL)) for case, make in codec.CASES.items()}


def test_rows_and_table():
    rows = codec.packed(SMALL, 1, 0.0)
    assert [row.case for row in rows] == list(codec.CASES)
    for row in rows:
        assert row.parameters == SMALL + 4 * 60
        assert {codec.JOPT, codec.ZIP} <= set(row.bytes)
        for way, target in codec.TARGETS.items():
            rate = row.megabytes_per_second[way][codec.JOPT]
            assert 0 < rate.p10 <= rate.median <= rate.p90 < math.inf
            assert row.met[way] == (rate.median >= target)
        assert row.times_smaller[codec.JOPT] == 4 * row.parameters / row.bytes[codec.JOPT]
    plain, int8, shared, sparse = (row.bytes[codec.JOPT] for row in rows)
    # 32, 8, at most 4 and, for a tenth of the entries, at most 4 bits and a gap; the biases are float32 in all.
    assert plain <= 4 * rows[0].parameters + 400
    assert int8 <= SMALL + 8 * 240 + 400
    assert shared <= SMALL / 2 + 4 * (240 + 64) + 400
    assert sparse <= SMALL / 10 * 9 / 8 + 4 * (240 + 64) + 400
    assert machine.to_json(rows)[3]["case"] == "90 % sparse, 4-bit codebook"
    text = report.to_markdown(tables.codec_table(rows))
    assert text.count("savez") == 4 and text.count("≥ 50") == text.count("≥ 100") == 4


def test_the_parameters_are_what_the_cases_say(models):
    int8, shared, sparse = (
        models[name] for name in ("int8, a scale for each channel", "4-bit codebook", "90 % sparse, 4-bit codebook")
    )
    for model in (int8, shared, sparse):
        assert [layer["kernel"].shape for layer in model.params.values()] == [(60, 60)] * 4
        assert all(layer["kernel"].dtype == np.float32 for layer in model.params.values())
    kernel = int8.params["Dense_0"]["kernel"]
    codes = kernel / (np.abs(kernel).max(0) / 127)
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)
    assert all(np.unique(layer["kernel"]).size == 16 for layer in shared.params.values())
    for layer in sparse.params.values():
        assert np.unique(layer["kernel"]).size == 17
        assert (layer["kernel"] == 0).mean() == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("case", ["4-bit codebook", "90 % sparse, 4-bit codebook"])
def test_constriction_takes_the_entropy_and_its_tables(models, case):
    if ans.coder() is None:
        pytest.skip("constriction is not installed")
    data = codec.enter(models[case])[codec.ANS].encode()
    # Biases, codebooks, at most 256 + 16 frequencies a kernel, sizes; and at most the bits of 4-bit codes.
    bits = 0.0
    for layer in models[case].params.values():
        kernel = layer["kernel"].reshape(-1)
        values = kernel[kernel != 0] if "sparse" in case else kernel
        bits += ans.entropy(np.unique(values, return_counts=True)[1])
    if "sparse" in case:
        assert len(data) > bits / 8
    else:
        assert bits / 8 < len(data) < bits / 8 + 4 * (240 + 4 * (16 + 16) + 4 * 6) + 64


def test_a_wrong_contender_is_caught(monkeypatch, models):
    coders = codec.enter(models["dense float32"])
    wrong = coders[codec.ZIP]._replace(decode=lambda data: codec.kernels(SMALL + 4 * 121))
    monkeypatch.setattr(codec, "enter", lambda model: coders | {codec.ZIP: wrong})
    with pytest.raises(RuntimeError, match="savez_compressed does not give back the bits of dense float32"):
        codec.packed(SMALL, 1, 0.0)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not pin threads")
def test_one_core_is_one_core_for_a_while():
    before = os.sched_getaffinity(0)
    with codec.one_core() as core:
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before
