"''A grid that cannot run says so, naming field, value and what is accepted, before anything happens.''"

import numpy as np
import pytest

from jopt import distill, optim, prune, transfer
from jopt.ablate import Range, Space, axis, choices, product, run, search
from jopt.config import ConfigError
from jopt.rules import RuleError
from jopt.train import Stage
from jopt.train.compiler import Compiler

RATE = "optimizer.learning_rate"
MOMENTUM = "optimizer.momentum"
SPARSITY = "stages[0].prune.sparsity"
COSINE = "an experiment with a schedule that needs to know its length"


def rates():
    return axis(RATE, (0.1, 0.01))


AT = "optimizer.learning_rate (at the point learning_rate = "

# What is asked for, and the field that the error names.
GRIDS = {
    # Paths.
    "no such field": (
        lambda: {"space": axis("rate_of_learning", (1.0,))},
        "rate_of_learning",
    ),
    "no such nested field": (
        lambda: {"space": axis("optimizer.rate", (1.0,))},
        "optimizer.rate",
    ),
    "no such stage": (
        lambda: {"space": axis("stages[3].epochs", (1,))},
        "stages[3].epochs",
    ),
    "a list that is none": (
        lambda: {"space": axis("optimizer[0].name", ("sgd",))},
        "optimizer[0].name",
    ),
    "through None": (
        lambda: {"space": axis("stages[0].quantize.bits", (4, 8))},
        "stages[0].quantize.bits",
    ),
    "below a leaf": (
        lambda: {"space": axis("optimizer.name.x", (1,))},
        "optimizer.name.x",
    ),
    "a malformed path": (
        lambda: {"space": axis("optimizer..name", ("sgd",))},
        "optimizer..name",
    ),
    # Points.
    "no points": (lambda: {"space": Space(())}, "space"),
    "no Space": (
        lambda: {"space": [0.1, 0.2]},
        "space",
    ),
    "a point twice": (
        lambda: {"space": axis(RATE, (0.1, 0.1))},
        "the point learning_rate = 0.1 with seed 0",
    ),
    "a point twice, spelt otherwise": (
        lambda: {"space": axis(RATE, (1, 1.0))},
        "the point learning_rate = 1.0 with seed 0",
    ),
    "a point twice, of two spaces": (
        lambda: {"space": rates() + axis(RATE, (0.3, 0.1))},
        "the point learning_rate = 0.1 with seed 0",
    ),
    "integers searched too finely": (
        lambda: {"space": search(Range("epochs", 1, 3, integer=True), count=8)},
        "the point epochs = 2 with seed 0",
    ),
    "two points of one name": (
        lambda: {"space": choices("way", {"a": {RATE: 0.1}}) + choices("way", {"a": {RATE: 0.2}})},
        "the point way = a",
    ),
    "two fields under one name": (
        lambda: {"space": axis(RATE, (0.1,), "x") + axis("optimizer.l1", (0.1,), "x")},
        "the point x = 0.1",
    ),
    # Names of columns.
    "called like a column": (
        lambda: {"space": axis(RATE, (0.1,), name="accuracy")},
        "the axis 'accuracy'",
    ),
    "called like a column of the summary": (
        lambda: {"space": axis(RATE, (0.1,), name="verdict")},
        "the axis 'verdict'",
    ),
    "called nothing": (
        lambda: {"space": choices("", {"a": {RATE: 0.1}})},
        "the name of an axis",
    ),
    # Seeds.
    "an axis over the seed": (
        lambda: {"space": axis("seed", (0, 1))},
        "the axis over 'seed'",
    ),
    "no seeds": (lambda: {"seeds": ()}, "seeds"),
    "seeds twice": (lambda: {"seeds": (1, 2, 1)}, "seeds"),
    "a negative seed": (lambda: {"seeds": (0, -1)}, "seeds"),
    "a huge seed": (lambda: {"seeds": (2**32,)}, "seeds"),
    "a broken seed": (lambda: {"seeds": (0.0,)}, "seeds"),
    "a number of seeds": (lambda: {"seeds": 5}, "seeds"),
    # Types of values.
    "a number and a word": (
        lambda: {"space": axis(RATE, (0.1, "fast"))},
        AT + "fast)",
    ),
    "a bool for a number": (
        lambda: {"space": axis(RATE, (0.1, True))},
        AT + "True)",
    ),
    "a bool for a count": (
        lambda: {"space": axis("epochs", (1, True))},
        "epochs (at the point epochs = True)",
    ),
    "half an epoch": (
        lambda: {"space": axis("epochs", (1, 2.5))},
        "epochs (at the point epochs = 2.5)",
    ),
    "nothing for a number": (
        lambda: {"space": axis(RATE, (0.1, None))},
        AT + "None)",
    ),
    "a narrow float": (
        lambda: {"space": axis(RATE, (np.float32(0.5),))},
        AT + "0.5)",
    ),
    # Control, metric, protocol.
    "a control outside": (
        lambda: {"control": {"learning_rate": 0.5}},
        "control",
    ),
    "a control of another field": (
        lambda: {"control": {"optimizer.momentum": 0.1}},
        "control",
    ),
    "a control that is no address": (
        lambda: {"control": {"rate": 0.1}},
        "control",
    ),
    "a control named twice": (
        lambda: {"control": {"learning_rate": 0.1, RATE: 0.1}},
        "control",
    ),
    "an empty control": (lambda: {"control": {}}, "control"),
    "a control that is a value": (
        lambda: {"control": 0.1},
        "control",
    ),
    "an unknown metric": (lambda: {"metric": "f1"}, "metric"),
    "an unknown protocol": (
        lambda: {"protocol": "fair"},
        "protocol",
    ),
    "an unknown strategy": (
        lambda: {"strategy": "pmap"},
        "strategy",
    ),
    "unknown tuned": (lambda: {"tuned": ("rate",)}, "tuned"),
    "all tuned": (
        lambda: {"tuned": ("learning_rate",)},
        "tuned",
    ),
    "tuned without a comma": (
        lambda: {"tuned": ("learning_rate")},
        "tuned",
    ),
    "optimizers, nothing tuned": (
        lambda: {"space": product(axis("optimizer.name", ("sgd", "adam")), rates()), "protocol": "optimizers"},
        "tuned",
    ),
    "a target in per cent": (lambda: {"target": 90}, "target"),
    "a target in words": (lambda: {"target": "0.9"}, "target"),
    "confidence in per cent": (lambda: {"confidence": 95}, "confidence"),
    "confidence for alpha": (lambda: {"confidence": 0.05}, "confidence"),
    # Chunks, devices, memory.
    "a negative chunk": (
        lambda: {"chunk": -1},
        "chunk",
    ),
    "half a chunk": (lambda: {"chunk": 1.5}, "chunk"),
    "no memory": (lambda: {"memory_gib": 0.0}, "memory_gib"),
    "memory unknown": (
        lambda: {"memory_gib": np.nan},
        "memory_gib",
    ),
    "more memory than there is": (
        lambda: {"memory_gib": 1e-7},
        "the size of a trial of group 0",
    ),
    "split batches at one point": (
        lambda: {"space": axis("data_parallel", (False, True))},
        "data_parallel (at the point data_parallel = True)",
    ),
    "sums over shards at one point": (
        lambda: {"space": axis("shards", (None, 2))},
        "shards (at the point shards = 2)",
    ),
    # One point of several, out of its field's range.
    "everything pruned": (
        lambda: {"space": axis(SPARSITY, (0.0, 0.5, 0.8, 0.9, 1.0))},
        "stages[0].prune.sparsity (at the point prune.sparsity = 1.0)",
    ),
    "a rate without end": (
        lambda: {"space": axis(RATE, (0.1, np.inf))},
        AT + "inf)",
    ),
    "an optimizer misspelt": (
        lambda: {"space": axis("optimizer.name", ("sgd", "adm"))},
        "optimizer.name (at the point name = adm)",
    ),
    "other classes": (
        lambda: {"space": axis("model.num_classes", (3, 4))},
        "model.num_classes (at the point num_classes = 4)",
    ),
    "a batch larger than the data": (
        lambda: {"space": axis("batch_size", (8, 16, 64))},
        "batch_size (at the point batch_size = 64)",
    ),
    "a warm-up longer than the stage": (
        lambda: {"space": axis("optimizer.warmup_steps", (0, 4, 100)), "experiment": COSINE},
        "optimizer.warmup_steps (at the point warmup_steps = 100)",
    ),
    "a warm-up longer than the shorter stage": (
        lambda: {
            "space": product(axis("optimizer.warmup_steps", (0, 4)), axis("epochs", (2, 1))),
            "experiment": COSINE,
        },
        "optimizer.warmup_steps (at the point warmup_steps = 4, epochs = 1)",
    ),
    "no stages": (
        lambda: {"space": axis("stages", ([Stage()], []))},
        "stages (at the point stages = [])",
    ),
    "an unknown teacher": (
        lambda: {
            "space": choices(
                "way", {"a": {}, "b": {"stages[0].distill": distill.SoftTargets(teacher="stage:nope")}}
            )
        },
        "stages[0].distill.teacher (at the point way = b)",
    ),
    "a source that never ran": (
        lambda: {"space": choices("way", {"a": {}, "b": {"stages[0].transfer": transfer.Transfer("nowhere")}})},
        "stages[0].transfer.source (at the point way = b)",
    ),
    "a part of another whole": (
        lambda: {"space": product(axis("optimizer.clip", (1.0,)), axis("optimizer", (optim.Config("sgd"),)))},
        "optimizer.clip",
    ),
    # The ablation's own fields.
    "no name": (lambda: {"name": ""}, "name"),
    "no experiment": (
        lambda: {"experiment": prune.Gradual()},
        "experiment",
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
    monkeypatch.setattr(Compiler, "compiled", lambda *args, **kwargs: pytest.fail("something was compiled"))
    build, field = {**GRIDS, **RULES}[case]
    experiment = small(stages=[Stage(methods=(prune.OneShot(sparsity=0.5),))])
    asked = {"experiment": experiment, **build()}
    if asked["experiment"] is COSINE:
        asked["experiment"] = small(optimizer=optim.Config("sgd", schedule="cosine"))
    with pytest.raises(RuleError if case in RULES else ConfigError) as error:
        run(grid(**asked), tmp_path / "grid", quiet=True)
    if isinstance(error.value, ConfigError):
        assert error.value.field == field
    else:
        assert str(error.value).startswith(field) and "(at the point " in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_bad_grid_leaves_a_used_directory_as_it_is(tmp_path, grid):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError):
        run(grid(seeds=()), tmp_path, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
