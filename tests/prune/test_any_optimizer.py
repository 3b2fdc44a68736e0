"""Masks with every optimizer that Optax exports: pruned weights and their moments are zero, shapes are kept."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import jopt
from jopt import prune

pytestmark = pytest.mark.unoptimized

RATE = 0.05
# One is large enough for Adafactor's rows and columns. No two have the same last axes, so that a moment's shape
# says whose it is.
PARAMS = {
    "bias": jnp.linspace(0.5, 1.5, 7),
    "kernel": jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 4)), jnp.float32),
    "large": jnp.asarray(np.random.default_rng(1).normal(size=(128, 129)), jnp.float32),
    "square": jnp.asarray(np.random.default_rng(2).normal(size=(5, 5)), jnp.float32),
}
LABELS = {"bias": "sgd", "kernel": "adam", "large": "adam", "square": "adam"}

# What those need that do not work with defaults and a learning rate.
ARGUMENTS: dict[str, Callable[[], Any]] = {
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(RATE), 2),
    "adaptive_grad_clip": lambda: optax.adaptive_grad_clip(0.1),
    "add_noise": lambda: optax.add_noise(0.01, 0.5, 0),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(RATE), 3),
    "chain": lambda: optax.chain(optax.clip(1.0), optax.adam(RATE)),
    "clip": lambda: optax.clip(0.1),
    "clip_by_block_rms": lambda: optax.clip_by_block_rms(0.1),
    "clip_by_global_norm": lambda: optax.clip_by_global_norm(0.1),
    "conditionally_mask": lambda: optax.conditionally_mask(optax.adam(RATE), lambda step, **_: step > 0),
    "conditionally_transform": lambda: optax.conditionally_transform(optax.adam(RATE), lambda step, **_: step > 0),
    "differentially_private_aggregate": lambda: contrib.differentially_private_aggregate(1.0, 0.1, 0),
    "dpsgd": lambda: contrib.dpsgd(RATE, 1.0, 0.1, 0),
    "ema": lambda: optax.ema(0.9),
    "flatten": lambda: optax.flatten(optax.adam(RATE)),
    "freeze": lambda: optax.freeze({"bias": True, "kernel": False, "large": False, "square": False}),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=RATE),
    "inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(optax.adam)(learning_rate=RATE),
    "masked": lambda: optax.masked(
        optax.adam(RATE), {"bias": False, "kernel": True, "large": True, "square": True}
    ),
    "measure_with_ema": lambda: optax.measure_with_ema(lambda updates, **_: jnp.float32(1), 0.9),
    "mechanize": lambda: contrib.mechanize(optax.adam(RATE)),
    "multi_transform": lambda: optax.multi_transform(
        {"adam": optax.adam(RATE), "sgd": optax.sgd(RATE, 0.9)}, LABELS
    ),
    "named_chain": lambda: optax.named_chain(("clip", optax.clip(1.0)), ("adam", optax.adam(RATE))),
    "noisy_sgd": lambda: optax.noisy_sgd(RATE, key=0),
    "partition": lambda: optax.partition({"adam": optax.adam(RATE), "sgd": optax.sgd(RATE, 0.9)}, LABELS),
    "sam": lambda: contrib.sam(optax.sgd(RATE), optax.chain(contrib.normalize(), optax.sgd(0.1)), sync_period=2),
    "scale": lambda: optax.scale(-RATE),
    "scale_by_backtracking_linesearch": lambda: optax.scale_by_backtracking_linesearch(5),
    "scale_by_madgrad": lambda: contrib.scale_by_madgrad(RATE),
    "scale_by_schedule": lambda: optax.scale_by_schedule(lambda step: -RATE),
    "scale_by_zoom_linesearch": lambda: optax.scale_by_zoom_linesearch(5),
    "schedule_free": lambda: contrib.schedule_free(optax.sgd(RATE), RATE),
    "selective_transform": lambda: optax.selective_transform(
        optax.adam(RATE), freeze_mask=dict.fromkeys(PARAMS, False)
    ),
    "sgd": lambda: optax.sgd(RATE, 0.9),
    "snapshot": lambda: optax.snapshot("norm", lambda updates, **_: jnp.float32(1)),
    "split_real_and_imaginary": lambda: contrib.split_real_and_imaginary(optax.adam(RATE)),
    "stateless": lambda: optax.stateless(lambda updates, params: updates),
    "stateless_with_tree_map": lambda: optax.stateless_with_tree_map(lambda g, p: -RATE * g),
    "trace": lambda: optax.trace(0.9),
    "with_extra_args_support": lambda: optax.with_extra_args_support(optax.adam(RATE)),
}
PER_EXAMPLE = {"differentially_private_aggregate", "dpsgd"}
REFUSED = {
    "flatten": r"optimizer state \[0\]\.mu has shape \(16568,\): it depends on the parameters but is not in a tree",
    "galore": "optax.contrib.galore keeps its moments in a low-rank basis",
    "scale_by_galore": "optax.contrib.galore keeps its moments in a low-rank basis",
}
UNTESTED = {
    "hutchinson_estimator_diag_hessian": "a part of sophia, which is tested",
    "lookahead": "its parameters are a pair, the fast and the slow ones, not a tree of the model's structure",
    "matrix_inverse_pth_root": "a helper, not an optimizer",
    "measure_with_ema": "gives a measure instead of updates",
    "monitor": "keeps measures, not moments",
    "scale_by_muon": "its default for weight_dimension_numbers fails in Optax; a part of muon, which is tested",
    "schedule_free_eval_params": "a helper, not an optimizer",
    "sigmoid_binary_cross_entropy": "a helper, not an optimizer",
    "update_infinity_moment": "a helper, not an optimizer",
    "update_moment": "a helper, not an optimizer",
    "update_moment_per_elem_norm": "a helper, not an optimizer",
}
# After a step their state may be other than zero for a pruned weight: Optax adds a constant to the squares
# (`eps`), or takes another gradient than the one that it is given (of the line search's or Sophia's function).
NOT_ZERO_BETWEEN = {
    *("acprop", "adabelief", "adafactor", "adamax", "adamaxw", "scale_by_acprop", "scale_by_adamax"),
    *("scale_by_belief", "scale_by_factored_rms", "lbfgs", "scale_by_zoom_linesearch", "sophia"),
}
VALUE = ("lbfgs", "momo", "momo_adam", "polyak_sgd", "reduce_on_plateau", "scale_by_polyak")
SEARCH = ("lbfgs", "scale_by_backtracking_linesearch", "scale_by_zoom_linesearch")
# Those that compile for more than a second. The parts of optimizers (scale_by_...) are slow tests, too.
SLOW = {
    *(
        "acprop",
        "add_noise",
        "conditionally_mask",
        "conditionally_transform",
        "dpsgd",
        "fromage",
        "lbfgs",
        "mechanize",
    ),
    *("muon", "reduce_on_plateau", "sam", "scale_by_lbfgs", "scale_by_zoom_linesearch", "sophia", "schedule_free"),
}


def exported() -> dict[str, Callable[..., Any]]:
    """The functions of `optax` and `optax.contrib` that give a transform, or do not say what they give."""
    functions = {}
    for module in (optax, contrib):
        for name in dir(module):
            function = getattr(module, name)
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            gives = inspect.signature(function).return_annotation
            if gives is inspect.Signature.empty or "GradientTransformation" in str(gives):
                functions[name] = function
    return functions


EXPORTED = {**exported(), "MultiSteps": optax.MultiSteps}


def build(name: str) -> Any:
    if name in ARGUMENTS:
        return ARGUMENTS[name]()
    parameters = inspect.signature(EXPORTED[name]).parameters
    return EXPORTED[name](**{"learning_rate": RATE} if "learning_rate" in parameters else {})


def loss(params):
    return sum(jnp.sum((p - 1.0) ** 2) for p in jax.tree.leaves(params))


PRUNER = prune.one_shot(0.5, rules=(("bias", 0.5),))


def masks(seed):
    rng = np.random.default_rng(seed)
    random_masks = {k: jnp.asarray(rng.random(p.shape) < 0.5) for k, p in PARAMS.items()}
    return PRUNER.init(PARAMS)._replace(masks=random_masks)


def owned(tree, name):
    """The arrays in a tree of the shape of the parameter `name`, or stacks of such."""
    floats = [np.asarray(x) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return [x for x in floats if x.shape[max(x.ndim - PARAMS[name].ndim, 0) :] == PARAMS[name].shape]


def assert_zero_where_pruned(state, *trees):
    for name, mask in state.masks.items():
        assert not any(x[..., ~np.asarray(mask)].any() for tree in trees for x in owned(tree, name)), name


def kinds(tree):
    return jax.tree.structure(tree), [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]


def extra(name, params, grads):
    out = {"value": loss(params)} if name in (*VALUE, *SEARCH) else {}
    if name in SEARCH:
        out |= {"grad": grads, "value_fn": loss}
    return {"obj_fn": loss} if name == "sophia" else out


def test_every_export_of_optax_is_tested_or_listed_with_a_reason():
    assert sorted(UNTESTED.keys() - EXPORTED.keys()) == []
    assert sorted(({*ARGUMENTS, *REFUSED, *VALUE, *SEARCH, *SLOW, *NOT_ZERO_BETWEEN}) - EXPORTED.keys()) == []
    assert len(EXPORTED) > 100


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW or name.startswith("scale_by_") else [])
        for name in sorted(EXPORTED.keys() - UNTESTED.keys() - REFUSED.keys())
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pruned_weights_stay_zero_with_every_optimizer(name):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # Optax's code needs them.
        built = build(name)
        optimizer = built if name == "MultiSteps" else optax.with_extra_args_support(built)
        params, state = PARAMS, optimizer.init(PARAMS)
        for step in range(4):
            if step in (0, 1, 3):
                chosen = masks(step)
                before, params = kinds(state), PRUNER.project(chosen, params)
                state = jopt.project_moments(PRUNER, chosen, optimizer, state)
                assert kinds(state) == before
                assert_zero_where_pruned(chosen, params, state)
            grads = PRUNER.project(chosen, jax.grad(loss)(params))
            args = extra(name, params, grads)
            if name in PER_EXAMPLE:
                grads = jax.tree.map(lambda g: jnp.stack([g, g]), grads)
            updates, state = optimizer.update(grads, state, params, **args)
            params = optax.apply_updates(params, PRUNER.project(chosen, updates))
            assert kinds(params) == kinds(PARAMS)
            assert_zero_where_pruned(chosen, params, () if name in NOT_ZERO_BETWEEN else state)
            floats = [x for x in jax.tree.leaves((params, state)) if jnp.issubdtype(x.dtype, jnp.floating)]
            assert all(bool(jnp.isfinite(x).all()) for x in floats)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_moments_in_another_form_are_refused_by_name(name):
    optimizer = build(name)
    with pytest.raises(ValueError, match=REFUSED[name]):
        jopt.project_moments(PRUNER, masks(0), optimizer, optimizer.init(PARAMS))
