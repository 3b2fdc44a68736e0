"""Bad input: each is a clear error before anything compiles and before anything is written."""

import dataclasses
import json
import math
import re

import jax.numpy as jnp
import numpy as np
import pytest

from jopt import clip, cluster, data, distill, models, optim, prune, quantize, transfer
from jopt.address import with_values
from jopt.config import ConfigError, from_dict, leaves, to_dict
from jopt.data import DataError
from jopt.rules import RuleError
from jopt.train import Experiment, Stage, prepare, run
from jopt.train.checkpoint import CheckpointError, Checkpoints
from jopt.train.workdir import Workdir, WorkdirError
from jopt.transform import chain

NAN, INF = math.nan, math.inf
SET = data.Synthetic(shape=(8, 8, 1), num_classes=4, train=96, validation=40, test=24)


def experiment(**changes) -> Experiment:
    config = Experiment(
        name="tiny",
        model=models.ModelConfig(name="mlp", features=(16,), num_classes=4),
        data=SET,
        epochs=2,
        batch_size=16,
    )
    return dataclasses.replace(config, **changes)


def of_optimizer(*args, **fields) -> Experiment:
    return experiment(optimizer=optim.Config(*args, **fields))


def of_model(name="mlp", **fields) -> Experiment:
    return experiment(model=models.ModelConfig(name=name, **{"num_classes": 4, **fields}))


def of_data(**fields) -> Experiment:
    return experiment(data=dataclasses.replace(SET, **fields))


def of_digits(**fields) -> Experiment:
    return experiment(data=data.Digits(**fields))


def of_catalog(**fields) -> Experiment:
    return experiment(data=data.Tfds(**fields))


def of_stages(*stages) -> Experiment:
    return experiment(stages=list(stages))


def of_stage(**fields) -> Experiment:
    return of_stages(Stage(**fields))


def of_method(kind, **fields) -> Experiment:
    return of_stage(methods=(kind(**fields),))


def pruned(kind=prune.Gradual, **fields) -> Experiment:
    return of_method(kind, **fields)


def shared(**fields) -> Experiment:
    return of_method(cluster.Share, **fields)


def tied(*groups) -> Experiment:
    return of_method(cluster.Tie, groups=groups)


def quantized(kind=quantize.Weights, **fields) -> Experiment:
    return of_method(kind, **fields)


def activated(kind=quantize.Activations, **fields) -> Experiment:
    return of_method(kind, **fields)


def clipped(**fields) -> Experiment:
    return of_method(clip.Range, **fields)


def taught(kind=distill.SoftTargets, **fields) -> Experiment:
    lesson = kind(**{"teacher": "stage:teacher", **fields})
    return of_stages(Stage("teacher"), Stage("student", methods=(lesson,)))


def matched(pairs=(("Dense_0", "Dense_0"),), **fields) -> Experiment:
    return taught(features=distill.Features(pairs, **fields))


def taken(source="stage:other", **fields) -> Experiment:
    return of_stages(Stage("other"), Stage("here", transfer=transfer.Transfer(source, **fields)))


def sequence(model) -> Experiment:
    return dataclasses.replace(of_data(layout="sequence"), model=models.ModelConfig(name=model, num_classes=4))


def bad(build, prefix, *args, beside=None, **values):
    """(config, field, value) of every bad value of every field, with these good ones beside it."""
    return [
        pytest.param(build(*args, **{**(beside or {}), name: value}), prefix + name, value, id=prefix + name)
        for name, bad_values in values.items()
        for value in bad_values
    ]


