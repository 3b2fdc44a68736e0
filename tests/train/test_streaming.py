"""Rows gathered on the host, segment by segment: the same bits as from arrays on the device, killed anywhere."""

import itertools
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import tiny_experiment

from jopt import data, distill, prune, quantize
from jopt.config import ConfigError
from jopt.data import DataError, Dataset, Lazy
from jopt.train import Experiment, NonFiniteError, Stage, metrics, prepare, run
from jopt.train.compiler import Compiler
from jopt.train.streaming import Stream
from jopt.train.workdir import StopRequested

METHODS = (prune.Gradual(sparsity=0.5), quantize.Weights(bits=8), quantize.Activations(bits=8))
STAGES = [Stage("dense", steps=8), Stage("small", steps=10, methods=METHODS, recalibrate=1)]


def config(**changes) -> Experiment:
    # Segments of 4 of an epoch's 6 steps: they begin in the middle of one, and the last is shorter.
    fields = {"stages": STAGES, "segment_steps": 4, "checkpoint_every": 1, "ema_decay": 0.9}
    return tiny_experiment(**{**fields, **changes})


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return data.load(tiny_experiment().data)


@pytest.fixture(scope="module")
def resident(dataset, tmp_path_factory):
    return run(config(), tmp_path_factory.mktemp("resident"), data=dataset)


def unchanged(key, inputs):
    del key
    return inputs


def on_host(dataset: Dataset) -> Dataset:
    return dataset._replace(residency="host")


def lazy(dataset: Dataset) -> Dataset:
    def column(array):
        return Lazy(lambda rows: array[rows], len(array), array.shape[1:], array.dtype, fingerprint="the same")

    return on_host(dataset)._replace(train=jax.tree.map(column, dataset.train))


@pytest.mark.parametrize(("of", "stops"), [(on_host, (1, 2)), (lazy, (3,))])
def test_streamed_equals_resident_to_the_bit_stopped_on_the_way(dataset, resident, of, stops, tmp_path):
    for boundaries in stops:
        # Asked once before the first step, then at the end of each segment.
        asked = itertools.count()
        with pytest.raises(StopRequested):
            run(config(), tmp_path, data=of(dataset), should_stop=lambda _, a=asked, b=boundaries: next(a) == b)
    result = run(config(), tmp_path, data=of(dataset))
    assert result["digest"] == resident["digest"] and result["stages"] == resident["stages"]


def test_the_rows_of_a_segment_are_those_of_the_order(dataset):
    p = prepare(config(), dataset=on_host(dataset))
    stream = Stream(p, Compiler())
    try:
        for segment in p.segments:
            rows = data.indices(p.key, segment.start, segment.steps, p.batch_size, p.dataset.sizes[0])
            arrays = stream.segment(segment.stage, segment.start, segment.steps)
            np.testing.assert_array_equal(arrays.targets, p.dataset.train.targets[rows])
            np.testing.assert_array_equal(arrays.inputs, p.dataset.train.inputs[rows])
    finally:
        stream.close()


def test_a_student_trains_streamed_as_with_a_teacher_that_computes_along(dataset, tmp_path):
    student = Stage("student", epochs=1, methods=(distill.SoftTargets("stage:dense"),))
    stages = [Stage("dense", epochs=1), student]
    # With augmentation the teacher computes along in both.
    experiment = config(stages=stages, ema_decay=None)
    augmented = dataset._replace(name="augmented")
    source = data.Given("augmented", augmented.fingerprint, augmentation=unchanged)
    results = []
    for given in (augmented, on_host(augmented)):
        p = prepare(tiny_experiment(stages=stages, segment_steps=4, data=source), dataset=given)
        results.append([plan.teacher_computes_along for plan in p.plans])
    assert results[0] == results[1] == [False, True]
    assert run(experiment, tmp_path, data=on_host(augmented))["digest"]


def test_the_first_bad_step_of_a_streamed_run_is_found(dataset, tmp_path):
    experiment = config(stages=[Stage("dense", epochs=1)], ema_decay=None)
    experiment.optimizer.learning_rate = 1e30
    with pytest.raises(NonFiniteError) as caught:
        run(experiment, tmp_path, data=on_host(dataset), debug_nans=True)
    assert caught.value.finding.step in (1, 2)


