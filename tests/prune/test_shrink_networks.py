"""Shrunk equals masked on random inputs, for every architecture, random masks, biases and statistics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import jit

from jopt import coupling
from jopt.coupling import affine, reads
from jopt.models import MLP, RNN, XOR, ConvNet, ResNet, TiedMLP
from jopt.prune import shrink, shrink_all, shrink_plan

pytestmark = pytest.mark.unoptimized

NETWORKS = {
    "mlp": (MLP((7, 5, 6), 3), (6,)),
    "mlp sigmoid": (MLP((7, 6), 3, "sigmoid"), (6,)),
    "tied": (TiedMLP(7, 4, 3, "relu"), (6,)),
    "tied tanh": (TiedMLP(7, 2, 3, "tanh"), (6,)),
    "xor": (XOR(7), (2,)),
    "conv SAME": (ConvNet((4, 5), (6,), padding="SAME"), (8, 8, 2)),
    "conv VALID softplus": (ConvNet((4, 5), (6, 5), padding="VALID", activation="softplus"), (12, 14, 1)),
    "conv 5 None": (ConvNet((4, 5), (), kernel=5, padding=None, activation="tanh"), (8, 8, 1)),
    "rnn": (RNN("rnn", (6, 5), 3), (4, 3)),
    "gru": (RNN("gru", (6, 5), 3), (4, 3)),
    "lstm": (RNN("lstm", (6, 5), 3), (4, 3)),
    "resnet": (ResNet(5, (2,), 3), (8, 8, 2)),
    "resnet folded": (ResNet(4, (1, 1), 3, folded=True), (6, 6, 2)),
    # The last stage has 1 pixel, so its first block does not change the shape if both have as many channels.
    "resnet of 1 pixel": (ResNet(2, (1, 1, 1), 3, streams=(6, 6, 3)), (2, 2, 2)),
    "resnet of 64 pixels": (ResNet(4, (1,), 3), (64, 64, 1)),
}


def start(model, shape, rng):
    """Random parameters and statistics, biases and means included."""
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape))))

    def leaf(path, a):
        value = rng.normal(size=a.shape) / np.sqrt(max(1, np.prod(a.shape[:-1])))
        return jnp.array(np.exp(value) if "var" in str(path[-1]) else value, a.dtype)

    out = dict(jax.tree_util.tree_map_with_path(leaf, variables))
    return out.pop("params"), out


def flat(tree):
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in
            jax.tree_util.tree_leaves_with_path(tree)}  # fmt: skip


def nested(leaves):
    out = {}
    for path, leaf in leaves.items():
        *outer, name = path.split("/")
        inner = out
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[name] = leaf
    return out


def random_masks(model, params, rng, share, unstructured):
    """Prunes some units' incoming weights, some units' outgoing ones, some biases, and weights one by one."""
    arrays = flat(params)
    masks = {path: rng.random(a.shape) > unstructured for path, a in arrays.items() if path.endswith("kernel")}
    for group in coupling.of(model).groups:
        without_input, unread, unbiased = (rng.random(group.size) < share for _ in range(3))
        # Zero starts in a group's every writer, or constants of a stream hardly ever all vanish.
        for point in group.points:
            for layer in point.writers:
                for kernel in layer.kernels:
                    masks[kernel] &= ~np.tile(without_input, layer.gates)
                biases = layer.biases if layer.norm is None else (layer.norm.scale, layer.norm.bias)
                for path in biases:
                    mask = np.tile(~(without_input & unbiased), arrays[path].size // group.size)
                    masks[path] = masks.get(path, True) & mask
            for reader in point.readers:
                masks[reader.kernel] &= ~np.tile(unread, masks[reader.kernel].shape[-2] // group.size)[:, None]
    return nested({path: jnp.array(mask) for path, mask in masks.items()})


def masked(params, masks):
    masks = flat(masks)
    return nested({p: np.where(masks[p], a, np.float32(0)) if p in masks else a for p, a in flat(params).items()})


def removes_and_agrees(name, seed, share=0.4, unstructured=0.2):
    """How many units went; asserts that the function is the same."""
    model, shape = NETWORKS[name]
    rng = np.random.default_rng(seed)
    params, state = start(model, shape, rng)
    masks = random_masks(model, params, rng, share, unstructured)
    small = shrink_all(model, params, masks, model_state=state)
    x = jnp.array(rng.normal(size=(3, *shape)), jnp.float32)
    masked_outputs = jit(model.apply)({"params": masked(params, masks), **state}, x)
    shrunk_outputs = jit(small.model.apply)({"params": small.params, **small.model_state}, x)
    np.testing.assert_allclose(
        shrunk_outputs, masked_outputs, rtol=2e-5, atol=2e-5 * float(jnp.abs(masked_outputs).max())
    )
    plan = shrink_plan(model, params, masks, model_state=state)
    assert [len(r.kept) for r in small.removed] == [row.after for row in plan]
    assert all(1 <= row.after <= row.before for row in plan)
    assert jax.tree.structure(small.params) == jax.tree.structure(params)
    return sum(row.before - row.after for row in plan)


@pytest.mark.parametrize("name", NETWORKS)
def test_shrunk_is_masked(name):
    assert removes_and_agrees(name, 0) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_shrunk_is_masked_for_more_masks(name):
    assert sum(removes_and_agrees(name, seed, share, 0.3) for seed in range(6) for share in (0.2, 0.6)) > 0


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**16),
    st.sampled_from(["mlp", "mlp sigmoid", "tied", "tied tanh", "xor"]),
    st.floats(0, 1),
    st.floats(0, 0.9),
)
def test_shrunk_is_masked_for_any_masks_of_dense_networks(seed, name, share, unstructured):
    removes_and_agrees(name, seed, share, unstructured)


@pytest.mark.parametrize("activation", ["elu", "gelu", "identity", "leaky_relu", "silu"])
def test_every_activation_has_its_own_constant(activation):
    model, shape = MLP((6, 5), 3, activation), (4,)
    rng = np.random.default_rng(1)
    params, _ = start(model, shape, rng)
    masks = {"Dense_0": {"kernel": jnp.array(rng.random((4, 6)) < 0.3)}}
    small, new = shrink(model, params, masks)
    assert small.features[0] < 6
    x = jnp.array(rng.normal(size=(5, 4)), jnp.float32)
    masked_outputs = model.apply({"params": masked(params, masks)}, x)
    np.testing.assert_allclose(small.apply({"params": new}, x), masked_outputs, rtol=1e-5, atol=1e-6)


def test_shrinking_twice_is_shrinking_once():
    model, shape = NETWORKS["mlp"]
    rng = np.random.default_rng(3)
    params, _ = start(model, shape, rng)
    masks = random_masks(model, params, rng, 0.4, 0.3)
    small, once = shrink(model, params, masks)
    again, twice = shrink(small, once, jax.tree.map(lambda w: w != 0, once))
    assert again == small
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), once, twice))


def test_a_unit_of_every_kind_is_cut_where_nothing_reads_it():
    """Every group of every network, its last unit's readers pruned: exactly that unit goes."""
    for model, shape in NETWORKS.values():
        params, state = start(model, shape, np.random.default_rng(0))
        for group in coupling.of(model).groups:
            masks = {p: np.ones(a.shape, bool) for p, a in flat(params).items()}
            for point in group.points:
                for reader in point.readers:
                    masks[reader.kernel][..., group.size - 1 :: group.size, :] = False
            plan = shrink_plan(model, params, nested(masks), model_state=state)
            assert {row.layer: row.before - row.after for row in plan} == {
                other.name: int(other.name == group.name) for other in coupling.of(model).groups
            }