# Each is refused with this field and this value. 1 - 1e-12, 1e39 and 1e-50 are 1, infinity and 0 as float32.
FIELDS = [
    *bad(experiment, "", seed=[-1, 2**32, 1.0, True], batch_size=[-1, 97]),
    *bad(experiment, "", epochs=[0], segment_steps=[0], evaluate_every=[0], checkpoint_every=[0]),
    *bad(experiment, "", ema_decay=[1.0, -0.5, 1 - 1e-12], keep_checkpoints=[-1], model=[optim.Config()]),
    *bad(experiment, "", stages=[(Stage(),)]),
    # Not a multiple of the 8 devices; more steps than int32 counts.
    *bad(experiment, "", beside={"data_parallel": True}, batch_size=[12]),
    *bad(experiment, "", beside={"segment_steps": 2**30}, epochs=[2**30]),
    *bad(of_optimizer, "optimizer.", variant=["papr"], schedule=["cos"], decay_rate=[0.0], b2=[1.5], eps=[0.0]),
    *bad(of_optimizer, "optimizer.", learning_rate=[-1.0, 0.0, NAN, INF, "0.1", 1e39, 1e-50]),
    *bad(of_optimizer, "optimizer.", momentum=[1.0, -0.1], weight_decay=[-1e-4], l1=[INF]),
    *bad(of_optimizer, "optimizer.", clip_by_global_norm=[0.0], clip_by_value=[0.0], adaptive_clip=[0.0]),
    # A stage has 12 steps.
    *bad(of_optimizer, "optimizer.", warmup_steps=[-1, 2**31, 13], accumulate_steps=[0, 13]),
    *bad(of_optimizer, "optimizer.", learning_rate_rules=[((".*", "x"),), (".*", 0.5)]),
    *bad(of_optimizer, "optimizer.", "momentum", variant=["paper"], momentum=[1 - 1e-12]),
    *bad(of_optimizer, "optimizer.", beside={"schedule": "cosine"}, warmup_steps=[12]),
    *bad(of_optimizer, "optimizer.", beside={"schedule": "cosine", "decay_steps": 5}, warmup_steps=[12]),
    *bad(of_optimizer, "optimizer.", beside={"schedule": "step"}, boundaries=[(0.75, 0.5)]),
    *bad(of_model, "model.", num_classes=[5, 0], features=[(1.5,), 16, [16]], activation=["rleu"]),
    *bad(of_model, "model.", dropout=[1.0, NAN, 1 - 1e-12], dtype=["float16"], padding=["SAME"]),
    *bad(of_model, "model.", "lenet5", features=[(20, 50)], padding=["same"]),
    *bad(of_model, "model.", "linear", features=[(3,)]),
    *bad(of_model, "model.", "tied_mlp", features=[(8, 8, 9)]),
    *bad(of_model, "model.", "gru", activation=["relu"]),
    *bad(of_model, "model.", "cnn", hidden=[0]),
    *bad(of_catalog, "data.", name=["digit", ""]),
    *bad(of_data, "data.", layout=["rows"], validation_fraction=[0.0], shift=[-1, 8]),
    *bad(of_data, "data.", train_examples=[97, 0]),
    *bad(of_data, "data.", beside={"shift": 1}, crop_padding=[1]),
    *bad(of_data, "data.", beside={"layout": "sequence"}, flip=[True]),
    *bad(of_digits, "data.", data_dir=["/etc/passwd/sets"]),
    *bad(of_data, "data.", shape=[(0, 8, 1), (8, 8)], num_classes=[1], test=[0]),
    *bad(of_data, "data.", noise=[-1.0, INF], seed=[-1]),
    *bad(pruned, "stages[0].prune.", sparsity=[NAN, 1 - 1e-12], initial_sparsity=[-0.1], begin=[1.0]),
    *bad(pruned, "stages[0].prune.", score=["magnitud"], pattern=["2:4", "nm"], budget=["erdos"], end=[1.5]),
    *bad(pruned, "stages[0].prune.", schedule=["cubik"]),
    *bad(pruned, "stages[0].prune.", beside={"sparsity": 0.5}, initial_sparsity=[0.6]),
    *bad(pruned, "stages[0].prune.", beside={"begin": 0.5}, end=[0.25]),
    *bad(pruned, "stages[0].prune.", prune.OneShot, sparsity=[-0.1, 1.0], pattern=[prune.NM(2, 4)]),
    *bad(pruned, "stages[0].prune.", prune.Iterative, rounds=[0]),
    *bad(pruned, "stages[0].prune.", prune.NofM, n=[0, 2.0], axis=["rows"], begin=[-0.5], score=["activation"]),
    *bad(pruned, "stages[0].prune.", prune.NofM, beside={"n": 4}, m=[4]),
    *bad(pruned, "stages[0].prune.", prune.RigL, drop_fraction=[INF, 1.0], budget=["global"], end=[-0.5]),
    *bad(pruned, "stages[0].prune.", prune.SET, drop_fraction=[-0.1], budget=["global"], sparsity=[NAN]),
    *bad(pruned, "stages[0].prune.", beside={"score": "activation"}, pattern=[prune.Channel(-2)]),
    *bad(shared, "stages[0].share.", clusters=[1, 4097], start=["kmeans"], gradient=["max"]),
    *bad(shared, "stages[0].share.", iterations=[-1], begin=[1.0]),
    *bad(shared, "stages[0].share.", beside={"keep_zero": False}, clusters=[0]),
    *bad(shared, "stages[0].share.", beside={"trained": False}, gradient=["sum"]),
    *bad(quantized, "stages[0].quantize.", bits=[-1, 12], granularity=["row"], calibration=["max"]),
    *bad(quantized, "stages[0].quantize.", group=[0]),
    # Groups are parts of channels.
    *bad(quantized, "stages[0].quantize.", beside={"granularity": "tensor"}, group=[4]),
    *bad(quantized, "stages[0].quantize.", beside={"bits": 1}, calibration=["mse"]),
    *bad(quantized, "stages[0].quantize.", quantize.Ternary, threshold=[-0.1], granularity=["group"]),
    *bad(activated, "stages[0].activations.", bits=[17], examples=[0], calibration=["ema"]),
    *bad(activated, "stages[0].activations.", beside={"bits": None}, state=[True]),
    *bad(activated, "stages[0].activations.", quantize.LSQActivations, bits=[0]),
    *bad(activated, "stages[0].activations.", quantize.PACTActivations, percentile=[50.0]),
    *bad(activated, "stages[0].activations.", quantize.MovingAverageActivations, momentum=[1.0]),
    *bad(clipped, "stages[0].clip.", high=[-0.5], low=[NAN]),
    *bad(clipped, "stages[0].clip.", beside={"low": 0.0}, high=[0.0]),
    *bad(taught, "stages[1].distill.", teacher=["", "stage:", "stage:student"], weight=[1.5]),
    *bad(taught, "stages[1].distill.", distill.LogitMSE, teacher=["", "stage:student"], weight=[-0.5]),
    *bad(taught, "stages[1].distill.", temperature=[0.0, -1.0, 1e-50, INF]),
    *bad(matched, "stages[1].distill.features.", pairs=[()], loss=["kl"], weight=[0.0, NAN]),
    *bad(of_stage, "stages[0].", start=["train"], methods=[prune.Gradual(), (prune.Gradual,)]),
]