def test_bad_lazy_columns_are_refused(dataset):
    x = Lazy(lambda rows: np.zeros((len(rows), 2)), 50, (3,), np.float32, fingerprint="bad")
    y = np.zeros(50, np.float32)
    small = (np.zeros((4, 3), np.float32), np.zeros(4, np.float32))
    with pytest.raises(DataError) as caught:
        Dataset.from_arrays((x, y), test=small, residency="host")
    assert caught.value.field == "validation"
    with pytest.raises(DataError) as caught:
        Dataset.from_arrays((x, y[:9]), small, small, residency="host")
    assert caught.value.field == "targets of 'train'"
    with pytest.raises(ConfigError) as caught:
        Dataset.from_arrays((x, y), small, small)
    assert caught.value.field == "residency"
    with pytest.raises(ValueError, match="3"):
        x[np.arange(2)]


def test_no_rows_of_a_lazy_column_are_no_call():
    # A choice of masks has none; to stack nothing is an error of NumPy.
    column = Lazy.of([np.zeros(3, np.float32)] * 5, fingerprint="five")
    assert column[np.zeros(0, np.int64)].shape == (0, 3)


LAZY = Lazy(lambda rows: np.ones(len(rows), np.float32), 5, (), np.float32, fingerprint="ones")


@pytest.mark.parametrize("weights", [np.array(["a"] * 5), {"a": np.ones(5)}, np.ones(5), LAZY])
def test_weights_of_a_part_are_one_array_of_numbers_in_all_parts(weights):
    part = (np.zeros((5, 2), np.float32), np.zeros(5, np.float32))
    with pytest.raises(DataError) as caught:
        Dataset.from_arrays((*part, weights), part, part)
    assert "weights" in caught.value.field and caught.value.accepted
    assert Dataset.from_arrays((*part, None), part, part).train.weights == ()


def test_a_segment_larger_than_memory_is_refused_with_the_steps_that_fit(dataset):
    row = 2**28
    x = Lazy(lambda rows: np.zeros((len(rows), row), np.uint8), 64, (row,), np.uint8, fingerprint="large")
    small = (np.zeros((4, row), np.uint8)[:1], np.zeros(1, np.int32))
    with pytest.raises(ConfigError) as caught:
        large = Dataset.from_arrays((x, np.zeros(64, np.int32)), small, small, residency="host", normalize=False)
        prepare(tiny_experiment(), dataset=large)
    assert caught.value.field == "segment_steps" and caught.value.value > 0


TEN_GIGABYTES = """
    import resource, sys
    import numpy as np
    from jopt import data, models, optim, task
    from jopt.train import Experiment, run

    WIDTH, EXAMPLES = 2500, 1_000_000  # 10 GB of float32
    WEIGHTS = np.random.default_rng(0).normal(size=WIDTH).astype(np.float32) / WIDTH**0.5

    def inputs(rows):
        # A cheap hash of row and column: every number is made when it is read.
        columns = np.arange(WIDTH, dtype=np.uint32) * np.uint32(40503)
        bits = rows[:, None].astype(np.uint32) * np.uint32(2654435761) ^ columns
        return (bits >> np.uint32(8)).astype(np.float32) / np.float32(2**23) - 1

    def split(n):
        x = inputs(np.arange(EXAMPLES, EXAMPLES + n))
        return x, x @ WEIGHTS

    train = (data.Lazy(inputs, EXAMPLES, (WIDTH,), np.float32, fingerprint="hash 1"),
             data.Lazy(lambda rows: inputs(rows) @ WEIGHTS, EXAMPLES, (), np.float32, fingerprint="hash 1"))
    dataset = data.Dataset.from_arrays(train, split(256), split(256), residency="host")
    config = Experiment("stream", model=models.Custom("flax.linen:Dense", options={"features": 1}),
                        task=task.Regression(), optimizer=optim.Config("sgd", learning_rate=1e-3),
                        batch_size=256, segment_steps=20)
    config.stages[0].steps = int(sys.argv[2])
    run(config, sys.argv[1], data=dataset)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_a_set_of_10_gigabytes(tmp_path):
    script = tmp_path / "stream.py"
    script.write_text(textwrap.dedent(TEN_GIGABYTES))
    peaks = []
    for steps in (40, 400):
        command = [sys.executable, str(script), str(tmp_path / str(steps)), str(steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        peaks.append(int(done.stdout.split()[-1]))
    # 400 steps read 1 GB of rows; two segments of 51 MB are in memory at once.
    assert peaks[1] < 1.1 * peaks[0], peaks
    assert metrics.read(tmp_path / "400" / "metrics.jsonl")[-1]["split"] == "test"
