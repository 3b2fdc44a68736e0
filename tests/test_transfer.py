"""Transfer: what is copied is copied exactly, what is not is said to be, and nothing goes wrong silently."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt import models, optim, transfer
from jopt.config import ConfigError, from_dict, to_dict
from jopt.hyper import split
from jopt.rules import RuleError, named_leaves
from jopt.transfer import LeafTransfer, Transfer, TransferError, plan


def layer(seed, shape, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {"bias": rng.normal(size=shape[-1]).astype(dtype), "kernel": rng.normal(size=shape).astype(dtype)}


def source():
    return {"Dense_0": layer(0, (4, 3)), "Dense_1": layer(1, (3, 3)), "Dense_2": layer(2, (3, 10))}


def target():
    return {"Dense_0": layer(10, (4, 3)), "Dense_1": layer(11, (3, 3)), "Dense_2": layer(12, (3, 2))}


def same(a, b):
    return all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes() and x.dtype == y.dtype
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


# What is copied from where.


def test_the_same_paths_by_default():
    rows = plan(Transfer("a"), source(), source())
    assert rows[0] == LeafTransfer("Dense_0/bias", (3,), "Dense_0/bias", "copied", "same path", "params")
    assert [row.status for row in rows] == ["copied"] * 6
    assert same(transfer.transfer(rows, jax.tree.map(np.zeros_like, source()), source()), source())


def test_another_head_is_left_fresh():
    config = Transfer("a", reinitialize=("Dense_2/.*",), freeze=("Dense_0/.*",))
    rows = plan(config, target(), source())
    assert [(r.source, r.status, r.reason) for r in rows] == [
        ("Dense_0/bias", "copied, frozen", "same path; freeze 'Dense_0/.*'"),
        ("Dense_0/kernel", "copied, frozen", "same path; freeze 'Dense_0/.*'"),
        ("Dense_1/bias", "copied", "same path"),
        ("Dense_1/kernel", "copied", "same path"),
        (None, "fresh", "reinitialize 'Dense_2/.*'"),
        (None, "fresh", "reinitialize 'Dense_2/.*'"),
    ]
    new = transfer.transfer(rows, target(), source())
    assert same({k: new[k] for k in ("Dense_0", "Dense_1")}, {k: source()[k] for k in ("Dense_0", "Dense_1")})
    assert same(new["Dense_2"], target()["Dense_2"])


def test_rules_move_names_and_the_first_match_wins():
    old = {"block_3": layer(0, (4, 3)), "block_7": layer(1, (3, 3)), "Dense_2": layer(2, (3, 2))}
    config = Transfer("a", rules=((r"Dense_1/bias", None), (r"Dense_0/(.*)", r"block_3/\1"),
                                (r"Dense_(?P<n>1)/(?P<leaf>.*)", r"block_7/\g<leaf>")))  # fmt: skip
    rows = plan(config, target(), old)
    assert {row.path: row.source for row in rows} == {
        "Dense_0/bias": "block_3/bias",
        "Dense_0/kernel": "block_3/kernel",
        "Dense_1/bias": None,
        "Dense_1/kernel": "block_7/kernel",
        "Dense_2/bias": "Dense_2/bias",
        "Dense_2/kernel": "Dense_2/kernel",
    }
    new = transfer.transfer(rows, target(), old)
    assert same(new["Dense_0"], old["block_3"])
    assert same(new["Dense_1"]["bias"], target()["Dense_1"]["bias"])


def test_one_source_may_fill_several_layers():
    old = {"shared": layer(0, (3, 3))}
    new = {"a": layer(1, (3, 3)), "b": layer(2, (3, 3))}
    rows = plan(Transfer("x", rules=(("(a|b)/(.*)", r"shared/\2"),)), new, old)
    filled = transfer.transfer(rows, new, old)
    assert same(filled["a"], old["shared"]) and same(filled["b"], old["shared"])


def test_reinitialize_comes_before_the_rules():
    config = Transfer("a", rules=(("Dense_1/(.*)", r"Dense_1/\1"),), reinitialize=("Dense_2/.*", ".*/bias"))
    rows = plan(config, target(), source())
    assert [row.path for row in rows if row.source] == ["Dense_0/kernel", "Dense_1/kernel"]


def test_batch_statistics_follow_by_the_paths_of_the_state():
    params = {"Dense_0": layer(0, (4, 3)), "norm": {"scale": np.ones(3, np.float32)}}
    state = {"batch_stats": {"norm": {"mean": np.full(3, 2.0, np.float32), "var": np.full(3, 3.0, np.float32)}}}
    zeros = jax.tree.map(np.zeros_like, (params, state))
    rows = plan(Transfer("a"), *[zeros[0], params, zeros[1], state])
    assert [(r.path, r.part) for r in rows][-2:] == [
        ("batch_stats/norm/mean", "state"),
        ("batch_stats/norm/var", "state"),
    ]
    assert same(transfer.transfer(rows, zeros[1], state, "state"), state)
    assert same(transfer.transfer(rows, zeros[0], params), params)
    # One list of rules for both, each of which must match in either.
    config = Transfer("a", reinitialize=("Dense_0/.*", ".*/var"))
    rows = plan(config, zeros[0], params, zeros[1], state)
    assert [r.path for r in rows if r.source is None] == ["Dense_0/bias", "Dense_0/kernel", "batch_stats/norm/var"]
    without = plan(dataclasses.replace(config, include_state=False, reinitialize=()), *zeros[:1], params)
    assert {r.part for r in without} == {"params"}
    with pytest.raises(RuleError, match=r"reinitialize.*'\.\*/var'.* no "):
        plan(dataclasses.replace(config, include_state=False), zeros[0], params, zeros[1], state)


def test_a_model_without_state_has_no_rows_for_it():
    assert len(plan(Transfer("a"), source(), source(), {}, {})) == 6


# Trees and dtypes.


@pytest.mark.parametrize("wrap", [list, tuple, dict], ids=lambda w: w.__name__)
def test_lists_tuples_and_dictionaries(wrap):
    def make(seed):
        leaves = [layer(seed, (2, 3)), layer(seed + 1, (3, 1))]
        return dict(zip("ab", leaves, strict=True)) if wrap is dict else wrap(leaves)

    filled = transfer.transfer(plan(Transfer("a"), make(0), make(5)), make(0), make(5))
    assert jax.tree.structure(filled) == jax.tree.structure(make(0))
    assert same(filled, make(5))


def test_an_nnx_modules_state():
    ours, theirs = (nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(seed)), nnx.Param) for seed in (0, 1))
    rows = plan(Transfer("a", freeze=("kernel.*",)), ours, theirs)
    assert [row.status for row in rows] == ["copied", "copied, frozen"]
    filled = transfer.transfer(rows, ours, theirs)
    assert same(filled, theirs) and not same(ours, theirs)
    module = nnx.Linear(3, 2, rngs=nnx.Rngs(2))
    nnx.update(module, filled)
    assert same(nnx.state(module, nnx.Param), theirs)


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
        return nn.Dense(3)(x)


def test_a_batch_normalized_network_computes_the_same_after_it():
    net = models.from_linen(Normalized())
    x = jax.random.normal(jax.random.key(0), (5, 6))
    (p0, s0), (p1, s1) = (net.init(jax.random.key(seed), x) for seed in (1, 2))
    _, s1 = net.apply(p1, s1, 3 * x + 1, train=True)
    rows = plan(Transfer("a"), *(jax.eval_shape(lambda t: t, t) for t in (p0, p1, s0, s1)))
    assert [r.path for r in rows if r.part == "state"] == [
        "batch_stats/BatchNorm_0/mean",
        "batch_stats/BatchNorm_0/var",
    ]
    p2, s2 = transfer.transfer(rows, p0, p1), transfer.transfer(rows, s0, s1, "state")
    apply = jax.jit(lambda p, s: net.apply(p, s, x, train=False)[0])
    assert same(apply(p2, s2), apply(p1, s1))
    assert not same(apply(p2, s0), apply(p1, s1))


def test_shapes_are_enough_for_a_plan():
    shapes = [jax.eval_shape(lambda t: t, tree) for tree in (target(), source())]
    config = Transfer("a", reinitialize=("Dense_2/.*",))
    assert plan(config, *shapes) == plan(config, target(), source())


def test_the_targets_dtype_is_kept():
    ours = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), source())
    rows = plan(Transfer("a"), ours, source())
    assert rows[0].reason == "same path; float32 to bfloat16"
    filled = transfer.transfer(rows, ours, source())
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(filled))
    assert same(filled, ours)
    wide = transfer.transfer(plan(Transfer("a"), source(), ours), source(), ours)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(wide))
    assert same(wide, jax.tree.map(lambda x: np.asarray(x, np.float32), ours))


def test_special_values_are_copied_bit_for_bit():
    odd = {"w": np.array([0.0, -0.0, np.inf, np.nan, 1e-45], np.float32)}
    assert same(transfer.transfer(plan(Transfer("a"), odd, odd), {"w": np.ones(5, np.float32)}, odd), odd)


def test_copies_have_buffers_of_their_own():
    old = jax.tree.map(jnp.asarray, source())
    new = jax.tree.map(jnp.asarray, source())
    filled = transfer.transfer(plan(Transfer("a"), new, old), new, old)
    before = jax.device_get(old)
    jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)(filled)
    assert same(old, before)
    host = source()
    filled = transfer.transfer(plan(Transfer("a"), host, host), host, host)
    jax.tree.map(lambda x: x.fill(7.0), host)
    assert same(filled, source())


def test_under_jit_and_over_many_targets():
    config = Transfer("a", reinitialize=("Dense_2/.*",))
    rows = plan(config, target(), source())
    eager = transfer.transfer(rows, target(), source())
    assert same(jax.jit(lambda t, s: transfer.transfer(rows, t, s))(target(), source()), eager)
    many = jax.tree.map(lambda x: np.stack([x, 2 * x]), target())
    filled = jax.vmap(lambda t: transfer.transfer(rows, t, source()))(many)
    assert same(jax.tree.map(lambda x: x[0], filled), eager)
    assert same(filled["Dense_2"], many["Dense_2"])


NAMES = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True)


@settings(max_examples=30, deadline=None)
@given(NAMES, st.data())
def test_every_leaf_is_either_the_sources_or_the_targets(names, data):
    fresh = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=len(names) - 1))
    moved = dict(zip(names, data.draw(st.permutations(names)), strict=True))
    new = {name: np.full(2, i, np.float32) for i, name in enumerate(names)}
    old = {name: np.full(2, 100 + i, np.float32) for i, name in enumerate(names)}
    config = Transfer("a", tuple((n, moved[n]) for n in names if n not in fresh), tuple(fresh))
    rows = plan(config, new, old)
    filled = transfer.transfer(rows, new, old)
    for row in rows:
        assert np.array_equal(filled[row.path], new[row.path] if row.path in fresh else old[moved[row.path]])
        assert row.status == ("fresh" if row.path in fresh else "copied")
    again = transfer.transfer(rows, filled, old)
    assert same(again, filled)


# What is frozen, and what is printed.


def test_frozen_gives_the_optimizer_exactly_those():
    rows = plan(Transfer("a", reinitialize=("Dense_2/.*",), freeze=("Dense_(0|1)/kernel",)), target(), source())
    patterns = transfer.frozen(rows)
    found = optim.plan(optim.Config(freeze=patterns), target())
    assert [p.path for p in found if p.frozen] == ["Dense_0/kernel", "Dense_1/kernel"]
    odd = {"a.b": np.ones(1, np.float32), "axb": np.ones(1, np.float32)}
    (pattern,) = transfer.frozen(plan(Transfer("a", freeze=(r"a\.b",)), odd, odd))
    assert [p.path for p in optim.plan(optim.Config(freeze=(pattern,)), odd) if p.frozen] == ["a.b"]


def test_the_plan_is_printed_as_a_table():
    rows = plan(Transfer("a", reinitialize=("Dense_2/.*",), freeze=("Dense_0/.*",)), target(), source())
    assert transfer.describe(rows).splitlines()[:3] == [
        "parameter       shape  from            status          why",
        "Dense_0/bias    3      Dense_0/bias    copied, frozen  same path; freeze 'Dense_0/.*'",
        "Dense_0/kernel  4x3    Dense_0/kernel  copied, frozen  same path; freeze 'Dense_0/.*'",
    ]
    assert transfer.describe(rows).splitlines()[-1].split() == [
        "Dense_2/kernel", "3x2", "-", "fresh", "reinitialize", "'Dense_2/.*'",
    ]  # fmt: skip


# Bad input.


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({}, TransferError, "Dense_2/bias is 2, but Dense_2/bias in the source is 10 .*; Dense_2/kernel is 3x2,"),
        ({"rules": (("Dense_1/kernel", "Dense_0/kernel"),), "reinitialize": ("Dense_2/.*",)}, TransferError,
         "Dense_1/kernel is 3x3, but Dense_0/kernel in the source is 4x3"),
        ({"rules": ((r"Dense_1/(.*)", r"dense_1/\1"),), "reinitialize": ("Dense_2/.*",)}, TransferError,
         "Dense_1/bias is to be copied from dense_1/bias, which the source does not have .*are Dense_1/bias"),
        ({"rules": (("Dense_1/kernel", "zzz"),), "reinitialize": ("Dense_2/.*",)}, TransferError, "from zzz"),
        ({"rules": (("Dense_9/.*", None),)}, RuleError, "rule 'Dense_9/.*' matches no parameter"),
        ({"reinitialize": ("Dense_9/.*",)}, RuleError, "rules and reinitialize: rule 'Dense_9/.*' matches no"),
        ({"freeze": ("Dense_9/.*",), "reinitialize": ("Dense_2/.*",)}, RuleError, "freeze: rule 'Dense_9/.*'"),
        ({"rules": (("Dense_2/.*", None),), "reinitialize": ("Dense_2/.*",)}, RuleError, "hidden behind"),
        ({"rules": ((".*", None),)}, TransferError, "no parameter would be copied"),
        ({"reinitialize": (".*",)}, TransferError, "no parameter would be copied"),
        ({"reinitialize": ("Dense_2/.*",), "freeze": (".*kernel",)}, TransferError,
         r"Dense_2/kernel would be frozen at its fresh values \(reinitialize 'Dense_2/.\*'; freeze '.\*kernel'\)"),
        ({"rules": (("(", None),)}, RuleError, "is not a regular expression"),
        ({"rules": ((r"Dense_2/(.*)", r"Dense_2/\2"),)}, RuleError, r"no path with groups of 'Dense_2/\(\.\*\)'"),
        ({"rules": ((r"Dense_2/(.*)", r"Dense_2/\g<leaf>"),)}, RuleError, "no path with groups"),
    ],
)  # fmt: skip
def test_bad_plans(changes, error, message):
    with pytest.raises(error, match=message):
        plan(Transfer("a", **changes), target(), source())


def test_a_renamed_layer_is_not_taken_for_another():
    with pytest.raises(TransferError, match=r"head/w .*head/w\b.*none"):
        plan(Transfer("a"), {"head": {"w": np.ones(2, np.float32)}}, {})


def test_integers_do_not_become_floats():
    with pytest.raises(TransferError, match=r"a .*float32.* a .*int32"):
        plan(Transfer("a"), {"a": np.ones(2, np.float32)}, {"a": np.ones(2, np.int32)})


def test_many_problems_are_counted():
    big = {str(i): np.ones(2, np.float32) for i in range(9)}
    with pytest.raises(TransferError, match="and 4 more"):
        plan(Transfer("a"), big, {k: v[:1] for k, v in big.items()})


def test_a_plan_is_for_its_own_trees():
    rows = plan(Transfer("a"), source(), source())
    with pytest.raises(ValueError, match=r"target.*Dense_2/bias"):
        transfer.transfer(rows, target(), source())
    with pytest.raises(ValueError, match="of another target"):
        transfer.transfer(rows, {"Dense_0": source()["Dense_0"]}, source())
    with pytest.raises(ValueError, match=r"source.*Dense_2/bias 10"):
        transfer.transfer(rows, source(), target())


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"source": ""}, "source", ""),
        ({"source": "stage:"}, "source", "stage:"),
        ({"rules": (("(", "a"),)}, "rules[0]", "("),
        ({"rules": (("a", "b"), ("(.*)", r"\2"))}, "rules[1]", r"\2"),
        ({"rules": (("(.*)", r"\g<n>"),)}, "rules[0]", r"\g<n>"),
        ({"rules": (("(.*)", "\\"),)}, "rules[0]", "\\"),
        ({"rules": ("ab",)}, "rules", ("ab",)),
        ({"reinitialize": ("a", "[")}, "reinitialize[1]", "["),
        ({"freeze": ("*",)}, "freeze[0]", "*"),
        ({"freeze": "Dense_0"}, "freeze", "Dense_0"),
        ({"include_state": 1}, "include_state", 1),
    ],
)
def test_bad_configs(changes, field, value):
    with pytest.raises(ConfigError) as error:
        transfer.validate(dataclasses.replace(Transfer("runs/a"), **changes))
    assert (error.value.field, error.value.value) == (f"transfer.{field}", value)


def test_good_configs_are_structure_through_and_through():
    config = Transfer("stage:big", ((r"a/(\d+)", r"b/\1"), ("c", None)), ("head/.*",), ("a/.*",), False)
    transfer.validate(config)
    assert from_dict(Transfer, to_dict(config)) == config
    assert split(config)[1] == {}


def test_paths_are_the_rules_own():
    assert [row.path for row in plan(Transfer("a"), source(), source())] == [n for n, _ in named_leaves(source())]