# (config, field, value) where the field is an entry of a tuple, or the value is another part's.
CONFIGS = [
    (dataclasses.replace(of_data(train_examples=8), batch_size=9), "batch_size", 9),
    # The number of segments, not of epochs, is what is too large.
    (experiment(epochs=10**7), "segment_steps", None),
    (of_optimizer("adm"), "optimizer.name", "adm"),
    (of_optimizer(freeze=("(",)), "optimizer.freeze[0]", "("),
    (of_optimizer(weight_decay_rules=((".*", -1.0),)), "optimizer.weight_decay_rules[0]", -1.0),
    (of_model("resnet"), "model.name", "resnet"),
    (of_model(features=(16, -1)), "model.features[1]", -1),
    # Convolutions and poolings that leave nothing of 8 x 8 images, or find no images.
    (of_model("lenet5", padding="VALID"), "model.name", "lenet5"),
    (of_model("cnn", features=(4,) * 5), "model.name", "cnn"),
    (sequence("cnn"), "model.name", "cnn"),
    (sequence("resnet18"), "model.name", "resnet18"),
    # Stages
    (of_stages(), "stages", []),
    (of_stages("train"), "stages", ["train"]),
    (of_stages(Stage("a"), Stage("a")), "stages[0].name", "a"),
    (of_stages(Stage("")), "stages[0].name", ""),
    (of_stages(Stage("a"), Stage("b", epochs=1, steps=2)), "stages[1].steps", 2),
    (of_stages(Stage(steps=-2)), "stages[0].steps", -2),
    (of_stages(Stage(epochs=-3)), "stages[0].epochs", -3),
    (of_stages(Stage(optimizer=optim.Config(decay=1.0))), "stages[0].optimizer.decay", 1.0),
    (
        of_stages(Stage("a"), Stage("b", steps=5, optimizer=optim.Config(schedule="linear", warmup_steps=5))),
        "stages[1].optimizer.warmup_steps",
        5,
    ),
    # Pruning
    (pruned(prune.NofM, n=5), "stages[0].prune.m", 4),
    (pruned(rules=((".*kernel", 1.2),)), "stages[0].prune.rules[0]", 1.2),
    (pruned(rules=(("Dense_0/.*", None), ("(", 0.5))), "stages[0].prune.rules[1]", "("),
    (pruned(pattern=prune.NM(2, 4)), "stages[0].prune.pattern", prune.NM(2, 4)),
    (pruned(prune.NofM, rules=((".*", 0.5),)), "stages[0].prune.rules[0]", 0.5),
    (pruned(score="activation"), "stages[0].prune.pattern", prune.Unstructured()),
    (pruned(prune.OneShot, score="movement"), "stages[0].prune.begin", 0.0),
    # The only segment ends after step 9, where the sparsity should be reached.
    (of_stage(methods=(prune.Gradual(end=0.75),), segment_steps=12), "stages[0].prune.end", 0.75),
    # Sharing, quantization, clipping
    (shared(rules=((".*kernel", 1),)), "stages[0].share.rules[0]", 1),
    (shared(rules=(("[", 4),)), "stages[0].share.rules[0]", "["),
    (tied(), "stages[0].tie.groups", ()),
    (tied("Dense_0/.*", "*"), "stages[0].tie.groups[1]", "*"),
    (quantized(rules=((".*", 9),)), "stages[0].quantize.rules[0]", 9),
    (quantized(rules=(("(", 4),)), "stages[0].quantize.rules[0]", "("),
    (activated(rules=((".*", 0),)), "stages[0].activations.rules[0]", 0),
    (clipped(rules=((".*", 0.0),)), "stages[0].clip.rules[0]", 0.0),
    # Distillation and transfer
    (matched((("a", "b"), ("a", "b"))), "stages[1].distill.features.pairs[1]", ("a", "b")),
    # No layer of the network, whose others are `Dense_0` and `Dense_1`.
    (matched((("Dense_0", "Dense_0"), ("Dense_1", "Dense_2"))), "stages[1].distill.features.pairs[1]", "Dense_2"),
    (taken(""), "stages[1].transfer.source", ""),
    (taken("stage:here"), "stages[1].transfer.source", "stage:here"),
    (taken(rules=((r"Dense_(\d)/.*", r"Dense_\2/kernel"),)), "stages[1].transfer.rules[0]", r"Dense_\2/kernel"),
    (taken(freeze=("(",)), "stages[1].transfer.freeze[0]", "("),
    # What the methods of a stage, and stages, do to one another
    (of_stage(methods=(prune.Gradual(), prune.RigL())), "stages[0].methods", ("prune", "prune")),
    (of_stage(order=("prune",)), "stages[0].order", ("prune",)),
    (
        of_stage(methods=(prune.Gradual(), cluster.Share()), order=("share", "prune", "quantize")),
        "stages[0].order",
        ("share", "prune", "quantize"),
    ),
    (
        of_stages(Stage("a", methods=(prune.Gradual(),)), Stage("b", methods=(cluster.Share(),), order=("share",))),
        "stages[1].order",
        ("share",),
    ),
    (of_stage(release=("prune",)), "stages[0].release", "prune"),
    (
        of_stages(
            Stage("a", methods=(clip.Range(),)), Stage("b", release=("clip",)), Stage("c", release=("clip",))
        ),
        "stages[2].release",
        "clip",
    ),
    (
        of_stages(
            Stage("share", methods=(cluster.Share(),)),
            Stage("ternary", methods=(quantize.Ternary(granularity="channel"),)),
        ),
        "stages[1].quantize.granularity",
        "channel",
    ),
]

