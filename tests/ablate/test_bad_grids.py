"""A grid that cannot run says so, naming field, value and what is accepted, before anything happens."""

import numpy as np
import pytest

from jopt import distill, optim, prune, transfer
from jopt.ablate import Range, Space, axis, choices, product, run, search
from jopt.config import ConfigError
from jopt.rules import RuleError
from jopt.train import Stage
from jopt.train.compilation import Compiler

RATE = "optimizer.learning_rate"
MOMENTUM = "optimizer.momentum"
SPARSITY = "stages[0].prune.sparsity"
COSINE = "an experiment with a schedule that needs to know its length"


def rates():
    return axis(RATE, (0.1, 0.01))


ABSENT = "must be absent: "
AT = "optimizer.learning_rate (at the point learning_rate = "

# What is asked for, and what the message begins with.
GRIDS = {
    # Paths.
    "no such field": (
        lambda: {"space": axis("learning_rate", (1.0,))},
        f"learning_rate {ABSENT}Experiment has only name,",
    ),
    "no such nested field": (
        lambda: {"space": axis("optimizer.rate", (1.0,))},
        f"optimizer.rate {ABSENT}Config has only name, variant, learning_rate,",
    ),
    "no such stage": (
        lambda: {"space": axis("stages[3].epochs", (1,))},
        f"stages[3].epochs {ABSENT}there is no stages[3] (it has 1), got 1",
    ),
    "a list that is none": (
        lambda: {"space": axis("optimizer[0].name", ("sgd",))},
        f"optimizer[0].name {ABSENT}there is no optimizer[0] (optimizer is no list), got 'sgd'",
    ),
    "through None": (
        lambda: {"space": axis("stages[0].quantize.bits", (4, 8))},
        f"stages[0].quantize.bits {ABSENT}stages[0].quantize is None, which has no",
    ),
    "below a leaf": (
        lambda: {"space": axis("optimizer.name.x", (1,))},
        f"optimizer.name.x {ABSENT}optimizer.name is 'sgd', which has no fields; give it a value first, got 1",
    ),
    "a malformed path": (
        lambda: {"space": axis("optimizer..name", ("sgd",))},
        "optimizer..name must be a dotted path, such as 'stages[0].prune.sparsity', got 'sgd'",
    ),
    # Points.
    "no points": (lambda: {"space": Space(())}, "space must be a grid of at least one point, got ()"),
    "no Space": (
        lambda: {"space": [0.1, 0.2]},
        "space must be a Space, such as jopt.ablate.product(...), got [0.1, 0.2]",
    ),
    "a point twice": (
        lambda: {"space": axis(RATE, (0.1, 0.1))},
        "the point learning_rate = 0.1 with seed 0 must be unlike every other; learning_rate = 0.1 with seed 0 is",
    ),
    "a point twice, spelt otherwise": (
        lambda: {"space": axis(RATE, (1, 1.0))},
        "the point learning_rate = 1.0 with seed 0 must be unlike every other; learning_rate = 1 with seed",
    ),
    "a point twice, of two spaces": (
        lambda: {"space": rates() + axis(RATE, (0.3, 0.1))},
        "the point learning_rate = 0.1 with seed 0 must be unlike every other",
    ),
    "integers searched too finely": (
        lambda: {"space": search(Range("epochs", 1, 3, integer=True), count=8)},
        "the point epochs = ",
    ),
    "two points of one name": (
        lambda: {"space": choices("way", {"a": {RATE: 0.1}}) + choices("way", {"a": {RATE: 0.2}})},
        "the point way = a must be named unlike the other one, which sets {'optimizer.learning_rate': 0.1}, got "
        "{'optimizer.learning_rate': 0.2}",
    ),
    "two fields under one name": (
        lambda: {"space": axis(RATE, (0.1,), "x") + axis("optimizer.l1", (0.1,), "x")},
        "the point x = 0.1 must be named unlike the other one, which sets {'optimizer.learning_rate': 0.1}, got "
        "{'optimizer.l1': 0.1}",
    ),
    # Names of columns.
    "called like a column": (
        lambda: {"space": axis(RATE, (0.1,), name="accuracy")},
        "the axis 'accuracy' must be called otherwise: trials.csv has a column of that name, got 'accuracy'",
    ),
    "called like a column of the summary": (
        lambda: {"space": axis(RATE, (0.1,), name="verdict")},
        "the axis 'verdict' must be named otherwise: the summary has a column of this name, got 'verdict'",
    ),
    "called nothing": (
        lambda: {"space": choices("", {"a": {RATE: 0.1}})},
        "the name of an axis must be not empty, got ''",
    ),
    # Seeds.
    "an axis over the seed": (
        lambda: {"space": axis("seed", (0, 1))},
        "the axis over 'seed' must be absent: give `seeds`, got 0",
    ),
    "no seeds": (lambda: {"seeds": ()}, "seeds must be at least one seed, got ()"),
    "seeds twice": (lambda: {"seeds": (1, 2, 1)}, "seeds must be given once, got 1"),
    "a negative seed": (lambda: {"seeds": (0, -1)}, "seeds must be integers in [0, 2**32), got -1"),
    "a huge seed": (lambda: {"seeds": (2**32,)}, "seeds must be integers in [0, 2**32), got 4294967296"),
    "a broken seed": (lambda: {"seeds": (0.0,)}, "seeds must be integers in [0, 2**32), got 0.0"),
    "a number of seeds": (lambda: {"seeds": 5}, "seeds must be a tuple of integers, got 5"),
    # Types of values.
    "a number and a word": (
        lambda: {"space": axis(RATE, (0.1, "fast"))},
        AT + "fast) must be of type float, got 'fast'",
    ),
    "a bool for a number": (
        lambda: {"space": axis(RATE, (0.1, True))},
        AT + "True) must be of type float, got True",
    ),
    "a bool for a count": (
        lambda: {"space": axis("epochs", (1, True))},
        "epochs (at the point epochs = True) must be of type int, got True",
    ),
    "half an epoch": (
        lambda: {"space": axis("epochs", (1, 2.5))},
        "epochs (at the point epochs = 2.5) must be of type int, got 2.5",
    ),
    "nothing for a number": (
        lambda: {"space": axis(RATE, (0.1, None))},
        AT + "None) must be of type float, got None",
    ),
    "a narrow float": (
        lambda: {"space": axis(RATE, (np.float32(0.5),))},
        AT + "0.5) must be of type float, got np.float32(0.5)",
    ),
    # Control, metric, protocol.
    "a control outside": (
        lambda: {"control": {"learning_rate": 0.5}},
        "control must be a point of the grid; its axes are learning_rate in 0.1, 0.01, got {'learning_rate': 0.5}",
    ),
    "a control of another axis": (
        lambda: {"control": {RATE: 0.1}},
        "control must be one of 'learning_rate', got 'optimizer.learning_rate'",
    ),
    "an empty control": (lambda: {"control": {}}, "control must be axis names and values, or None, got {}"),
    "a control that is a value": (
        lambda: {"control": 0.1},
        "control must be a dictionary of axis names and values, or None, got 0.1",
    ),
    "an unknown metric": (lambda: {"metric": "f1"}, "metric must be one of 'accuracy', 'bits_per_parameter', "),
    "an unknown protocol": (
        lambda: {"protocol": "fair"},
        "protocol must be one of 'optimizers', 'plain', 'pruning', got 'fair'",
    ),
    "an unknown strategy": (
        lambda: {"strategy": "pmap"},
        "strategy must be one of 'auto', 'map', 'measure', 'vmap', got 'pmap'",
    ),
    "unknown tuned": (lambda: {"tuned": ("rate",)}, "tuned must be one of 'learning_rate', got 'rate'"),
    "all tuned": (
        lambda: {"tuned": ("learning_rate",)},
        "tuned must be fewer than all axes: something must be compared, got ('learning_rate',)",
    ),
    "tuned without a comma": (
        lambda: {"tuned": ("learning_rate")},
        "tuned must be a tuple of names of axes, got 'learning_rate'",
    ),
    "optimizers, nothing tuned": (
        lambda: {"space": product(axis("optimizer.name", ("sgd", "adam")), rates()), "protocol": "optimizers"},
        "tuned must be the axes that are tuned, such as ('learning_rate',), got ()",
    ),
    "a target in per cent": (lambda: {"target": 90}, "target must be an accuracy in (0, 1], or None, got 90"),
    "a target in words": (lambda: {"target": "0.9"}, "target must be of type float or None, got '0.9'"),
    "confidence in per cent": (lambda: {"confidence": 95}, "confidence must be a number in [0.5, 1), got 95"),
    "confidence for alpha": (lambda: {"confidence": 0.05}, "confidence must be a number in [0.5, 1), got 0.05"),
    # Chunks, devices, memory.
    "a negative chunk": (
        lambda: {"chunk": -1},
        "chunk must be a number of trials, or 0 for as many as fit, got -1",
    ),
    "half a chunk": (lambda: {"chunk": 1.5}, "chunk must be of type int, got 1.5"),
    "no memory": (lambda: {"memory_gib": 0.0}, "memory_gib must be a positive number of GiB, or None, got 0.0"),
    "memory unknown": (
        lambda: {"memory_gib": np.nan},
        "memory_gib must be a positive number of GiB, or None, got nan",
    ),
    "more memory than there is": (
        lambda: {"memory_gib": 1e-7},
        "the size of a trial of group 0 must be such that ",
    ),
    "split batches at one point": (
        lambda: {"space": axis("data_parallel", (False, True))},
        "data_parallel (at the point data_parallel = True) must be False: an ablation splits",
    ),
    # One point of several, out of its field's range.
    "everything pruned": (
        lambda: {"space": axis(SPARSITY, (0.0, 0.5, 0.8, 0.9, 1.0))},
        "stages[0].prune.sparsity (at the point prune.sparsity = 1.0) must be a number in [0, 1), got 1.0",
    ),
    "a rate without end": (
        lambda: {"space": axis(RATE, (0.1, np.inf))},
        AT + "inf) must be a finite number above 0, got inf",
    ),
    "an optimizer misspelt": (
        lambda: {"space": axis("optimizer.name", ("sgd", "adm"))},
        "optimizer.name (at the point name = adm) must be one of 'adagrad', 'adam', ",
    ),
    "other classes": (
        lambda: {"space": axis("model.num_classes", (3, 4))},
        "model.num_classes (at the point num_classes = 4) must be 3, the number of classes of 'synthetic', got 4",
    ),
    "a batch larger than the data": (
        lambda: {"space": axis("batch_size", (8, 16, 64))},
        "batch_size (at the point batch_size = 64) must be at most the 32 training examples, got 64",
    ),
    "a warm-up longer than the stage": (
        lambda: {"space": axis("optimizer.warmup_steps", (0, 4, 100)), "experiment": COSINE},
        "optimizer.warmup_steps (at the point warmup_steps = 100) must be less than the stage's updates (8)",
    ),
    "a warm-up longer than the shorter stage": (
        lambda: {
            "space": product(axis("optimizer.warmup_steps", (0, 4)), axis("epochs", (2, 1))),
            "experiment": COSINE,
        },
        "optimizer.warmup_steps (at the point warmup_steps = 4, epochs = 1) must be less than the stage's up",
    ),
    "no stages": (
        lambda: {"space": axis("stages", ([Stage()], []))},
        "stages (at the point stages = []) must be a list of at least one Stage, got []",
    ),
    "an unknown teacher": (
        lambda: {"space": choices("way", {"a": {}, "b": {"stages[0].distill": distill.Config("stage:nope")}})},
        "stages[0].distill.teacher (at the point way = b) must be a run's directory or stage:NAME",
    ),
    "a source that never ran": (
        lambda: {"space": choices("way", {"a": {}, "b": {"stages[0].transfer": transfer.Config("nowhere")}})},
        "stages[0].transfer.source (at the point way = b) must be the directory of a finished run",
    ),
    "a part of another whole": (
        lambda: {"space": product(axis("optimizer.clip", (1.0,)), axis("optimizer", (optim.Config("sgd"),)))},
        f"optimizer.clip {ABSENT}Config has only name, ",
    ),
    # The ablation's own fields.
    "no name": (lambda: {"name": ""}, "name must be not empty, got ''"),
    "no experiment": (
        lambda: {"experiment": prune.Config()},
        "experiment must be a jopt.train.Experiment, got Config(",
    ),
}

