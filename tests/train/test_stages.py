"""What stages hand on to one another: masks, codebooks, earlier states, teachers and parameters of other runs."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import linen as nn
from quick import jit

from jopt import clip, cluster, data, distill, hyper, models, optim, prune, quantize, transfer
from jopt.config import ConfigError, from_dict, to_dict
from jopt.files import unseal
from jopt.rules import RuleError
from jopt.train import Experiment, Stage, build, prepare, run
from jopt.train.checkpoint import Checkpoints
from jopt.train.compiler import Compiler
from jopt.train.metrics import read, without_timing
from jopt.train.plan import with_layers
from jopt.train.prepared import resolve
from jopt.train.session import InvariantError
from jopt.train.staging import Staging

# The apps' tests draw, and `test_run.py` looks at programs as users run them.
pytestmark = [pytest.mark.unoptimized, pytest.mark.usefixtures("undrawn")]

HALF = prune.OneShot(sparsity=0.5)
KERNELS = ("Dense_0", "Dense_1")


def ends(config, path, model=None):
    """The state at the end of each stage of a finished run, and what the model sees there."""
    p = prepare(config, model=model)
    with Checkpoints(path / "checkpoints", config.keep_checkpoints) as checkpoints:
        states = [checkpoints.restore(p.end_of(i).mark, p.like(i)).state for i in range(len(config.stages))]
    seen = [
        jax.device_get(p.program(p.plans[i]).seen(p.to_device(state), p.values).params)
        for i, state in enumerate(states)
    ]
    return states, seen


def zeros(params):
    return {name: params[name]["kernel"] == 0 for name in KERNELS}


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_a_stage_without_steps_applies_its_methods_to_what_there_is(tmp_path, tiny):
    config = tiny(stages=[Stage("dense", epochs=2), Stage("prune", steps=0, methods=(HALF,))])
    result = run(config, tmp_path, quiet=True)
    (dense, pruned), _ = ends(config, tmp_path)
    assert int(dense.step) == int(pruned.step) == 12
    for name in KERNELS:
        survivors = pruned.params[name]["kernel"] != 0
        before = dense.params[name]["kernel"]
        assert survivors.sum() == before.size // 2 and np.array_equal(
            pruned.params[name]["kernel"][survivors], before[survivors]
        )
        assert np.abs(before[survivors]).min() >= np.abs(before[~survivors]).max()
    rows = [(row["step"], row["stage"], row["split"]) for row in read(tmp_path / "metrics.jsonl")]
    assert rows[-2:] == [(12, "prune", "validation"), (12, "prune", "test")]
    assert [row["stage"] for row in result["stages"]] == ["dense", "prune"]
    assert result["stages"][1]["nonzero_parameters"] == result["nonzero_parameters"] < result["parameters"]


def test_what_a_stage_imposes_later_ones_keep_until_it_is_released(tmp_path, tiny):
    config = tiny(
        stages=[
            Stage("prune", epochs=2, methods=(HALF,)),
            Stage("train", epochs=2, optimizer=optim.Config("momentum", weight_decay=0.1, l1=0.1)),
            Stage("free", epochs=1, release=("prune",)),
        ]
    )
    run(config, tmp_path, quiet=True)
    (first, second, third), _ = ends(config, tmp_path)
    same(zeros(first.params), zeros(second.params))
    for moments in jax.tree.leaves(second.opt_state):
        for name in KERNELS:
            if moments.shape == first.params[name]["kernel"].shape:
                assert (moments[zeros(second.params)[name]] == 0).all()
    assert not np.array_equal(second.params["Dense_0"]["kernel"], first.params["Dense_0"]["kernel"])
    assert all(~z.any() for z in zeros(third.params).values())


def test_pruning_named_again_goes_on_from_the_masks_that_there_are(tmp_path, tiny):
    scores = [prune.OneShot(score="random", sparsity=s) for s in (0.5, 0.75)]
    config = tiny(stages=[Stage(f"s{i}", epochs=1, methods=(c,)) for i, c in enumerate(scores)])
    run(config, tmp_path, quiet=True)
    (first, second), _ = ends(config, tmp_path)
    for name in KERNELS:
        a, b = zeros(first.params)[name], zeros(second.params)[name]
        assert (b >= a).all() and a.mean() == 0.5 and b.mean() == 0.75


def test_a_rule_that_would_let_pruned_weights_go_is_refused(tiny):
    first = prune.OneShot(sparsity=0.5)
    second = prune.OneShot(sparsity=0.75, rules=(("Dense_0/kernel", 0.75), (".*", None)))
    config = tiny(stages=[Stage("a", epochs=1, methods=(first,)), Stage("b", epochs=1, methods=(second,))])
    with pytest.raises(RuleError, match=r"stage 'b'.*again.*Dense_1/kernel"):
        prepare(config)


def test_rewinding_takes_the_old_weights_under_the_new_masks(tmp_path, tiny):
    config = tiny(
        stages=[
            Stage("warm", steps=3),
            Stage("dense", epochs=2),
            Stage("init", steps=0, methods=(HALF,), start="init"),
            Stage("late", steps=0, start="warm"),
            Stage("random", steps=0, start="random"),
        ]
    )
    run(config, tmp_path, quiet=True)
    (warm, dense, init, late, random), _ = ends(config, tmp_path)
    p = prepare(config)
    first = jit(p.program_of(0, 3).init)(p.key, p.values).params
    for name in KERNELS:
        mask = ~zeros(init.params)[name]
        trained = np.abs(dense.params[name]["kernel"])
        assert mask.sum() == mask.size // 2 and trained[mask].min() >= trained[~mask].max()
        assert np.array_equal(init.params[name]["kernel"], np.where(mask, first[name]["kernel"], 0))
        assert np.array_equal(late.params[name]["kernel"], np.where(mask, warm.params[name]["kernel"], 0))
        assert np.array_equal(random.params[name]["kernel"] == 0, ~mask)
        assert not np.array_equal(random.params[name]["kernel"], init.params[name]["kernel"])


def test_a_student_learns_from_an_earlier_stage(tmp_path, tiny):
    student = models.ModelConfig("mlp", features=(5,), num_classes=4)
    distillation = distill.SoftTargets(teacher="stage:teacher", temperature=2.0, weight=1.0)
    stages = [Stage("teacher", epochs=3), Stage("student", epochs=8, model=student, methods=(distillation,))]
    result = run(tiny(stages=stages), tmp_path, quiet=True)
    rows = [r for r in read(tmp_path / "metrics.jsonl") if r["stage"] == "student" and r["split"] == "train"]
    assert rows[-1]["kl"] < rows[0]["kl"] / 2 and {"hard", "soft"} <= rows[0].keys()
    assert rows[0]["loss"] == pytest.approx(rows[0]["soft"], rel=1e-6)  # weight 1: the labels count nothing
    assert result["parameters"] == 36 * 5 + 5 + 5 * 4 + 4


def test_known_logits_and_a_teacher_that_computes_along_teach_the_same(tiny):
    """Without augmentation both are the same function; the sums may differ in their order."""
    distillation = distill.SoftTargets(teacher="stage:teacher")
    config = tiny(
        stages=[Stage("teacher", epochs=1), Stage("student", epochs=1, methods=(distillation,), start="random")]
    )
    p = prepare(config)
    teacher = p.program_of(0, 6).init(p.key, p.values)
    staging = Staging(p, Compiler(), lambda stage: teacher)
    state = staging.begin(1, teacher)
    trained = p.program_of(1, 6).segment(state, p.values, staging.arrays(1)["train"])
    arrays = p.arrays["train"]._replace(teacher={"params": teacher.params, "model_state": teacher.model_state})
    structure = hyper.split(config)[0]

    def numbers(values):
        plans = resolve(hyper.join(structure, values), 96)
        return with_layers(plans, [plan.layers for plan in p.plans])[1]

    along = build(p.plans[1], numbers, example=p.example, teacher=lambda values: p.plans[0].wrapped)
    along = along.segment(state, p.values, arrays)
    for a, b in zip(jax.tree.leaves(trained), jax.tree.leaves(along), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_features_are_matched_and_shifted_inputs_reach_the_teacher(tmp_path, tiny):
    distillation = distill.SoftTargets(
        teacher="stage:teacher",
        features=distill.Features(pairs=(("Dense_0", "Dense_0"),), loss="similarity", weight=5.0),
    )
    config = tiny(
        stages=[Stage("teacher", epochs=2), Stage("student", epochs=3, methods=(distillation,), start="random")]
    )
    config.data.shift = 1
    run(config, tmp_path, quiet=True)
    rows = [r for r in read(tmp_path / "metrics.jsonl") if "features" in r]
    assert len(rows) == 3 and rows[-1]["features"] < rows[0]["features"]


def test_parameters_come_from_another_run_and_stay_where_they_are_frozen(tmp_path, tiny):
    parity = tiny(model=models.ModelConfig("mlp", features=(16,), num_classes=2))
    parity.data.relabel = (0, 1, 0, 1)
    run(parity, tmp_path / "source", quiet=True)
    take = transfer.Transfer(str(tmp_path / "source"), reinitialize=("Dense_1/.*",), freeze=("Dense_0/.*",))
    config = tiny(stages=[Stage("head", epochs=2, transfer=take), Stage("all", epochs=1)])
    run(config, tmp_path / "target", quiet=True)
    (source,), _ = ends(parity, tmp_path / "source")
    (head, everything), _ = ends(config, tmp_path / "target")
    same(head.params["Dense_0"], source.params["Dense_0"])
    assert head.params["Dense_1"]["kernel"].shape == (16, 4)
    assert not np.array_equal(everything.params["Dense_0"]["kernel"], head.params["Dense_0"]["kernel"])


def test_weights_stay_in_their_range(tmp_path, tiny):
    config = tiny(stages=[Stage("dense", epochs=1), Stage("clip", epochs=1, methods=(clip.Range(-0.1, 0.05),))])
    run(config, tmp_path, quiet=True)
    (dense, clipped), _ = ends(config, tmp_path)
    kernel = clipped.params["Dense_0"]["kernel"]
    assert np.abs(dense.params["Dense_0"]["kernel"]).max() > 0.1
    assert kernel.min() == np.float32(-0.1) and kernel.max() == np.float32(0.05)


ALL = {
    "prune": prune.Gradual(sparsity=0.75, end=0.5),
    "share": cluster.Share(clusters=5),
    "quantize": quantize.Weights(bits=3, granularity="tensor"),
}


@pytest.mark.parametrize(
    ("order", "apart"),
    [
        (("prune", "share", "quantize"), True),
        (("quantize", "share", "prune"), False),
        pytest.param(("prune", "share", "quantize"), False, marks=pytest.mark.slow),
        pytest.param(("share", "quantize", "prune"), True, marks=pytest.mark.slow),
        pytest.param(("quantize", "share", "prune"), True, marks=pytest.mark.slow),
    ],
)
def test_sparsity_shared_values_and_the_grid_hold_together(tmp_path, tiny, order, apart):
    if apart:
        stages = [Stage(name, epochs=3, methods=(ALL[name],)) for name in order]
        stages[-1].order = order
    else:
        stages = [Stage("all", epochs=6, methods=tuple(ALL[name] for name in order))]
    config = tiny(stages=stages)
    run(config, tmp_path, quiet=True)
    _, seen = ends(config, tmp_path)
    for name in KERNELS:
        values = seen[-1][name]["kernel"]
        assert (values == 0).mean() >= 0.75
        assert len(np.unique(values)) <= 5
        codes = values / np.abs(values).max() * 3
        np.testing.assert_allclose(codes, np.round(codes), atol=1e-6)


def test_a_broken_promise_is_an_error_and_no_result(tmp_path, tiny, monkeypatch):
    broken = ["Dense_0/kernel: 3 pruned weights are not zero"]
    monkeypatch.setattr(prune.OneShot, "check", lambda self, state, seen, layers: broken)
    config = tiny(stages=[Stage("dense", epochs=1), Stage("prune", epochs=1, methods=(HALF,))])
    with pytest.raises(InvariantError, match="stage 'prune': prune: Dense_0/kernel: 3 "):
        run(config, tmp_path, quiet=True)
    assert not (tmp_path / "result.json").exists()


def test_activations_are_calibrated_where_they_are_named_and_held_after(tmp_path, tiny):
    activations = quantize.Activations(calibration="absmax", bits=4)
    config = tiny(
        stages=[Stage("dense", epochs=1), Stage("ptq", steps=0, methods=(activations,)), Stage("qat", epochs=1)]
    )
    run(config, tmp_path, quiet=True)
    (dense, ptq, qat), _ = ends(config, tmp_path)
    ranges = ptq.model_state["activation_ranges"]
    assert (
        "activation_ranges" not in dense.model_state and ranges["Dense_1"]["low"] == 0 < ranges["Dense_1"]["high"]
    )
    same(qat.model_state["activation_ranges"], ranges)


@pytest.mark.parametrize(
    "method", [quantize.LSQActivations, pytest.param(quantize.PACTActivations, marks=pytest.mark.slow)]
)
def test_learned_ranges_are_trained_beside_pruned_weights(tmp_path, tiny, method):
    config = tiny(
        stages=[
            Stage("prune", epochs=1, methods=(HALF,)),
            Stage("start", steps=0, methods=(method(bits=4),)),
            Stage("qat", epochs=1, methods=(method(bits=4),)),
            Stage("frozen", epochs=1),
        ]
    )
    run(config, tmp_path, quiet=True)
    (pruned, start, qat, frozen), _ = ends(config, tmp_path)
    a, b = (list(jax.tree.leaves(s.params["activation_ranges"])) for s in (start, qat))
    assert all(x > 0 for x in a) and all(x != y for x, y in zip(a, b, strict=True))
    same(zeros(pruned.params), zeros(qat.params))
    # In a later stage they stay as they ended, though weights go on moving.
    same(frozen.params["activation_ranges"], qat.params["activation_ranges"])
    assert not np.array_equal(frozen.params["Dense_0"]["kernel"], qat.params["Dense_0"]["kernel"])


class Normalized(nn.Module):
    """A batch normalization behind a layer."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.BatchNorm(not train)(nn.Dense(8, name="Dense_0")(x.reshape(x.shape[0], -1))))
        return nn.Dense(4, name="Dense_1")(x)


