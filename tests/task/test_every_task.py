"""Each task through a run, its report, a grid, exports and predictions, with names and numbers of its own."""

import csv
import json

import numpy as np
import pytest

from jopt import ablate, export, report, train
from jopt.ablate import axis, budget
from jopt.apps import prediction
from jopt.config import ConfigError
from jopt.report import differences, formats
from jopt.train import packed
from jopt.train.workdir import WorkdirError
from tests.task import outside_tasks
from tests.task.outside_tasks import CASES, get_config

pytestmark = pytest.mark.unoptimized

DECIDING = {"regression": "r2", "labels": "f1", "bytes": "bits_per_byte"}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """The name of a case, its task, its result and its directory."""
    name = request.param
    directory = tmp_path_factory.mktemp(name)
    result = train.run(get_config(name), directory / "run", trusted=True)
    return name, CASES[name][0], dict(result), directory


def test_the_result_has_the_metrics_of_the_task_in_its_order(case):
    name, task, result, directory = case
    metrics = [metric.key for metric in task.metrics]
    assert metrics[0] == DECIDING[name] and list(result)[: len(metrics) + 1] == [*metrics, "loss"]
    assert ("accuracy" in result) == (name == "bytes")
    rows = [json.loads(line) for line in (directory / "run/metrics.jsonl").read_text().splitlines()]
    assert set(metrics) <= set(rows[-1]) and rows[-1][metrics[0]] == result[metrics[0]]


def test_the_report_names_them_with_their_units(case):
    name, task, result, directory = case
    text = (directory / "run/report.md").read_text()
    value = formats.value(task.deciding.key, result[task.deciding.key], task)
    assert f"a test {task.deciding.label} of {value}" in text
    assert f"| {task.deciding.label} | {value} |" in text
    assert (name == "bytes") == ("accuracy" in text.lower())
    page = (directory / "run/report.html").read_text()
    assert json.dumps(formats.titled(formats.column(task.deciding.key, task=task))).strip('"') in page


def test_stages_are_compared_by_the_deciding_metric(case):
    name, _, result, directory = case
    if name != "regression":
        pytest.skip("the run has one stage")
    first, last = result["stages"]
    assert last["r2_change"] == pytest.approx(last["r2"] - first["r2"]) and "churn" not in last
    text = (directory / "run/report.md").read_text()
    assert f"the test R² changes by {last['r2_change']:+.4g}" in text and "Change is against the first" in text


def test_runs_are_compared_by_the_deciding_metric(case):
    _, task, _, directory = case
    rows = [json.loads(line) for line in (directory / "run/metrics.jsonl").read_text().splitlines()]
    key, better = task.deciding.key, max if task.deciding.better == "higher" else min
    summary = differences.summary(rows, {}, {}, task)
    values = [row[key] for row in rows if row["split"] == "validation"]
    assert summary[f"best_validation_{key}"] == better(values) and summary[f"last_validation_{key}"] == values[-1]
    table = differences.metrics_table({"a": summary, "b": summary}, task)
    assert f"test {task.deciding.label}" in [row[0] for row in table.rows]


def test_the_progress_shows_the_deciding_metric(case, capsys):
    name, task, result, _ = case
    with report.Progress(4) as progress:
        progress.update(
            4, "train", {"split": "validation", "loss": 0.5, **{k: result[k] for k in (DECIDING[name],)}}
        )
    assert task.deciding.label in capsys.readouterr().err


# The code of the card leaves a file to the collector, as code that is read by people may.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_exported_files_agree_and_the_card_speaks_of_the_task(case):
    name, task, result, directory = case
    out = directory / "export"
    # The converter to ONNX is slow: floats and tokens are all that it distinguishes.
    kinds = ["packed", "stablehlo", *["onnx"] * (name != "labels")]
    written = {w.file.name: w for w in export.export(directory / "run", out, kinds, trusted=True, speed_batches=())}
    key = task.deciding.key
    for file in ("model.jopt", "masked.stablehlo", *["quantized.onnx"] * (name != "labels")):
        agreement = written[file].agreement
        assert agreement is not None
        assert agreement.value == pytest.approx(result[key], abs=1e-3)
        assert agreement.largest_difference < 1e-2
        decisions = {"regression": 0, "labels": 32 * 3, "bytes": 30 * 6}[name]
        assert agreement.decisions == decisions
        assert agreement.equal_predictions == (decisions or None)
    inputs = json.loads((out / "masked.stablehlo.json").read_text())["inputs"]
    assert inputs[0]["dtype"] == ("uint8" if name == "bytes" else "float32")
    card = (out / "README.md").read_text()
    purposes = {
        "regression": "A regression",
        "labels": "A classifier of 3 labels",
        "bytes": "A model of the next token",
    }
    assert purposes[name] in card and f'- "{key}"' in card and "right" not in card.split("## Measures")[0]
    blocks = card.split("## Use")[1].split("```python\n")
    space: dict = {}
    exec(blocks[1].split("```")[0], space)
    raw = outside_tasks.text().test.inputs if name == "bytes" else getattr(outside_tasks, CASES[name][1])()[1][0]
    assert space["raw"].dtype == raw.dtype and space["x"].shape == (2, *raw.shape[1:])
    # The code of each file runs on these inputs.
    for block in blocks[2:4]:
        exec(block.split("```")[0].replace("'model.jopt'", f"'{out / 'model.jopt'}'").replace(
            "'masked.stablehlo'", f"'{out / 'masked.stablehlo'}'"), space)  # fmt: skip