# (config, the rule that the error names): it matches no parameter, or only those of rules before it.
RULES = [
    (of_optimizer(freeze=("nope",)), "optimizer.freeze: rule 'nope'"),
    (of_optimizer(learning_rate_rules=(("Conv.*", 0.5),)), "optimizer.learning_rate_rules: rule 'Conv.*'"),
    # A rule must match a whole path.
    (of_optimizer(weight_decay_rules=(("bias", 0.0),)), "rule 'bias'"),
    (of_optimizer(learning_rate_rules=((".*", 0.5), (".*kernel", 0.1))), "rule '.*kernel'"),
    (
        of_stages(Stage("a"), Stage("b", optimizer=optim.Config(freeze=("Dense_9/.*",)))),
        "stages[1].optimizer.freeze: rule 'Dense_9/.*'",
    ),
    (pruned(prune.OneShot, rules=((".*kernel", 0.5), ("Dense_0/kernel", 0.9))), "rule 'Dense_0/kernel'"),
    (tied("Conv_[01]/kernel"), "Conv_[01]/kernel'"),
    (taken(freeze=("head/.*",)), "rule 'head/.*'"),
]


PARAMS = {"Dense_0": {"bias": jnp.zeros(4), "kernel": jnp.arange(24.0).reshape(6, 4)}}
BROKEN = {"Dense_0": {"bias": jnp.zeros(4), "kernel": jnp.zeros((6, 4)).at[1, 2].set(NAN)}}
TWO = {"a": jnp.zeros((2, 3)), "b": jnp.zeros((3, 2))}


def started(transform, params=PARAMS):
    return transform.init(params)


def updated(transform, params=PARAMS, **more):
    return transform.update(transform.init(params), params, step=0, **more)


def applied(transform, params=PARAMS):
    return transform.apply(transform.init(params), params)


def moved(target, **fields):
    """The plan of taking a kernel of 2 x 3 into `target`."""
    return transfer.plan(transfer.Transfer("runs/big", **fields), target, {"a": jnp.zeros((2, 3))})