def test_batch_statistics_are_estimated_anew_for_what_was_pruned(tmp_path, tiny):
    model = models.from_linen(Normalized())
    stages = [
        Stage("dense", epochs=1),
        Stage("prune", steps=0, methods=(HALF,)),
        Stage("recalibrate", steps=0, recalibrate=6),
    ]
    run(tiny(stages=stages), tmp_path, model=model, quiet=True)
    (dense, pruned, anew), _ = ends(tiny(stages=stages), tmp_path, model)
    same(pruned.model_state, dense.model_state)
    same(pruned.params, anew.params)
    p = prepare(tiny(stages=stages))
    inputs = data.normalize(p.arrays["train"].inputs, p.arrays["train"].mean, p.arrays["train"].std)
    hidden = np.asarray(inputs).reshape(96, -1) @ anew.params["Dense_0"]["kernel"] + anew.params["Dense_0"]["bias"]
    # Six batches of 16 are all 96 examples, whose mean is the mean of the batches' means.
    np.testing.assert_allclose(anew.model_state["batch_stats"]["BatchNorm_0"]["mean"], hidden.mean(0), atol=1e-5)


class Interruption(BaseException):
    pass


MANY = [
    Stage("dense", epochs=1),
    Stage("prune", epochs=2, methods=(prune.Gradual(score="movement", sparsity=0.75, end=0.5),)),
    Stage("rewind", steps=0, start="dense"),
    Stage("ptq", steps=0, methods=(quantize.Weights(bits=4), quantize.LSQActivations(bits=4))),
    Stage("qat", steps=8),
    Stage("student", epochs=1, model=models.ModelConfig("mlp", features=(5,), num_classes=4),
          methods=(distill.SoftTargets(teacher="stage:prune"),)),
]  # fmt: skip