def test_a_coupling_with_a_norm_behind_a_dense_layer_folds_into_its_mean():
    """What no model of jopt has: a constant that meets a layer without bias, in front of a normalization."""
    norm = coupling.Norm("n/scale", "n/bias", "stats/mean", "stats/var", 1e-5)
    first, second, last = affine("a"), affine("b", norm, bias=False), affine("c")

    @dataclasses.dataclass(frozen=True)
    class Net:
        sizes: tuple[int, int]

        def init(self, key, x):
            a, b = self.sizes
            shapes = {
                "params": {
                    "a": {"kernel": (x.shape[-1], a), "bias": (a,)},
                    "b": {"kernel": (a, b)},
                    "n": {"scale": (b,), "bias": (b,)},
                    "c": {"kernel": (b, 2), "bias": (2,)},
                },
                "stats": {"mean": (b,), "var": (b,)},
            }
            return jax.tree.map(jnp.ones, shapes, is_leaf=lambda s: isinstance(s, tuple))

        def apply(self, params, stats, x):
            h = jax.nn.sigmoid(x @ params["a"]["kernel"] + params["a"]["bias"][None]) @ params["b"]["kernel"]
            h = (h - stats["mean"][None]) / jnp.sqrt(stats["var"][None] + 1e-5) * params["n"]["scale"][None]
            h = jnp.tanh(h + params["n"]["bias"][None])
            return h @ params["c"]["kernel"] + params["c"]["bias"][None]

        def coupling(self, x=None):
            groups = (
                coupling.Group("a", self.sizes[0], (coupling.Point((first,), (reads(second),), jax.nn.sigmoid),)),
                coupling.Group("b", self.sizes[1], (coupling.Point((second,), (reads(last),), jnp.tanh),)),
            )
            return coupling.Coupling(
                groups, lambda sizes: Net((sizes["a"], sizes["b"])), lambda shape: (1, shape("a/kernel")[0])
            )

    net = Net((5, 4))
    rng = np.random.default_rng(0)
    params, state = start(net, (3,), rng)
    masks = {"a": {"kernel": jnp.ones((3, 5), bool).at[:, 2].set(False)}, "b": {"kernel": jnp.ones((5, 4), bool)}}
    masks["b"]["kernel"] = masks["b"]["kernel"].at[:, 1].set(False).at[0, 1].set(False)
    small = shrink_all(net, params, masks, model_state=state)
    assert small.model == Net((4, 3))
    x = jnp.array(rng.normal(size=(6, 3)), jnp.float32)
    masked_outputs = net.apply(masked(params, masks), state["stats"], x)
    shrunk_outputs = small.model.apply(small.params, small.model_state["stats"], x)
    np.testing.assert_allclose(shrunk_outputs, masked_outputs, rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(small.model_state["stats"]["mean"] - jnp.delete(state["stats"]["mean"], 1)).max()) > 0.01
