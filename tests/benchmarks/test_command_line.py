"""The command line and its files, and suite `startup`, as docs/benchmarks.md says; no time is asserted."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import quick

from benchmarks import __main__, low_bits, output, processes, steps
from benchmarks.contenders import CASES, ROOT
from benchmarks.timing import Options, Row
from jopt import report

SMALL = """
from jopt import data, models
from jopt.train import Experiment


def get_config():
    sizes = data.Synthetic(shape=(4, 4, 1), num_classes=4, train=32, validation=8, test=8)
    return Experiment(
        name="small", model=models.ModelConfig("linear", num_classes=4),
        data=sizes,
        epochs=1, batch_size=16,
    )
"""


def assert_spread(value):
    assert {"median", "p10", "p90"} <= set(value)
    assert 0 < value["p10"] <= value["median"] <= value["p90"] < math.inf


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The JSON and the Markdown of three suites at their smallest."""
    directory = tmp_path_factory.mktemp("benchmarks")
    flags = ["train", "matmul", "masks", "--repeats=1", "--seconds=0", "--notorch", "--matmul_size=64"]
    flags += [f"--cases={CASES[0].name}", "--weights", "300", "500"]
    files = directory / "b.json", directory / "b.md"
    with quick.compilation():
        assert __main__.main([*flags, f"--json={files[0]}", f"--markdown={files[1]}"]) == 0
    return json.loads(files[0].read_text()), files[1].read_text()


def test_the_json_is_the_documented_one(written):
    results, _ = written
    suites = {"train", "matmul", "masks"}
    assert set(results) == {"schema", "argv", "settings", "machine", "others_share", *suites}
    assert results["schema"] == 2
    assert set(results["others_share"]) == suites
    assert {"date", "cpu", "cores", "packages", "load"} <= set(results["machine"])
    assert results["settings"]["weights"] == [300, 500]


def test_each_row_has_its_spreads(written):
    results, _ = written
    train, matmul, masks = (results[name] for name in ("train", "matmul", "masks"))
    assert [row["contender"] for row in train] == [steps.JOPT, steps.PYTHON_LOOP]
    assert {row["case"] for row in train} == {CASES[0].name}
    for row in train:
        assert_spread(row["seconds_per_step"])
    assert "ratio" not in train[0] and "saved_seconds_per_step" not in train[0]
    assert train[1]["against"] == steps.JOPT
    assert_spread(train[1]["ratio"])
    # Of one round: what the scan saves is the difference of the two.
    times = [row["seconds_per_step"]["median"] for row in train]
    assert train[1]["saved_seconds_per_step"]["median"] == pytest.approx(times[1] - times[0])
    assert [row["contender"] for row in matmul] == ["one product of 64²", CASES[0].name]
    for row in matmul:
        assert_spread(row["gflops_per_second"])
        assert_spread(row["share"])
        assert row["flops"] > 0
    assert matmul[0]["share"]["median"] == 1
    assert [(row["case"], row["contender"]) for row in masks] == [
        (f"{size} weights, 90 % pruned", way)
        for size in (300, 500)
        for way in (steps.TOP_K, steps.SORT, steps.JAXPRUNER)
    ]
    for row in masks:
        assert_spread(row["seconds_per_mask"])


def test_the_markdown_has_a_table_for_each_suite(written):
    _, text = written
    # The comparisons with others come first: slower, and not slower.
    assert text.count("\n| :---") == 2 + 3
    assert text.index("Where jopt is slower") < text.index("Training step")
    assert steps.PYTHON_LOOP in text and steps.SORT.replace("_", r"\_") in text


def test_what_was_measured_is_kept_when_a_later_suite_fails(tmp_path, monkeypatch):
    def fails(options):
        raise RuntimeError("killed")

    rows = [Row("case", "contender", {"flops": 7})]
    monkeypatch.setattr(__main__, "SUITES", {"masks": (lambda options: rows, "one"), "train": (fails, "two")})
    path = tmp_path / "b.json"
    with pytest.raises(RuntimeError, match="killed"):
        __main__.main(["masks", "train", f"--json={path}"])
    assert json.loads(path.read_text())["masks"] == [{"case": "case", "contender": "contender", "flops": 7}]