KERNEL = "Dense_0/kernel"
# (what is called, what its ValueError names): an argument or a parameter, what it is, what came in.
CALLS = [
    # prune
    (lambda: prune.one_shot(1.0), "sparsity", "1.0"),
    (lambda: prune.keep_count(10, -0.1), "sparsity", "-0.1"),
    (lambda: prune.one_shot(), "sparsity", "None"),
    (lambda: started(prune.one_shot(0.5, rules=[(KERNEL, 1.2)])), "sparsity", "1.2", repr(KERNEL)),
    (lambda: prune.one_shot(0.75, pattern=prune.NM(2, 4)), "sparsity", "0.75", "NM(n=2, m=4, axis=-1)", "0.5"),
    (lambda: prune.one_shot(0.5, begin=-1), "begin", "-1"),
    (lambda: prune.gradual(0.5, begin=5, end=2), "end", "2", "begin (5)"),
    (lambda: prune.gradual(0.5, begin=0, end=9, initial_sparsity=0.6), "initial_sparsity", "0.6"),
    (
        lambda: prune.gradual(0.5, begin=0, end=9, pattern=prune.NM(2, 4)),
        "pattern of gradual",
        "NM(n=2, m=4, axis=-1)",
    ),
    (lambda: prune.iterative(0.5, begin=0, end=9, rounds=0), "rounds", "0"),
    (lambda: prune.rigl(0.5, end=9, pattern=prune.Channel()), "pattern of RigL", "Channel(axis=-1)"),
    (lambda: prune.set_evolution(0.5, end=9, drop_fraction=1.0), "drop_fraction", "1.0"),
    (lambda: prune.NM(5, 4), "NM(n, m)", "n=5, m=4"),
    (lambda: prune.NM(0.5, 4), "NM(n, m)", "n=0.5, m=4"),
    (
        lambda: started(prune.one_shot(pattern=prune.NM(2, 4, axis=-2))),
        KERNEL,
        "NM(n=2, m=4, axis=-2)",
        "axis 0",
        "(6, 4)",
    ),
    (
        lambda: started(prune.one_shot(0.5, pattern=prune.Block((2, 3)))),
        KERNEL,
        "Block(shape=(2, 3))",
        "axis 1",
        "(6, 4)",
    ),
    (
        lambda: started(prune.one_shot(0.5, pattern=prune.Block((1, 2, 2)))),
        KERNEL,
        "Block(shape=(1, 2, 2))",
        "3 axes",
        "(6, 4)",
    ),
    (lambda: started(prune.one_shot(0.5, pattern=prune.Channel(2))), KERNEL, "Channel(axis=2)", "(6, 4)"),
    (lambda: updated(prune.one_shot(0.5), BROKEN), KERNEL, "NaN in 1 of 24"),
    (lambda: prune.top_k_mask(jnp.array([1.0, NAN]), 0.5), "scores", "NaN in 1 of 2"),
    (lambda: prune.keep_top(jnp.ones(3), 4), "count", "4", "[0, 3]"),
    (lambda: updated(prune.one_shot(0.5, score="saliency")), "'saliency'", "grads", "None"),
    (lambda: updated(prune.set_evolution(0.5, end=9)), "'SET'", "key", "None"),
    (
        lambda: updated(prune.one_shot(0.5, score="wanda"), layers={"Conv_0": None}),
        KERNEL,
        "'wanda'",
        "Conv_0",
    ),
    # There is no weight.
    (lambda: started(prune.one_shot(0.5), {"bias": jnp.zeros(3)}), "no parameter is pruned", "bias"),
    (
        lambda: started(prune.one_shot(0.5, rules=[("count", 0.5)]), {"count": jnp.zeros(3, jnp.int32)}),
        "count",
        "int32",
        "'count'",
    ),
    # cluster
    (lambda: started(cluster.share(1)), "clusters", "1"),
    (lambda: cluster.kmeans(jnp.ones(3), 2.5), "k ", "2.5"),
    (lambda: cluster.share(4, start="forgy"), "start", "'forgy'"),
    (lambda: cluster.share(4, gradient="max"), "gradient", "'max'"),
    (lambda: updated(cluster.share(4, start="kmeans++")), "start 'kmeans++'", "key"),
    (lambda: updated(cluster.share(4), BROKEN), KERNEL, "1 entries"),
    # clip
    (lambda: clip.clip(0.5, 1.0), "low", "0.5"),
    (lambda: clip.clip_params(PARAMS, -1.0, -0.5), "high", "-0.5"),
    (lambda: clip.clip(NAN, 1.0), "low", "nan"),
    (lambda: clip.clip_params(PARAMS, rules=[(".*kernel", -1.0)]), "'.*kernel'", "-1.0"),
    # quantize
    *((lambda bits=bits: quantize.Spec(bits), "bits", str(bits)) for bits in (0, 9, 4.0, True)),
    (lambda: quantize.fake_quantize(jnp.ones(3), quantize.Spec(np.array(12))), "bits", "12"),
    (lambda: quantize.Spec(4, group=0), "group", "0"),
    (lambda: applied(quantize.weights(quantize.Spec(4, axis=-1, group=4))), KERNEL, "group", "4", "6", "(6, 4)"),
    (lambda: applied(quantize.weights(quantize.Spec(4, axis=2))), KERNEL, "axis", "2"),
    (lambda: applied(quantize.weights(), BROKEN), KERNEL, "1 NaN and 0 infinite of 24"),
    (lambda: applied(quantize.binary(), BROKEN), KERNEL, "1 NaN and 0 infinite of 24"),
    (lambda: quantize.fake_quantize(jnp.arange(3), quantize.Spec(4)), "x", "int32"),
    (lambda: quantize.quantize(jnp.ones(3), quantize.Spec.identity()), "bits", "None"),
    (lambda: quantize.ternarize(jnp.ones((2, 2)), threshold=-1.0), "threshold", "-1.0"),
    # distill, chain
    *(
        (lambda t=t: distill.loss(jnp.ones((2, 3)), jnp.ones((2, 3)), t), "temperature", str(t))
        for t in (0.0, -1.0, NAN)
    ),
    (lambda: distill.loss(jnp.ones((2, 3)), jnp.ones((2, 4)), 1.0), "student and teacher", "(2, 3)", "(2, 4)"),
    (lambda: distill.mse(jnp.ones((2, 3), jnp.int32), jnp.ones((2, 3))), "student", "int32"),
    (lambda: chain(clip.clip()).apply((), PARAMS), "chain", "1 transforms", "0 parts"),
]