def test_the_packed_file_predicts_alone(case):
    _, task, result, directory = case
    model = packed.load(directory / "run/model.jopt", trusted=True)
    dataset = prediction.dataset_for(model, None, None, trusted=True)
    arrays = prediction.data.device_arrays(dataset, "test")
    outcomes = {
        name: prediction.run(way, model.task, arrays, [1], 1)
        for name, way in {"float": prediction.floating(model), "integers": prediction.integers(model)}.items()
    }
    assert outcomes["float"].metrics == pytest.approx({k: result[k] for k in outcomes["float"].metrics})
    key = task.deciding.key
    assert outcomes["integers"].metrics[key] == pytest.approx(outcomes["float"].metrics[key], abs=1e-3)


def test_a_grid_of_objects_is_judged_by_the_deciding_metric(case):
    name, task, _, directory = case
    config = get_config(name)
    dataset = _dataset(name)
    grid = ablate.Ablation(
        name=name,
        experiment=train.Experiment(
            optimizer=config.optimizer, batch_size=16, epochs=1, stages=[train.Stage("train")]
        ),
        space=axis("optimizer.learning_rate", (0.03, 0.0003)),
        seeds=(0, 1),
        control={"learning_rate": 0.0003},
    )
    objects = {"data": dataset, "task": task, "model": config.model.model()}
    results = ablate.run(grid, directory / "grid", **objects)
    assert results.metric == DECIDING[name] and results.decisive.better == task.deciding.better
    rows = list(csv.DictReader((directory / "grid/summary.csv").read_text().splitlines()))
    trained, control = (float(row[f"{DECIDING[name]}_mean"]) for row in rows)
    assert (trained > control) == (task.deciding.better == "higher")
    assert float(rows[0]["difference"]) == pytest.approx(trained - control)
    curves = [json.loads(line) for line in (directory / "grid/curves.jsonl").read_text().splitlines()]
    assert all(metric.key in row for metric in task.metrics for row in curves if row["split"] == "validation")
    text = (directory / "grid/report.md").read_text().replace("\\_", "_")
    assert f"The best mean {DECIDING[name]} is" in text and f"test {task.deciding.label}" in text
    assert (name == "bytes") == ("accuracy" in text.lower())
    assert "data=data, model=model" in results.trials[0]["command"]
    # A finished grid that is asked for again needs the objects again, and an axis over one has no effect.
    again = ablate.run(grid, directory / "grid", **objects)
    assert again.trials == results.trials
    with pytest.raises(WorkdirError):
        ablate.run(grid, directory / "grid", data=dataset, task=task, model=config.model)


def _dataset(name):
    made = getattr(outside_tasks, CASES[name][1])()
    return made if name == "bytes" else outside_tasks.data.Dataset.from_arrays(*made[:1], test=made[1])


def test_axes_over_what_is_given_as_an_object_are_refused(tmp_path):
    config = get_config("regression")
    grid = ablate.Ablation(experiment=config, space=axis("model.options.width", (2, 3)), seeds=(0,))
    with pytest.raises(ConfigError) as caught:
        ablate.run(grid, tmp_path / "grid", model=config.model.model(), data=_dataset("regression"))
    assert caught.value.field.startswith("model") and not (tmp_path / "grid").exists()


@pytest.mark.parametrize(
    ("name", "text", "quantity"),
    [
        ("regression", "r2_drop<0.01", "r2_drop"),
        ("regression", "mae_rise<2,bytes<9000", "mae_rise"),
        ("bytes", "bits_per_byte_rise<0.02", "bits_per_byte_rise"),
        ("labels", "f1_micro_drop<0.5", "f1_micro_drop"),
    ],
)
def test_budgets_are_of_the_metrics_of_the_task(name, text, quantity):
    limits = budget.parse(text, CASES[name][0])
    assert limits[0].quantity == quantity and budget.parse(text, None) == limits


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("regression", "accuracy_drop<1"),
        ("regression", "r2_rise<0.1"),
        ("bytes", "bits_per_byte_drop<0.1"),
        ("labels", "f1_drop<1,auc_drop<0.1"),
        ("regression", "r2<0.9"),
    ],
)
def test_budgets_of_other_metrics_are_refused(name, text):
    with pytest.raises(ConfigError) as caught:
        budget.parse(text, CASES[name][0])
    assert (caught.value.field, caught.value.value) == ("budget", text)


@pytest.mark.parametrize(("better", "values", "dense"), [("r2", [0.80, 0.82], 0.9), ("mse", [0.5, 0.52], 0.4)])
def test_a_drop_is_how_much_worse_a_point_is_in_units_of_the_metric(better, values, dense):
    from jopt.ablate.budget.estimates import estimate
    from jopt.measure import columns_of

    def rows(numbers):
        return [{"seed": i, better: v, "status": "finished", "bytes": 9} for i, v in enumerate(numbers)]

    column = next(c for c in columns_of("trial", task=CASES["regression"][0]) if c.key == better)
    point = estimate({}, rows(values), rows([dense, dense]), metric=column)
    assert point.drop == pytest.approx(abs(np.mean(values) - dense)) and point.metric == pytest.approx(
        np.mean(values)
    )