@pytest.mark.parametrize("mark", [19, *(pytest.param(m, marks=pytest.mark.slow) for m in (6, 12, 18, 20, 26, 28))])
def test_a_run_of_many_stages_resumes_exactly_at_every_boundary(tmp_path, tiny, monkeypatch, mark):
    config = tiny(stages=MANY, checkpoint_every=1)
    uninterrupted = tmp_path.parent / "whole"
    if not (uninterrupted / "result.json").exists():
        run(config, uninterrupted, quiet=True)
    save = Checkpoints.save

    def cut(self, step, state, notes):
        save(self, step, state, notes)
        if step == mark:
            self.wait()
            raise Interruption

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", cut)
        with pytest.raises(Interruption):
            run(config, tmp_path / "cut", quiet=True)
    resumed = run(config, tmp_path / "cut", quiet=True)
    expected = unseal(json.loads((uninterrupted / "result.json").read_text()))
    for result in (resumed, expected):
        result.pop("wall_seconds"), result.pop("compile_seconds")
    assert json.loads(json.dumps(resumed)) == expected
    a, b = (without_timing(read(path / "metrics.jsonl")) for path in (tmp_path / "cut", uninterrupted))
    assert a == b


def test_the_ends_of_stages_are_kept_whatever_else_is(tmp_path, tiny):
    stages = [Stage("a", epochs=2), Stage("b", steps=0, methods=(HALF,)), Stage("c", epochs=4)]
    run(tiny(stages=stages, keep_checkpoints=1, checkpoint_every=1), tmp_path, quiet=True)
    marks = {int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    assert {12, 13, 37} <= marks and len(marks) <= 4  # and the best


def test_sparsity_and_bits_are_numbers_in_one_program(tiny):
    def structure(sparsity, bits):
        stage = Stage("a", methods=(prune.Gradual(sparsity=sparsity), quantize.Weights(bits)))
        return hyper.split(tiny(stages=[stage]))[0]

    assert structure(0.5, 4) == structure(0.9, 8)
    assert structure(0.5, 4) != structure(0.5, None)


def stage(*methods, **changes):
    return [Stage("first", epochs=1), Stage("second", **{"epochs": 1, "methods": methods, **changes})]


@pytest.mark.parametrize(
    ("stages", "error"),
    [
        (stage(start="third"), r"stages\[1\]\.start must be one of 'first', 'init', 'previous', 'random', got"),
        (stage(start="second"), r"stages\[1\]\.start"),
        (stage(release=("prune",)), r"stages\[1\]\.release must be a method that acts in the stage before"),
        (stage(prune.Gradual(sparsity=1.0)), r"stages\[1\]\.prune\.sparsity"),
        (stage(prune.Gradual(sparsity=-0.1)), r"stages\[1\]\.prune\.sparsity"),
        (stage(prune.Gradual(end=1.0)), r"stages\[1\]\.prune\.end must be such that the sparsity is reached"),
        (stage(quantize.Weights(bits=9)), r"stages\[1\]\.quantize\.bits"),
        (stage(cluster.Share(clusters=0)), r"stages\[1\]\.share\.clusters"),
        (stage(clip.Range(low=0.5)), r"stages\[1\]\.clip\.low"),
        (stage(quantize.Activations(bits=0)), r"stages\[1\]\.activations\.bits"),
        (
            stage(distill.SoftTargets(teacher="stage:third")),
            r"stages\[1\]\.distill\.teacher must be a run's directory",
        ),
        (
            stage(distill.SoftTargets(teacher="/nowhere")),
            r"stages\[1\]\.distill\.teacher must be the directory of a",
        ),
        (
            stage(transfer=transfer.Transfer("/nowhere")),
            r"stages\[1\]\.transfer\.source must be the directory of a",
        ),
        (stage(steps=-1, epochs=None), r"stages\[1\]\.steps must be 0 or a positive integer, got -1"),
        (stage(recalibrate=-1), r"stages\[1\]\.recalibrate"),
        (stage(calibration_examples=0), r"stages\[1\]\.calibration_examples"),
        (stage(segment_steps=0), r"stages\[1\]\.segment_steps"),
        (stage(model=models.ModelConfig("mlp", num_classes=3)), r"stages\[1\]\.model\.num_classes must be 4"),
        (
            stage(cluster.Share(), quantize.Weights(granularity="channel")),
            r"stages\[1\]\.quantize\.granularity must be 'tensor' where weights are shared",
        ),
    ],
)
def test_bad_stages_are_refused_before_anything_compiles(tmp_path, tiny, stages, error):
    with pytest.raises(ConfigError, match=error):
        run(tiny(stages=stages), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("method", "error"),
    [
        (prune.OneShot(rules=(("Dens_0/kernel", 0.5),)), "Dens_0/kernel"),
        (prune.NofM(n=2, m=5), "Dense_"),
        (cluster.Share(rules=(("Dens_0/kernel", 4),)), "Dens_0/kernel"),
        (quantize.Weights(rules=(("Dens_0/kernel", 4),)), "Dens_0/kernel"),
        (quantize.Activations(rules=(("Dens_0", 4),)), "Dens_0"),
        (clip.Range(rules=(("Dens_0", 1.0),)), "Dens_0"),
    ],
)
def test_rules_that_fit_nothing_are_refused_before_anything_compiles(tmp_path, tiny, method, error):
    with pytest.raises((RuleError, ValueError), match=error):
        run(tiny(stages=stage(method)), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_an_order_names_every_method_that_acts(tiny):
    stages = [Stage("a", methods=(HALF,)), Stage("b", methods=(quantize.Weights(),), order=("quantize",))]
    with pytest.raises(ConfigError) as error:
        prepare(tiny(stages=stages))
    assert error.value.field == "stages[1].order"


def test_a_config_of_stages_survives_json(tiny):
    config = tiny(stages=MANY)
    again = from_dict(Experiment, json.loads(json.dumps(to_dict(config))))
    assert again == config and dataclasses.asdict(again) == dataclasses.asdict(config)
    assert isinstance(again.data, data.Synthetic)