# (what is called, the argument that its ConfigError names, what came in)
ARGUMENTS = [
    (lambda: prune.one_shot(0.5, score="l1"), "score", "l1"),
    (lambda: prune.one_shot(0.5, budget="all"), "budget", "all"),
    (lambda: prune.gradual(0.5, begin=0, end=9, schedule="cubik"), "schedule", "cubik"),
    (lambda: prune.Block(()), "Block's shape", ()),
    (lambda: prune.Block((4, 0)), "Block's shape", (4, 0)),
    (lambda: quantize.weights(calibration="entropy"), "calibration", "entropy"),
]

# As CALLS, of rules.
RULE_CALLS = [
    (lambda: started(prune.one_shot(0.5, rules=[("Dense_1/.*", 0.9)])), "'Dense_1/.*'", f"Dense_0/bias, {KERNEL}"),
    (lambda: started(cluster.tie(["Dense_0/bias"])), "'Dense_0/bias'", "float32[4]"),
    (lambda: started(cluster.tie(["a|b"]), TWO), "'a|b'", "a float32[2, 3], b float32[3, 2]"),
    (lambda: applied(quantize.weights(rules=[("Dense_1/.*", None)])), "'Dense_1/.*'"),
]

# As CALLS, of what is copied from another network: a parameter, and why it cannot be.
TRANSFERS = [
    (lambda: moved({"a": jnp.zeros((2, 4))}), "a is 2x4", "2x3"),
    (lambda: moved(TWO), "b is to be copied", "the nearest are a"),
    (lambda: moved(TWO, reinitialize=("b",), freeze=("b",)), "b would be frozen"),
    (lambda: moved(TWO, reinitialize=(".*",)), "no parameter would be copied"),
]


@pytest.fixture(autouse=True)
def no_compilation(monkeypatch):
    def compiled(self, request):
        pytest.fail(f"{request.name!r} was compiled")

    monkeypatch.setattr("jopt.train.compiler.Compiler.compiled", compiled)


def files_of(directory):
    """Every file's content, but for the lock, which is empty and says nothing."""
    return {p: p.read_bytes() for p in directory.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize(("config", "field", "value"), [*FIELDS, *CONFIGS])
def test_a_bad_config_is_refused_with_its_field(tmp_path, config, field, value):
    with pytest.raises(ConfigError) as error:
        run(config, tmp_path / "run", quiet=True)
    # Of the values: NaN is not equal to itself, and 1 is equal to True.
    assert (error.value.field, repr(error.value.value)) == (field, repr(value))
    assert error.value.accepted and {field, repr(value)} <= set(re.split(" must be .*, got ", str(error.value)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("config", "rule"), RULES)
def test_a_rule_that_does_nothing_is_refused_with_its_pattern(tmp_path, config, rule):
    with pytest.raises(RuleError) as error:
        run(config, tmp_path / "run", quiet=True)
    assert rule in str(error.value)
    # What would be accepted is a rule that matches, so the parameters are listed.
    assert str(error.value).endswith("Dense_0/bias, Dense_0/kernel, Dense_1/bias, Dense_1/kernel")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "call", "names"),
    [
        (kind, call, names)
        for kind, table in ((ValueError, CALLS), (RuleError, RULE_CALLS), (transfer.TransferError, TRANSFERS))
        for call, *names in table
    ],
)
def test_a_bad_call_is_refused_with_its_reason(kind, call, names):
    with pytest.raises(kind) as error:
        call()
    assert type(error.value) is kind
    assert [name for name in names if name not in str(error.value)] == []


