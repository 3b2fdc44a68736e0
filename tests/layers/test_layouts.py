"""The axes that a trace finds, against what each kernel entry does: its derivative says which outputs it feeds."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jopt import layers, models
from jopt.models.layers import Conv

pytestmark = pytest.mark.unoptimized
KEY = jax.random.key(0)
# The layer, the shape of an example, and how many axes of an output are features.
LAYERS = {
    "Dense": (nn.Dense(3), (4,), 1),
    "DenseGeneral, heads out": (nn.DenseGeneral((2, 3)), (4,), 2),
    "DenseGeneral, heads in": (nn.DenseGeneral(3, axis=(-2, -1)), (2, 4), 1),
    "DenseGeneral, one of two axes": (nn.DenseGeneral(3, axis=-2), (2, 4), 1),
    "Conv": (nn.Conv(3, (2, 3)), (4, 5, 2), 1),
    "jopt's Conv of one channel": (Conv(3, (2, 3)), (4, 5, 1), 1),
    "Conv to one channel": (Conv(1, (3, 3)), (4, 4, 2), 1),
    "1x1 Conv": (Conv(3, (1, 1)), (4, 4, 2), 1),
    "1-D Conv, dilated": (nn.Conv(3, (3,), kernel_dilation=2), (6, 2), 1),
    "grouped Conv": (nn.Conv(4, (2, 2), feature_group_count=2), (3, 3, 4), 1),
    "depthwise Conv": (nn.Conv(3, (2, 2), feature_group_count=3), (3, 3, 3), 1),
    "ConvTranspose": (nn.ConvTranspose(3, (2, 2), strides=(2, 2)), (3, 3, 2), 1),
    "ConvTranspose, kernel transposed": (nn.ConvTranspose(3, (2, 2), transpose_kernel=True), (3, 3, 2), 1),
    "Embed": (nn.Embed(5, 3), (2,), 1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_axes_are_what_the_derivative_says(name):
    module, shape, features = LAYERS[name]
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *shape)), jnp.float32)
    x = jnp.asarray(rng.integers(0, 5, (2, *shape))) if isinstance(module, nn.Embed) else x
    params = module.init(KEY, x)["params"]
    (path, kernel) = next((p, w) for p, w in params.items() if p in ("kernel", "embedding"))
    traced = layers.trace(models.Model(lambda k, x: (params, {}), _apply(module)), x)[path]
    every = [*traced.contract, *traced.outputs, *traced.stack]
    assert sorted(every) == list(range(kernel.ndim)) and traced.source == "traced" and not traced.stack
    # Does an entry of the kernel feed an output feature, of any position of any example?
    slopes = jax.jit(jax.jacrev(lambda w: module.apply({"params": {**params, path: w}}, x)))(kernel)
    rank = slopes.ndim - kernel.ndim
    feeds = np.asarray(jnp.abs(slopes).max(tuple(range(rank - features)))) > 0
    sizes = [kernel.shape[axis] for axis in traced.outputs]
    assert list(feeds.shape[:features]) == sizes
    for unit in itertools.product(*map(range, sizes)):
        at = dict(zip(traced.outputs, unit, strict=True))
        mask = np.zeros(kernel.shape, bool)
        mask[tuple(at.get(axis, slice(None)) for axis in range(kernel.ndim))] = True
        assert not feeds[unit][~mask].any(), "an entry of another unit feeds this one"
        assert feeds[unit][mask].any(), "no entry of the unit feeds it"
    assert _window(module) == [kernel.shape[axis] for axis in traced.window]
    assert traced.groups == getattr(module, "feature_group_count", 1)
    strides = getattr(module, "strides", None)
    assert traced.dilation == (int(np.prod(strides)) if isinstance(module, nn.ConvTranspose) and strides else 1)


def _apply(module):
    return lambda params, state, x, *, train, key=None: (module.apply({"params": params}, x), state)


def _window(module):
    return list(module.kernel_size) if hasattr(module, "kernel_size") else []


def axes(traced, *names):
    return {name: (traced[name].contract, traced[name].outputs, traced[name].stack) for name in names}


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        h = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8, name="attention")(nn.LayerNorm()(x))
        return x + h + nn.Dense(6)(nn.gelu(nn.Dense(10)(nn.LayerNorm()(x)))), None


class Stack(nn.Module):
    axis: int = 0
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        block = nn.remat(Block) if self.remat else Block
        kwargs = {"variable_axes": {"params": self.axis}, "split_rngs": {"params": True}, "length": 3}
        return nn.scan(block, **kwargs)(name="blocks")(x, None)[0]


@pytest.mark.parametrize("remat", [False, True])
def test_copies_of_a_scanned_block_are_its_stack(remat):
    x = jnp.ones((2, 5, 6))
    first = layers.trace(models.from_linen(Stack(0, remat)), x)
    names = ["blocks/Dense_0/kernel", "blocks/attention/query/kernel", "blocks/attention/out/kernel"]
    assert list(axes(first, *names).values()) == [
        ((1,), (2,), (0,)),
        ((1,), (2, 3), (0,)),
        ((1, 2), (3,), (0,)),
    ]
    second = layers.trace(models.from_linen(Stack(1, remat)), x)
    assert list(axes(second, *names).values()) == [
        ((0,), (2,), (1,)),
        ((0,), (2, 3), (1,)),
        ((0, 2), (3,), (1,)),
    ]
    bias, scale = first["blocks/attention/query/bias"], first["blocks/LayerNorm_0/scale"]
    assert (bias.role, bias.outputs, bias.stack, bias.layer) == ("bias", (1, 2), (0,), "DenseGeneral")
    assert (scale.role, scale.outputs, scale.stack, scale.layer) == ("scale", (1,), (0,), "LayerNorm")


class Mapped(nn.Module):
    """Three copies of a layer, each with its input, or all with the same one."""

    layer: type
    settings: dict
    shared: bool

    @nn.compact
    def __call__(self, x):
        options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}, "axis_size": 3}
        mapped = nn.vmap(self.layer, in_axes=None if self.shared else 0, **options)
        return mapped(name="layer", **self.settings)(x if self.shared else jnp.stack([x] * 3)).sum(0)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("layer", "settings", "axes"),
    [
        (nn.Dense, {"features": 3}, ((1,), (2,), ())),
        (nn.Embed, {"num_embeddings": 3, "features": 5}, ((1,), (2,), ())),
        (nn.Conv, {"features": 3, "kernel_size": (3, 3)}, ((1, 2, 3), (4,), (1, 2))),
        # Sizes that a wrong order of axes fits just as well.
        (
            nn.Conv,
            {"features": 6, "kernel_size": (3, 3), "feature_group_count": 2},
            ((1, 2, 3), (4,), (1, 2)),
        ),
        (nn.ConvTranspose, {"features": 4, "kernel_size": (2, 3)}, ((1, 2, 3), (4,), (1, 2))),
    ],
)
def test_copies_of_a_mapped_layer_are_its_stack(layer, settings, axes, shared):
    model = models.from_linen(Mapped(layer, settings, shared))
    x = jnp.ones((2, 3), jnp.int32) if layer is nn.Embed else jnp.ones((2, 8, 8, 6))
    name = "layer/embedding" if layer is nn.Embed else "layer/kernel"
    traced = layers.trace(model, x)[name]
    assert (traced.contract, traced.outputs, traced.window, traced.stack, traced.source) == (*axes, (0,), "traced")


def test_a_layer_of_learned_queries_is_a_layer():
    """The pooling by attention at the end of many transformers: its query projection sees no data."""

    class Pooling(nn.Module):
        @nn.compact
        def __call__(self, x):
            probe = self.param("probe", nn.initializers.normal(), (1, 2, 6))
            probe = jnp.broadcast_to(probe, (x.shape[0], 2, 6))
            return nn.MultiHeadDotProductAttention(num_heads=2, name="pool")(nn.Dense(6)(probe), x)

    traced = layers.trace(models.from_linen(Pooling()), jnp.ones((2, 5, 6)))
    assert axes(traced, "Dense_0/kernel", "pool/query/kernel", "pool/key/kernel") == {
        "Dense_0/kernel": ((0,), (1,), ()),
        "pool/query/kernel": ((0,), (1, 2), ()),
        "pool/key/kernel": ((0,), (1, 2), ()),
    }
    assert traced["pool/query/kernel"].source == "traced" and traced["probe"].role == "other"


def test_a_product_in_chunks_makes_no_copies():
    """Slices of an axis that is also summed over, or also makes outputs, are parts of one kernel."""

    def apply(p, state, x, *, train, key=None):
        rows, columns = p["rows"].reshape(4, 2, 6), p["columns"].reshape(8, 3, 2).swapaxes(0, 1)
        parts = x.reshape(-1, 4, 2).swapaxes(0, 1)
        y = jax.lax.scan(lambda y, part: (y + part[0] @ part[1], None), jnp.zeros((2, 6)), (parts, rows))[0]
        z = jax.lax.map(lambda part: x @ part, columns)
        return y + jnp.concatenate(list(z), -1), state

    params = {"rows": jnp.ones((8, 6)), "columns": jnp.ones((8, 6))}
    traced = layers.trace(models.Model(lambda k, x: (params, {}), apply), jnp.ones((2, 8)))
    assert axes(traced, *params) == dict.fromkeys(params, ((0,), (1,), ()))


def test_parameters_that_are_stacked_unstacked_and_tiled_are_followed():
    def apply(p, state, x, *, train, key=None):
        both = jnp.stack([p["query"], p["key"]])
        h = jnp.einsum("bi,koi->bko", x, both).sum(1)
        for copy in jnp.unstack(p["copies"], axis=1):
            h = h @ copy
        return h @ jnp.tile(p["tiled"], (1, 2)), state

    shapes = {"query": (6, 8), "key": (6, 8), "copies": (6, 3, 6), "tiled": (6, 4)}
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    traced = layers.trace(models.Model(lambda k, x: (params, {}), apply), jnp.ones((2, 8)))
    assert axes(traced, *shapes) == {
        "query": ((1,), (0,), ()),
        "key": ((1,), (0,), ()),
        "copies": ((0,), (2,), (1,)),
        "tiled": ((0,), (1,), ()),
    }


def test_groups_that_cut_an_axis_are_no_copies():
    """A block-diagonal product: of an axis of outputs there are more; one of inputs has no axis for its groups."""

    def apply(p, state, x, *, train, key=None):
        grouped = x.reshape(-1, 2, 4)
        y = jnp.einsum("bgi,gio->bgo", grouped, p["outputs"].reshape(4, 2, 6).swapaxes(0, 1))
        return y + jnp.einsum("bgi,gio->bgo", grouped, p["inputs"].reshape(2, 4, 6)), state

    params = {"outputs": jnp.ones((4, 12)), "inputs": jnp.ones((8, 6))}
    traced = layers.trace(models.Model(lambda k, x: (params, {}), apply), jnp.ones((2, 8)))
    assert axes(traced, *params) == {"outputs": ((0,), (1,), ()), "inputs": ((), (), ())}


def test_a_kernel_in_a_norm_is_a_kernel_where_it_makes_outputs():
    def apply(p, state, x, *, train, key=None):
        shift = x @ p["norm1"]["kernel"] + p["norm1"]["bias"][None]
        return x * p["norm2"]["weight"][None] + shift, state

    params = {"norm1": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}, "norm2": {"weight": jnp.ones(4)}}
    traced = layers.trace(models.Model(lambda k, x: (params, {}), apply), jnp.ones((2, 4)))
    assert {path: p.role for path, p in traced.items()} == {
        "norm1/bias": "bias", "norm1/kernel": "kernel", "norm2/weight": "scale",
    }  # fmt: skip


def test_what_is_assumed_of_a_scanned_parameter_is_that_of_one_copy():
    """A scale called 'weight' is a vector in each copy, and no kernel [copies, features]."""

    def apply(p, state, x, *, train, key=None):
        def block(x, copy):
            x = x * copy["first"]["weight"][None]
            return (x[:, :, None] * copy["kernel"][None]).sum(1), None  # a product that the trace does not follow.

        return jax.lax.scan(block, x, p)[0], state

    params = {"first": {"weight": jnp.ones((3, 4))}, "kernel": jnp.ones((3, 4, 4))}
    traced = layers.trace(models.Model(lambda k, x: (params, {}), apply), jnp.ones((2, 4)))
    assert (traced["first/weight"].role, traced["first/weight"].stack) == ("other", (0,))
    assert axes(traced, "kernel") == {"kernel": ((), (), (0,))} and traced["kernel"].source == "assumed"


def test_matrices_that_are_looked_up_are_no_embedding():
    def apply(p, state, x, *, train, key=None):
        expert = jnp.argmax(x @ p["gate"], -1)
        return jnp.einsum("bi,bio->bo", x, p["experts"][expert]), state

    params = {"gate": jnp.ones((4, 3)), "experts": jnp.ones((3, 4, 5))}
    experts = layers.trace(models.Model(lambda k, x: (params, {}), apply), jnp.ones((2, 4)))["experts"]
    assert (experts.role, experts.contract, experts.outputs) == ("kernel", (), ())


def test_functions_slices_and_shared_tables():
    """[out, in]; copies taken out of a stack, one by one or in a loop; a table that is looked up and multiplied."""

    def apply(p, state, x, *, train, key=None):
        h = p["table"][x] + p["positions"][jnp.arange(x.shape[1])][None]
        for i in range(2):
            h = jnp.tanh(h @ p["stack"][i])
        h = jax.lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ p["loop"][i]), h)
        h = jnp.where(p["gate"][None], h, 0) * p["norm"]["weight"][None]
        h = h @ (p["masked"] * jnp.where(jnp.abs(p["masked"]) > 0.1, 1.0, 0.0)).T + p["offsets"][None]
        return (h @ p["table"].T).mean(1), state

    shapes = {
        "table": (7, 4), "positions": (5, 4), "stack": (2, 4, 4), "loop": (3, 4, 4), "gate": (5, 4),
        "norm": {"weight": (5, 4)}, "masked": (4, 4), "offsets": (5, 4), "unused": (4, 4),
    }  # fmt: skip
    params = jax.tree.map(jnp.ones, shapes, is_leaf=lambda s: isinstance(s, tuple))
    params["gate"] = params["gate"] > 0
    traced = layers.trace(models.Model(lambda k, x: (params, {}), apply), jnp.zeros((1, 5), jnp.int32))
    assert axes(traced, "table", "stack", "loop", "masked") == {
        "table": ((0,), (1,), ()),
        "stack": ((1,), (2,), (0,)),
        "loop": ((1,), (2,), (0,)),
        "masked": ((1,), (0,), ()),
    }
    assert {path: p.role for path, p in traced.items()} == {
        "table": "embedding", "positions": "embedding", "stack": "kernel", "loop": "kernel", "gate": "other",
        "norm/weight": "scale", "masked": "kernel", "offsets": "other", "unused": "other",
    }  # fmt: skip


def test_two_uses_that_differ_leave_the_layout_unknown():
    def apply(p, state, x, *, train, key=None):
        return x @ p["w"] @ p["w"].T, state

    model = models.Model(lambda k, x: ({"w": jnp.ones((4, 3))}, {}), apply)
    w = layers.trace(model, jnp.ones((2, 4)))["w"]
    assert (w.role, w.contract, w.outputs) == ("kernel", (), ())
    with pytest.raises(layers.LayoutError, match=r"^w: a test .*layer 'w'"):
        w.require_layout("a test")


def test_a_declaration_comes_first_and_must_name_a_parameter():
    def apply(p, state, x, *, train, key=None):
        return jnp.fft.ifft(jnp.fft.fft(x) * jnp.fft.fft(p["filter"])[None]).real, state

    model = models.Model(lambda k, x: ({"filter": jnp.ones(4)}, {}), apply)
    x = jnp.ones((2, 4))
    assert layers.trace(model, x)["filter"].role == "other"
    declared = {"filter": layers.Parameter("filter", "Circulant", "kernel", (0,), ())}
    traced = layers.trace(model._replace(layers=declared), x)["filter"]
    assert traced.reason == "kernel of Circulant, declared" and traced.is_weight
    with pytest.raises(ValueError, match=r"declares other.*: filter"):
        layers.trace(model._replace(layers={"other": declared["filter"]}), x)


def test_nnx_modules_have_kinds_and_axes():
    from flax import nnx

    def make(rngs):
        conv, norm = nnx.Conv(1, 4, (3, 3), rngs=rngs), nnx.LayerNorm(4, rngs=rngs)
        return nnx.Sequential(conv, norm, lambda x: x.mean((1, 2)))

    traced = layers.trace(models.from_nnx(make), jnp.ones((1, 5, 5, 1)))
    assert {path: p.reason for path, p in traced.items()} == {
        "layers/0/bias": "bias of Conv",
        "layers/0/kernel": "kernel of Conv",
        "layers/1/bias": "bias of LayerNorm",
        "layers/1/scale": "scale of LayerNorm",
    }
    assert traced["layers/0/kernel"].window == (0, 1)


@pytest.mark.parametrize("name", models.names())
def test_every_parameter_of_our_models_is_known(name):
    """And what is assumed from names and shapes, where no model is at hand, is the same."""
    model = models.model(models.ModelConfig(name, num_classes=2 if name == "xor" else 10))
    x = jnp.ones((1, 28, 28, 1)) if name in ("lenet5", "cnn", "cifar10_cnn") else jnp.ones((1, 8, 8, 1))
    traced = layers.trace(model, x)
    shapes = jax.eval_shape(lambda: model.init(KEY, x)[0])
    for parameter, assumed in zip(traced.values(), layers.parameters(shapes), strict=True):
        assert (
            parameter.is_weight == (parameter.role == "kernel") and bool(parameter.contract) == parameter.is_weight
        )
        fields = ("path", "role", "contract", "outputs", "window", "stack")
        if "shortcut" in parameter.path:  # a convolution whose name does not say so: unknown, not guessed.
            fields, assumed = fields[:2], assumed._replace(contract=(), outputs=())
        assert [getattr(parameter, f) for f in fields] == [getattr(assumed, f) for f in fields], parameter


@pytest.mark.parametrize(
    ("path", "shape", "role", "contract", "outputs"),
    [
        ("Dense_0/kernel", (3, 4), "kernel", (0,), (1,)),
        ("Recurrent_0/recurrent_kernel", (3, 4), "kernel", (0,), (1,)),
        ("layer/weight", (3, 4), "kernel", (), ()),  # [out, in] in PyTorch and Equinox, [in, out] elsewhere
        ("block/Conv_0/kernel/value", (3, 3, 4, 8), "kernel", (0, 1, 2), (3,)),
        ("ConvTranspose_0/kernel", (3, 3, 4, 8), "kernel", (), ()),
        ("attention/query/kernel", (8, 2, 4), "kernel", (0,), (1, 2)),
        ("SelfAttention_0/out/kernel", (2, 4, 8), "kernel", (0, 1), (2,)),
        ("query/kernel", (8, 2, 4), "kernel", (), ()),  # of what? a convolution may be called so
        ("ScanBlock_0/Dense_0/kernel", (3, 8, 16), "kernel", (1,), (2,)),
        ("ScanBlock_0/attn/key/kernel", (3, 8, 2, 4), "kernel", (1,), (2, 3)),
        ("ScanBlock_0/Dense_0/bias", (3, 16), "bias", (), (1,)),
        ("Scanner_0/kernel", (8, 16), "kernel", (0,), (1,)),
        ("attention/query/bias", (2, 4), "bias", (), (0, 1)),
        ("LayerNorm_0/scale", (3, 16), "scale", (), (0, 1)),
        ("norm1/weight", (3, 16), "scale", (), (0, 1)),
        ("Embed_0/embedding", (10, 4), "embedding", (0,), (1,)),
        ("pos_embedding", (1, 16, 32), "other", (), ()),
        ("cls_token", (1, 1, 32), "other", (), ()),
        ("0", (3, 4), "kernel", (0,), (1,)),
        ("1", (4,), "other", (), ()),
    ],
)
def test_names(path, shape, role, contract, outputs):
    traced = layers.assumed(path, shape)
    assert (traced.role, traced.contract, traced.outputs) == (role, contract, outputs)
    assert traced.stack == ((0,) if path.startswith("ScanBlock") else ())


def test_integers_are_no_weights_whatever_their_name():
    assert layers.parameters({"kernel": jnp.zeros((2, 2), jnp.int8)})[0].role == "other"


def test_a_kernel_that_the_trace_did_not_follow_has_no_assumed_axes():
    """Here it is [out, in], and its name alone would say [in, out]: unknown is right, an error where it matters."""

    def apply(p, state, x, *, train, key=None):
        return (x[:, None] * p["kernel"][None]).sum(-1), state

    model = models.Model(lambda k, x: ({"kernel": jnp.ones((6, 8))}, {}), apply)
    traced = layers.trace(model, jnp.ones((2, 8)))["kernel"]
    assert (traced.role, traced.contract, traced.outputs, traced.source) == ("kernel", (), (), "assumed")
    assert layers.assumed("kernel", (6, 8)).outputs == (1,)


def test_biases_of_mapped_layers_are_copies_like_their_kernels():
    mapped = nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=1, out_axes=1)
    traced = layers.trace(models.from_linen(mapped(5)), jnp.ones((2, 3, 4)))
    assert (traced["kernel"].stack, traced["bias"].stack, traced["bias"].outputs) == ((0,), (0,), (1,))
    plain = layers.trace(models.from_linen(nn.Dense(5)), jnp.ones((2, 4)))
    assert (plain["bias"].stack, plain["bias"].outputs) == ((), (0,))
