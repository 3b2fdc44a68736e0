"""Suite `codec` at its smallest: its contenders give back every bit of parameters that are what they are called."""

import math

import numpy as np
import pytest

from benchmarks import files, output
from benchmarks.timing import Options
from jopt import report

SMALL = 4 * 60 * 60


@pytest.fixture(scope="module")
def models():
    return {case: make(files.kernels(SMALL)) for case, make in files.CASES.items()}


def test_rows_of_every_contender():
    rows = files.packed(Options(parameters=SMALL, repeats=1, seconds=0))
    ours = [row for row in rows if row.contender == files.JOPT]
    assert [row.case.partition(" (")[0] for row in ours] == list(files.CASES)
    assert [row.case for row in rows if row.contender == files.ZIP] == [row.case for row in ours]
    parameters = SMALL + 4 * 60
    for row in rows:
        assert ("write_ratio" in row.values) == ("read_ratio" in row.values) == (row.contender != files.JOPT)
    for row in ours:
        assert f"({parameters:,} parameters)" in row.case
        for column, target in (("write_mb_per_second", 50), ("read_mb_per_second", 100)):
            rate = row.values[column]
            assert 0 < rate.p10 <= rate.median <= rate.p90 < math.inf
            assert rate.target == ("≥", target) and rate.met == (rate.median >= target)
        assert row.values["times_smaller"] == 4 * parameters / row.values["bytes"]
    plain, int8, shared, sparse = (row.values["bytes"] for row in ours)
    # 32, 8, at most 4 and, for a tenth of the entries, at most 4 bits and a gap; the biases are float32 in all.
    assert plain <= 4 * parameters + 400
    assert int8 <= SMALL + 8 * 240 + 400
    assert shared <= SMALL / 2 + 4 * (240 + 64) + 400
    assert sparse <= SMALL / 10 * 9 / 8 + 4 * (240 + 64) + 400
    text = report.to_markdown(output.table("codec", rows))
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
    if files.ans_package() is None:
        pytest.skip("constriction is not installed")
    data = files.coders(models[case])[files.ANS].encode()
    # Biases, codebooks, at most 256 + 16 frequencies a kernel, sizes; and at most the bits of 4-bit codes.
    bits = 0.0
    for layer in models[case].params.values():
        kernel = layer["kernel"].reshape(-1)
        values = kernel[kernel != 0] if "sparse" in case else kernel
        bits += files.entropy(np.unique(values, return_counts=True)[1])
    if "sparse" in case:
        assert len(data) > bits / 8
    else:
        assert bits / 8 < len(data) < bits / 8 + 4 * (240 + 4 * (16 + 16) + 4 * 6) + 64


def test_a_wrong_contender_is_caught(monkeypatch, models):
    coders = files.coders(models["dense float32"])
    wrong = coders[files.ZIP]._replace(decode=lambda data: files.kernels(SMALL + 4 * 121))
    monkeypatch.setattr(files, "coders", lambda model: coders | {files.ZIP: wrong})
    with pytest.raises(RuntimeError, match=r"savez_compressed.*dense float32"):
        files.packed(Options(parameters=SMALL, repeats=1, seconds=0))