RULES = {
    "a rule for a layer that is not there": (
        lambda: {"space": axis("stages[0].prune.rules", ((), (("Conv_0/kernel", 0.5),)))},
        "stages[0].prune: rule 'Conv_0/kernel' matches no parameter; the parameters are: Dense_0/bias,",
    ),
    "a rule at some of the points": (
        lambda: {"space": product(axis(SPARSITY, (0.5, 0.6)), axis("optimizer.freeze", ((), ("nope",))))},
        "optimizer.freeze: rule 'nope' matches no parameter; the parameters are: Dense_0/bias,",
    ),
}


@pytest.mark.parametrize("case", {**GRIDS, **RULES})
def test_a_bad_grid_is_refused_before_anything_compiles_or_is_written(tmp_path, monkeypatch, small, grid, case):
    monkeypatch.setattr(Compiler, "get", lambda *args, **kwargs: pytest.fail("something was compiled"))
    build, message = {**GRIDS, **RULES}[case]
    experiment = small(stages=[Stage(prune=prune.Config("one_shot", sparsity=0.5))])
    asked = {"experiment": experiment, **build()}
    if asked["experiment"] is COSINE:
        asked["experiment"] = small(optimizer=optim.Config("sgd", schedule="cosine"))
    with pytest.raises(RuleError if case in RULES else ConfigError) as error:
        run(grid(**asked), tmp_path / "grid", quiet=True)
    assert str(error.value).startswith(message)
    if case in RULES:
        assert "(at the point " in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_bad_grid_leaves_a_used_directory_as_it_is(tmp_path, grid):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError):
        run(grid(seeds=()), tmp_path, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
