"""What pruning transforms promise to every loop: exact zeros, one program for all numbers, jit, vmap, any tree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jopt
from jopt import prune
from jopt.prune import NM, Block, Channel
from jopt.transform import LayerStatistics

from .cases import KEY, MAKERS, jit, kept, layers, same, tree

pytestmark = pytest.mark.unoptimized


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_apply_zeroes_exactly_and_keeps_dtypes(dtype):
    params = tree(dtype=dtype)
    pruner = prune.one_shot(0.9)
    state = pruner.update(pruner.init(params), params, step=0)
    worst = jax.tree.map(lambda x: jnp.full_like(x, -jnp.nan), params)
    for given_ in (params, worst, tree()):  # moments are float32 where parameters are not
        out = pruner.apply(state, given_)
        assert jax.tree.map(lambda x: x.dtype, out) == jax.tree.map(lambda x: x.dtype, given_)
        gone = np.asarray(out["Dense_0"]["kernel"], np.float32)[~np.asarray(state.masks["Dense_0"]["kernel"])]
        assert (gone == 0).all() and not np.signbit(gone).any()
    same(pruner.project(state, params), pruner.apply(state, params))
    same(pruner.apply(state, pruner.apply(state, params)), pruner.apply(state, params))
    assert pruner.forward(state, params) is params
    grad = jax.grad(lambda p: pruner.apply(state, p)["Dense_0"]["kernel"].sum())(params)
    same(grad["Dense_0"]["kernel"] != 0, state.masks["Dense_0"]["kernel"])


EVERYTHING = {"key": KEY, "step": 30}


@pytest.mark.parametrize(
    ("name", "score", "budget"),
    [("one_shot", "random", "layer"), ("gradual", "movement", "erk"), ("iterative", "magnitude", "global")],
)
def test_eager_jit_vmap_and_types(name, score, budget):
    pruner = MAKERS[name](0.7, score=score, budget=budget)
    many = [tree(i) for i in range(3)]
    states = [pruner.init(p) for p in many]
    if pruner.observe is not None:
        states = [pruner.observe(s, p, tree(9)) for s, p in zip(states, many, strict=True)]
    loop = [pruner.update(s, p, **EVERYTHING) for s, p in zip(states, many, strict=True)]
    same(jit(pruner.update)(states[0], many[0], **EVERYTHING), loop[0])
    stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731
    batched = jit(jax.vmap(lambda s, p: pruner.update(s, p, **EVERYTHING)))(stack(states), stack(many))
    same(batched, stack(loop))
    signature = lambda s: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), s)  # noqa: E731
    assert signature(loop[0]) == signature(states[0])
    assert kept(loop[0]) != kept(states[0])


@pytest.mark.parametrize("budget", ["global", "erk"])
def test_numbers_are_traced(budget):
    traces = []

    @jit
    def update(state, params, step, s, ruled, first, begin, end, rounds):
        traces.append(1)
        shared = {"budget": budget, "rules": (("Dense_1/kernel", ruled),), "begin": begin}
        makers = (
            prune.one_shot(s, **shared),
            prune.gradual(s, initial_sparsity=first, end=end, **shared),
            prune.iterative(s, end=end, rounds=rounds, **shared),
        )
        return [m.update(state, params, step=step) for m in makers]

    state = prune.one_shot(0.5).init(tree())
    for step, s, ruled in ((5, 0.5, 0.1), (20, 0.9, 0.8), (50, 0.95, 0.0)):
        got = update(state, tree(), step, s, ruled, s / 2, 3, 40, 4)
        shared = {"budget": budget, "rules": (("Dense_1/kernel", ruled),), "begin": 3}
        want = (
            prune.one_shot(s, **shared),
            prune.gradual(s, initial_sparsity=s / 2, end=40, **shared),
            prune.iterative(s, end=40, rounds=4, **shared),
        )
        same(got, [m.update(state, tree(), step=step) for m in want])
    assert len(traces) == 1


def test_a_sweep_over_sparsity_is_one_vmap():
    params = {"Dense_0": tree()["Dense_0"]}

    def count(s):
        pruner = prune.gradual(s, begin=0, end=10)
        return pruner.update(pruner.init(params), params, step=10).masks["Dense_0"]["kernel"].sum(dtype=jnp.int32)

    s = jnp.array([0.0, 0.5, 0.9, 0.99])
    assert jit(jax.vmap(count))(s).tolist() == [192, 96, 19, 2]


def test_sharded_parameters_give_the_same_masks():
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    params = tree()
    dense = NamedSharding(mesh, PartitionSpec("b", "a"))
    spread = jax.tree.map(lambda x: jax.device_put(x, dense) if x.ndim == 2 else x, params)
    pruner = prune.one_shot(0.9, budget="global")
    want = pruner.update(pruner.init(params), params, step=0)
    got = jit(pruner.update)(pruner.init(params), spread, step=0)
    same(got, want)


def test_masks_of_an_earlier_stage_of_another_pattern_are_respected():
    params = tree()
    first = prune.one_shot(0.9)
    state = first.update(first.init(params), params, step=0)
    second = prune.one_shot(0.5, pattern=Channel())
    after = second.update(state, params, step=1)
    mask, old = after.masks["Dense_0"]["kernel"], state.masks["Dense_0"]["kernel"]
    assert not (mask & ~old).any() and int(mask.any(0).sum()) == 6
    # The 6 channels of largest L1 norm of what had been left.
    norms = jnp.where(old, abs(params["Dense_0"]["kernel"]), 0).sum(0)
    assert set(np.flatnonzero(mask.any(0))) == set(np.argsort(-norms, stable=True)[:6].tolist())
    # Less sparse than what there is: nothing grows back.
    same(prune.one_shot(0.5).update(state, params, step=1), state)


def test_in_a_chain_and_after_it():
    double = jopt.identity()._replace(apply=lambda s, p: jax.tree.map(lambda x: 2 * x, p))
    t = jopt.chain(prune.one_shot(0.5, score="wanda"), double)
    assert t.needs == {"layers"}
    state = t.update(t.init(tree()), tree(), step=0, layers=layers())
    assert kept(state[0])["Dense_0"] == 96
    out = t.apply(state, tree())
    assert int((out["Dense_0"]["kernel"] != 0).sum()) == 96


def test_on_the_state_of_an_nnx_module_and_on_a_dict():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(6, 8, rngs=rngs)
            self.out = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x):
            return self.out(nnx.relu(self.hidden(x)))

    net = Net(nnx.Rngs(0))
    graph, params = nnx.split(net, nnx.Param)
    rules = [("out/kernel.*", 0.5)]
    pruner = prune.one_shot(0.75, rules=rules)
    state = pruner.update(pruner.init(params), params, step=0)
    sparse = nnx.merge(graph, pruner.apply(state, params))
    assert int((sparse.hidden.kernel[...] != 0).sum()) == 12 and int((sparse.out.kernel[...] != 0).sum()) == 12
    plain = nnx.to_pure_dict(params)
    by_dict = pruner.update(pruner.init(plain), plain, step=0)
    same(by_dict.masks["hidden"]["kernel"], state.masks["hidden"]["kernel"].get_value())
    # Statistics of a layer are found by its path, whatever follows it.
    stats = {"hidden": LayerStatistics(jnp.ones(6), jnp.ones(8)), "out": LayerStatistics(jnp.ones(8), jnp.ones(3))}
    wanda = prune.one_shot(0.75, rules=rules, score="wanda")
    same(wanda.update(wanda.init(params), params, step=0, layers=stats).masks, state.masks)


def test_wanda_has_no_norms_of_a_recurrent_state():
    """They would be those of the layer's input, which may have as many features."""
    params = {"Recurrent_0": {"kernel": jnp.ones((4, 4)), "recurrent_kernel": jnp.ones((4, 4))}}
    stats, rule = {"Recurrent_0": LayerStatistics(jnp.ones(4), jnp.ones(4))}, ("Recurrent_0/recurrent_kernel", None)
    wanda = prune.one_shot(0.5, score="wanda")
    with pytest.raises(ValueError, match=r"recurrent_kernel: 'wanda'.*state"):
        wanda.update(wanda.init(params), params, step=0, layers=stats)
    wanda = prune.one_shot(0.5, score="wanda", rules=[rule])
    state = wanda.update(wanda.init(params), params, step=0, layers=stats)
    assert int(state.masks["Recurrent_0"]["kernel"].sum()) == 8


