"""What somebody else writes in one file each works in configs, flags, axes, files and reports as ours do."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE))

from her_config import get_config  # noqa: E402
from her_package.pattern import Pairs  # noqa: E402
from her_package.quantizer import TrainedSteps  # noqa: E402

from jopt import ablate, address, codec, export, prune, quantize  # noqa: E402
from jopt.ablate.budget import Knob, Search, search  # noqa: E402
from jopt.apps.config_flag import overridden  # noqa: E402
from jopt.config import ConfigError, canonical_json, from_dict, to_dict  # noqa: E402
from jopt.rules import named_leaves  # noqa: E402
from jopt.train import Experiment, finished, packed, prepare, run  # noqa: E402

FILES = sorted(path for path in (HERE / "her_package").glob("*.py") if path.name != "__init__.py")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("hers") / "run"
    run(get_config(), path)
    return path


@pytest.fixture(scope="module")
def whole(directory):
    return finished.load(directory, trusted=True)


def test_each_of_her_files_has_fewer_than_sixty_lines():
    assert len(FILES) == 8
    for path in FILES:
        assert len(path.read_text().splitlines()) < 60, path.name


def test_her_config_survives_json_and_is_another_experiment_than_ours():
    config = get_config()
    again = from_dict(Experiment, json.loads(json.dumps(to_dict(config))), trusted=True)
    assert canonical_json(again) == canonical_json(config)
    assert '"class":"her_package.method:MaxNorm"' in canonical_json(config)
    ours = address.with_values(config, {"pruned.prune.score": "magnitude"})
    assert canonical_json(ours) != canonical_json(config)


def test_flags_and_addresses_reach_her_fields():
    config = overridden(get_config(), {"max_norm.limit": "1.5", "rho": "0.5", "bits": "3", "pattern.width": "4"})
    stages = config.stages
    assert stages[0].methods[0].limit == 1.5 and config.optimizer.custom.rho == 0.5
    assert stages[1].methods[0].pattern == Pairs(4) and stages[2].methods[0] == TrainedSteps(bits=3)
    with pytest.raises(ConfigError) as error:
        prepare(overridden(get_config(), {"dense.max_norm.limit": "-1.0"}))
    assert error.value.field == "stages[0].max_norm.limit"


def test_her_methods_do_what_they_say(whole):
    kernels = {path: w for path, w in named_leaves(whole.params) if path.endswith("kernel")}
    for path, kernel in kernels.items():
        # The norm is bounded, to float32's rounding, but for what quantization adds: half a step each.
        assert np.linalg.norm(dict(named_leaves(whole.state.params))[path]) <= 2.0 * (1 + 1e-6)
        pairs = np.abs(kernel).sum(0).reshape(-1, 2)
        assert ((pairs == 0).all(1) | (pairs != 0).any(1)).all() and (pairs == 0).all(1).mean() == 0.5
        step = float(np.abs(whole.state.params["steps"][path]))
        np.testing.assert_allclose(kernel / step, np.round(kernel / step), atol=1e-4)


def test_her_steps_were_trained_and_stay_where_they_ended(directory, whole):
    p = prepare(get_config())
    program, plan = p.program(p.plans[2]), p.plans[2]
    assert plan.trainables.keys == {"steps"}
    state = jax.jit(program.update)(
        program.init(p.key, p.values, p.program(p.plans[1]).init(p.key, p.values)), p.values, p.arrays["train"]
    )
    moved, _ = jax.jit(program.segment)(state, p.values, p.arrays["train"])
    for path, step in state.params["steps"].items():
        assert float(step) > 0 and float(moved.params["steps"][path]) != float(step)


def test_her_network_is_packed_with_its_integers_and_comes_back(directory, whole):
    file = codec.read(directory / "model.jopt")
    assert sorted(file.integers) == ["Dense_0/kernel", "Dense_1/kernel"]
    model = packed.load(directory / "model.jopt", trusted=True)
    for (path, a), (_, b) in zip(named_leaves(model.params), named_leaves(whole.params), strict=True):
        assert np.array_equal(a, b), path
    assert {q.spec.bits for q in model.integers.values()} == {4}


def test_her_column_is_in_every_table(directory, whole):
    result = json.loads((directory / "result.json").read_text())
    norm = np.sqrt(sum(np.square(np.asarray(w, np.float64)).sum() for _, w in named_leaves(whole.params)))
    assert result["weights_l2"] == result["stages"][-1]["weights_l2"] == pytest.approx(norm, rel=1e-12)
    for name in ("report.md", "report.html"):
        assert "L2 of the parameters" in (directory / name).read_text()


def test_her_format_is_written_like_ours(directory, whole, tmp_path):
    files = export.export(directory, tmp_path, ["her_package.export_format:FORMAT", "packed"], trusted=True)
    assert [file.format for file in files][:2] == ["csv", "packed"]
    rows = list(csv.reader((tmp_path / "weights.csv").read_text().splitlines()))
    assert len(rows) == sum(w.size for _, w in named_leaves(whole.params))


def test_her_numbers_are_axes_of_one_program_and_her_classes_of_others(tmp_path):
    space = ablate.product(
        ablate.axis("max_norm.limit", (0.5, 2.0)),
        ablate.axis("optimizer.custom.rho", (0.5, 0.9)),
        ablate.axis("quantized.quantize", (TrainedSteps(bits=4), quantize.Weights(bits=4))),
    )
    grid = ablate.Ablation(name="hers", experiment=get_config(), space=space, seeds=(0,))
    results = ablate.run(grid, tmp_path / "grid")
    assert [axis.kind for axis in results.axes] == ["traced", "traced", "structural"]
    assert {row["group"] for row in results.trials} == {0, 1} and len(results.trials) == 8
    assert all(row["status"] == "finished" and row["weights_l2"] > 0 and row["bytes"] for row in results.trials)
    assert {row["quantize"] for row in results.trials} == {"TrainedSteps", "Weights(bits=4)"}
    assert "weights_l2" in (tmp_path / "grid" / "trials.csv").read_text().splitlines()[0]
    assert "L2 of the parameters" in (tmp_path / "grid" / "report.html").read_text()


def test_a_search_turns_her_knobs(tmp_path):
    config = Search(
        name="hers",
        experiment=get_config(),
        knobs=(Knob(ablate.axis("bits", (32, 4))), Knob(ablate.axis("max_norm.limit", (100.0, 2.0)))),
        seeds=(2,),
        finalists=1,
        confirm=3,
        trials=20,
    )
    result = search(config, tmp_path / "search", "accuracy_drop<90")
    assert {tuple(e.point) for e in result.estimates} == {("bits", "limit")} and result.recommended is not None
    report = (tmp_path / "search" / "report.md").read_text()
    assert (
        "limit" in report
        and json.loads((tmp_path / "search" / "manifest.json").read_text())["exit_status"] == "finished"
    )


def test_a_run_from_the_command_line_gives_the_same_bits(directory, tmp_path):
    command = [sys.executable, "-m", "experiments.train", f"--config={HERE / 'her_config.py'}", "--quiet"]
    subprocess.run([*command, f"--workdir={tmp_path / 'run'}"], check=True, cwd=HERE.parents[1])
    results = [json.loads((path / "result.json").read_text()) for path in (directory, tmp_path / "run")]
    assert results[0]["digest"] == results[1]["digest"]


def test_a_stranger_s_run_imports_nothing_unless_it_is_trusted(directory):
    code = f"from jopt.train import finished; finished.load({str(directory)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE.parents[1])
    assert done.returncode == 1 and "her_package" in done.stderr and "not trusted" in done.stderr


@pytest.mark.parametrize("app", ["verify", "export"])
def test_the_apps_read_her_run_where_they_may_import_her_modules(directory, tmp_path, monkeypatch, app):
    root = HERE.parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{root}:{HERE}")
    options = {"verify": ["--quiet"], "export": ["--format=packed", f"--out={tmp_path / 'out'}"]}[app]
    command = [sys.executable, "-m", f"experiments.{app}", str(directory), *options]
    untrusted = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert untrusted.returncode == 1 and "not trusted" in untrusted.stderr and "--trust" in untrusted.stderr
    trusted = subprocess.run([*command, "--trust"], capture_output=True, text=True, cwd=root)
    assert trusted.returncode == 0, trusted.stderr


def test_a_score_needs_what_it_reads():
    with pytest.raises(ValueError, match="grads"):
        method = prune.OneShot(0.5, score="her_package.score:taylor").build()
        params = {"w": np.ones((2, 2), np.float32)}
        method.update(method.init(params), params, step=0)