def test_an_unknown_case_is_refused_with_the_known_ones():
    command = [sys.executable, "-m", "benchmarks", "--cases=nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert CASES[0].name in done.stderr


@pytest.mark.parametrize("flag", ["--repeats=0", "--sample=1", "--seconds=-1", "nothing"])
def test_a_wrong_argument_ends_the_process(flag, capsys):
    with pytest.raises(SystemExit) as error:
        __main__.main([flag])
    assert error.value.code == 2
    assert flag.partition("=")[0].lstrip("-") in capsys.readouterr().err


def test_a_run_is_watched_from_its_launch_and_its_memory_is_in_bytes(tmp_path):
    (tmp_path / "small.py").write_text(SMALL)
    flags = [f"--config={tmp_path / 'small.py'}"]
    run = processes.timed_run(tmp_path / "run", tmp_path / "cache", flags, quick.FLAGS)
    assert 0 < run.first_epoch <= run.end < math.inf
    # JAX alone holds more than this; a number in kibibytes would be far below, one in bits above.
    assert 1e8 < run.peak < 1e10


def test_imports_are_timed_inside_the_process():
    # A clock that jumps while the statement runs: launching the process would add to what is read from it.
    assert processes.import_seconds("time.perf_counter = lambda: start + 42.0") == pytest.approx(42)


@pytest.mark.slow
def test_startup_measures_imports_runs_and_memory():
    rows = processes.startup(Options(repeats=1, runs=1), "configs/digits_mlp.py", "--config.epochs=1")
    ours, libraries, cold, warm = output.to_json(rows)
    assert (ours["against"], ours["ratio"]["target"]["relation"]) == (processes.LIBRARIES_IMPORT, "≤")
    assert (libraries["contender"], cold["contender"], warm["contender"]) == (
        processes.LIBRARIES_IMPORT,
        "cold cache",
        "warm cache",
    )
    for value in (ours["seconds"], libraries["seconds"]):
        assert_spread(value)
    for row in (cold, warm):
        assert row["run_seconds"]["median"] >= row["first_epoch_seconds"]["median"] > 0
        assert 1e8 < row["peak_bytes"]["median"] < 1e10
    assert "peak memory, MiB" in report.to_markdown(output.table("startup", rows))


def test_a_failing_run_shows_what_it_wrote(tmp_path):
    with pytest.raises(RuntimeError, match="no_such_config"):
        processes.timed_run(tmp_path / "run", tmp_path, ["--config=no_such_config.py"])


@pytest.mark.unoptimized
def test_the_noise_of_few_bits_is_the_documented_one():
    text = (Path(ROOT) / "docs" / "quantization.md").read_text()
    measured = ", ".join(f"{low_bits.noise(name, 2):.2f}" for name in low_bits.CALIBRATIONS)
    assert f"2 bits {measured} dB" in text


@pytest.mark.slow
def test_low_bits_has_a_row_for_each_stage_and_a_column_for_each_calibration():
    # Optax's bias correction mixes dtypes.
    with jax.numpy_dtype_promotion("standard"):
        rows = low_bits.low_bits(Options(), seeds=(0,), epochs=(2, 1))
    assert len(rows) == 1 + 4 * 2 * 2 + 4
    assert all(set(row.values) == set(low_bits.CALIBRATIONS) for row in rows)
    eight_bits = [row for row in rows if row.case.startswith("8 bits")]
    # At 8 bits what is rounded hardly matters: within two points of float32 after training.
    dense = rows[0].values["auto"]
    assert all(abs(row.values["auto"] - dense) < 2 for row in eight_bits if "after" in row.contender)