BAD = [
    (lambda: prune.one_shot(1.2), r"sparsity must lie in \[0, 1\), got 1.2"),
    (lambda: prune.one_shot(-0.1), r"sparsity must lie in \[0, 1\), got -0.1"),
    (lambda: prune.one_shot(float("nan")), r"sparsity must lie in \[0, 1\), got nan"),
    (lambda: prune.one_shot(None), r"sparsity must lie in \[0, 1\), got None"),
    (lambda: prune.one_shot(0.9, pattern=NM(2, 4)), r"fixes sparsity at 0.5: give None, got 0.9"),
    (lambda: prune.one_shot(pattern=NM(2, 4), budget="global"), "budget must be 'layer' for NM"),
    (lambda: prune.one_shot(0.5, score="magnitud"), "score must be one of 'magnitude', .* got 'magnitud'"),
    (lambda: prune.one_shot(0.5, budget="whole"), "budget must be one of 'layer', 'global', 'erk', .*got 'whole'"),
    (lambda: prune.one_shot(0.5, begin=-1), "begin must be a step, at least 0, got -1"),
    (lambda: prune.gradual(0.5, begin=5, end=4), r"end must be a step, at least begin \(5\), got 4"),
    (lambda: prune.gradual(0.5, begin=0, end=4, initial_sparsity=0.6), r"at most sparsity \(0.5\), got 0.6"),
    (lambda: prune.gradual(0.5, begin=0, end=4, initial_sparsity=-1), r"\[0, 1\), got -1 for initial_sparsity"),
    (lambda: prune.gradual(0.5, begin=0, end=4, pattern=NM(2, 4)), "sparsity can grow, got NM.*: use one_shot"),
    (lambda: prune.iterative(0.5, begin=0, end=4, rounds=2, pattern=NM(2, 4)), "sparsity can grow, got NM"),
    (lambda: prune.iterative(0.5, begin=0, end=4, rounds=0), "rounds must be at least 1, got 0"),
    (lambda: prune.one_shot(0.5, rules=[("Dense_0/kernel", 1.2)]).init(tree()), r"1.2 for rule 'Dense_0/kernel'"),
    (lambda: prune.one_shot(0.5, rules=[("Dense_9/.*", None)]).init(tree()), "'Dense_9/.*' matches no parameter"),
    (lambda: prune.one_shot(0.5, rules=[(".*", None)]).init(tree()), "no parameter is pruned.*Conv_0/bias"),
    (lambda: prune.one_shot(0.5).init({"b": jnp.zeros(3)}), "no parameter is pruned.*: b"),
    (lambda: prune.one_shot(0.5).init({}), "no parameter is pruned.*: none"),
    (lambda: prune.one_shot(0.5, pattern=Block((5, 5))).init(tree()), r"Conv_0/kernel: Block.*must divide axis 2"),
    (lambda: prune.one_shot(pattern=NM(2, 8)).init(tree()), "Dense_0/kernel: NM.*must divide axis 1"),
    (lambda: prune.one_shot(0.5, pattern=Channel(3)).init(tree()), "Dense_0/kernel: Channel.* axis"),
    (lambda: prune.one_shot(0.5, rules=[("n", 0.5)]).init({"n": jnp.arange(2)}), "n: .*floating, got int32"),
    (lambda: prune.one_shot(0.5).apply(prune.one_shot(0.5).init(tree()), {"w": jnp.ones((2, 2))}), "mismatch|key"),
]  # fmt: skip


@pytest.mark.parametrize("make, message", BAD, ids=range(len(BAD)))
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_nan_is_refused_where_a_choice_is_made():
    params = tree()
    params["Dense_0"]["kernel"] = params["Dense_0"]["kernel"].at[0, :2].set(jnp.nan)
    pruner = prune.one_shot(0.5, begin=3)
    state = pruner.update(pruner.init(params), params, step=2)
    with pytest.raises(ValueError, match=r"Dense_0/kernel: weights.*NaN.*2.*192"):
        pruner.update(state, params, step=3)


def test_leaves_that_are_no_floats_are_left_alone():
    params = {"ids": jnp.zeros((2, 2), jnp.int32), "w": jnp.ones((2, 2))}
    assert prune.one_shot(0.5).init(params).masks["ids"] is None