@pytest.mark.parametrize(("call", "argument", "value"), ARGUMENTS)
def test_a_bad_argument_is_refused_with_its_name(call, argument, value):
    with pytest.raises(ConfigError) as error:
        call()
    assert (error.value.field, error.value.value) == (argument, value)


def no_run(path):
    """No directory at all."""


def not_finished(path):
    Workdir(path).create(experiment())


@pytest.mark.parametrize("field", ["distill.teacher", "transfer.source"])
@pytest.mark.parametrize("make", [no_run, not_finished])
def test_a_directory_without_a_finished_run_teaches_nothing(tmp_path, field, make):
    make(tmp_path / "source")
    before, source = files_of(tmp_path), str(tmp_path / "source")
    kind = field.split(".")[0]
    if kind == "distill":
        config = of_method(distill.SoftTargets, teacher=source)
    else:
        config = of_stage(transfer=transfer.Transfer(source))
    with pytest.raises(ConfigError) as error:
        run(config, tmp_path / "run", quiet=True)
    assert (error.value.field, error.value.value) == (f"stages[0].{field}", source)
    assert files_of(tmp_path) == before


def test_a_source_of_another_shape_is_refused(tmp_path):
    small = models.ModelConfig(name="mlp", features=(5,), num_classes=4)
    stages = Stage("other"), Stage("here", model=small, transfer=transfer.Transfer("stage:other"))
    with pytest.raises(transfer.TransferError, match=r"Dense_0/kernel.*64x5.*Dense_0/kernel.*64x16"):
        run(of_stages(*stages), tmp_path / "run", quiet=True)
    assert not list(tmp_path.iterdir())


WHOLE = experiment(
    stages=[
        Stage(
            optimizer=optim.Config(),
            methods=(
                cluster.Tie(("Dense_.*/bias",)),
                prune.Gradual(),
                cluster.Share(),
                quantize.Weights(),
                clip.Range(),
                quantize.Activations(),
                distill.SoftTargets(features=distill.Features()),
            ),
            transfer=transfer.Transfer(),
        )
    ]
)
# The classes that are not in WHOLE.
OTHERS = (
    *(prune.OneShot, prune.Iterative, prune.RigL, prune.SET, prune.NofM),
    *(quantize.Binary, quantize.XNOR, quantize.Ternary),
    *(quantize.LSQActivations, quantize.PACTActivations, quantize.MovingAverageActivations, distill.LogitMSE),
)


@pytest.mark.parametrize("path", [path for path, _ in leaves(WHOLE)])
def test_every_field_refuses_another_type(tmp_path, path):
    wrong = 1j
    with pytest.raises(ConfigError) as error:
        run(with_values(WHOLE, {path: wrong}), tmp_path / "run", quiet=True)
    assert (error.value.field, error.value.value) == (path, wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", OTHERS)
def test_every_field_of_every_method_refuses_another_type(kind):
    wrong = 1j
    for field in dataclasses.fields(kind):
        with pytest.raises(ConfigError) as error:
            prepare(of_method(kind, **{field.name: wrong}))
        assert (error.value.field, error.value.value) == (f"stages[0].{kind.name}.{field.name}", wrong)


def node_of(tree, path):
    """The dictionary at a path of a JSON tree, and that path with the places of methods."""
    json_path = ""
    for part in filter(None, re.split(r"\.|(?=\[)", path)):
        if part.startswith("["):
            tree, part = tree[int(part[1:-1])], part
        elif part not in tree:
            i = next(i for i, m in enumerate(WHOLE.stages[0].methods) if m.name == part)
            tree, part = tree["methods"][i], f".methods[{i}]"
        else:
            tree, part = tree[part], f".{part}"
        json_path += part
    return tree, json_path.removeprefix(".")


@pytest.mark.parametrize(
    "path",
    ["", "model", "data", "optimizer", "stages[0]", "stages[0].optimizer", "stages[0].transfer"]
    + [f"stages[0].{method.name}" for method in WHOLE.stages[0].methods]
    + ["stages[0].distill.features"],
)
def test_every_config_refuses_an_unknown_field(path):
    tree = to_dict(WHOLE)
    node, json_path = node_of(tree, path)
    node["lerning_rate"] = 0.1
    with pytest.raises(ConfigError) as error:
        from_dict(Experiment, tree)
    # A method is named by its place in the list of the file.
    assert (error.value.field, error.value.value) == (f"{json_path}.lerning_rate".removeprefix("."), 0.1)
    # What would be accepted: the fields that there are.
    fields = node.keys() - {"lerning_rate", "class"}
    assert fields and all(name in error.value.accepted for name in fields)


@pytest.mark.parametrize("kind", OTHERS)
def test_every_method_refuses_an_unknown_field(kind):
    tree = to_dict(of_method(kind))
    tree["stages"][0]["methods"][0]["methid"] = "gradual"
    with pytest.raises(ConfigError) as error:
        from_dict(Experiment, tree)
    assert (error.value.field, error.value.value) == ("stages[0].methods[0].methid", "gradual")
    assert all(field.name in error.value.accepted for field in dataclasses.fields(kind))


def test_a_function_that_no_file_can_name_is_refused_by_its_address():
    def score(weight):
        return weight

    with pytest.raises(ConfigError) as error:
        to_dict(pruned(score=score))
    assert (error.value.field, error.value.value) == ("stages[0].prune.score", score)


@pytest.mark.parametrize("text", ["jopt.prune.methods:Gradul", "jopt.optim:Config", "jopt.prune:gradual", 3])
def test_a_class_that_is_no_method_is_refused(text):
    tree = to_dict(of_method(prune.Gradual))
    tree["stages"][0]["methods"][0]["class"] = text
    with pytest.raises(ConfigError) as error:
        from_dict(Experiment, tree)
    assert (error.value.field, error.value.value) == ("stages[0].methods[0].class", text)


@pytest.mark.parametrize(
    ("kind", "percentile"),
    [
        *((quantize.Weights, percentile) for percentile in (0.0, 100.5, NAN)),
        *((quantize.Activations, percentile) for percentile in (50.0, NAN)),
    ],
)
def test_a_percentile_out_of_range_is_refused(kind, percentile):
    with pytest.raises(ConfigError) as error:
        prepare(of_method(kind, calibration=quantize.Percentile(percentile)))
    assert error.value.field == f"stages[0].{kind.name}.calibration.percentile"
    assert repr(error.value.value) == repr(percentile)


def test_data_that_cannot_be_prepared_are_an_error(tmp_path):
    (tmp_path / "sets" / ".digits.lock").mkdir(parents=True)
    config = of_digits(data_dir=str(tmp_path / "sets"))
    with pytest.raises(DataError, match=r"data\.data_dir.* write .*/sets"):
        run(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def other_run(path):
    Workdir(path).create(experiment(seed=5))


def not_json(path):
    path.mkdir()
    (path / "config.json").write_text("{")


def of_another_version(path):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({**to_dict(experiment()), "sparsity": 0.5}))


def foreign(path):
    path.mkdir()
    (path / "thesis.tex").write_text("x")


def a_file(path):
    path.write_text("x")


def other_model(path):
    Workdir(path).create(experiment())
    # Without a manifest the launch would be refused for that.
    (path / "manifest.json").write_text('{"events": []}')
    with Checkpoints(Workdir(path).checkpoints) as checkpoints:
        checkpoints.save(12, {"w": np.zeros(3, np.float32)}, {"score": 0.0})


def damaged_result(path):
    Workdir(path).create(experiment())
    (path / "result.json").write_text("{")


def damaged_manifest(path):
    Workdir(path).create(experiment())
    (path / "manifest.json").write_text("{")


DIRECTORIES = {
    "another_run": (other_run, WorkdirError, "differs in seed (5 there, 0 now)"),
    "config_not_json": (not_json, WorkdirError, "config.json"),
    "config_of_another_version": (of_another_version, WorkdirError, "sparsity"),
    "foreign_files": (foreign, WorkdirError, "holds thesis.tex but no config.json"),
    "file": (a_file, WorkdirError, "is not a directory"),
    "checkpoint_of_another_model": (other_model, CheckpointError, "is of another model or optimizer: w is not in"),
    "result_not_json": (damaged_result, WorkdirError, "result.json cannot be read"),
    "manifest_not_json": (damaged_manifest, WorkdirError, "manifest.json cannot be read"),
}


def check_directory(tmp_path, make, kind, text):
    make(tmp_path / "run")
    before = files_of(tmp_path)
    with pytest.raises(kind) as error:
        run(experiment(), tmp_path / "run", quiet=True)
    assert text in str(error.value) and str(tmp_path / "run") in str(error.value)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("case", DIRECTORIES)
def test_a_directory_that_cannot_be_used_stays_as_it_is(tmp_path, case):
    check_directory(tmp_path, *DIRECTORIES[case])


def test_a_directory_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WorkdirError, match=r"file/run.*written"):
        run(experiment(), tmp_path / "file" / "run", quiet=True)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_directory_in_use_is_refused(tmp_path):
    files = Workdir(tmp_path / "run")
    files.create(experiment())
    before = files_of(tmp_path)
    with files.locked(), pytest.raises(WorkdirError, match=r"/run\b.*in use"):
        run(experiment(), tmp_path / "run", quiet=True)
    assert files_of(tmp_path) == before
