"""Networks that start from arrays in PyTorch's layout compute what PyTorch's layers compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_layers as torch
from flax import linen as nn
from flax import nnx

from jopt import layers, models, start
from jopt.start.flattened import flattened_inputs
from jopt.start.layouts import from_torch
from jopt.train.plan import shapes
from jopt.train.state import merge

pytestmark = pytest.mark.unoptimized


def arrays(seed=0, **sizes):
    """Random arrays in PyTorch's shapes; `a__b` names `a.b`."""
    rng = np.random.default_rng(seed)
    return {k.replace("__", "."): rng.normal(size=n).astype(np.float32) for k, n in sizes.items()}


def load(module, x, source, rules=(), **fields):
    """The network's output for `x`, and the start."""
    model = module if isinstance(module, models.Model) else models.from_linen(module)
    traced = layers.trace(model, x)
    config = start.Pretrained("object", rules, **fields)
    params, state = shapes(model, jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
    begins = start.load(config, model, traced, (params, state), x, source=source)
    return model.apply(merge(params, begins.params), merge(state, begins.model_state), x, train=False)[0], begins


class Convolutions(nn.Module):
    """Convolution, batch norm, depthwise and transposed convolution, a flattened map and a square layer."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 2), padding="VALID")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Conv(8, (2, 2), feature_group_count=4, padding="VALID")(x)
        x = nn.ConvTranspose(3, (3, 2), strides=(2, 2), padding="VALID")(x)
        x = nn.relu(x.reshape(x.shape[0], -1))
        x = nn.Dense(5)(x)
        return nn.Dense(5)(x)


CONVOLUTIONS = arrays(
    conv__weight=(4, 2, 3, 2),
    conv__bias=4,
    bn__weight=4,
    bn__bias=4,
    bn__running_mean=4,
    bn__running_var=4,
    depthwise__weight=(8, 1, 2, 2),
    depthwise__bias=8,
    up__weight=(8, 3, 3, 2),
    up__bias=3,
    fc1__weight=(5, 3 * 7 * 6),
    fc1__bias=5,
    fc2__weight=(5, 5),
    fc2__bias=5,
)
CONVOLUTIONS["bn.running_var"] = np.abs(CONVOLUTIONS["bn.running_var"]) + 0.5
CONVOLUTIONS["bn.num_batches_tracked"] = np.int64(7)
RULES = (
    (r"conv\.(.*)", r"Conv_0.\1"),
    # Names of modules: what follows stays.
    ("bn", "BatchNorm_0"),
    ("depthwise", "Conv_1"),
    (r"up\.(.*)", r"ConvTranspose_0.\1"),
    (r"fc1\.(.*)", r"Dense_0.\1"),
    # The network's own name of the array is no reason not to transpose it: the kernel is square.
    (r"fc2\.weight", r"Dense_1/kernel"),
    (r"fc2\.bias", r"Dense_1/bias"),
)


def test_convolutions_and_a_flattened_map():
    x = np.random.default_rng(1).normal(size=(2, 6, 5, 2)).astype(np.float32)
    s = CONVOLUTIONS
    y = torch.conv2d(x.transpose(0, 3, 1, 2), s["conv.weight"], s["conv.bias"])
    y = torch.batch_norm(y, *(s[f"bn.{n}"] for n in ("weight", "bias", "running_mean", "running_var")))
    y = torch.conv2d(np.maximum(y, 0), s["depthwise.weight"], s["depthwise.bias"], groups=4)
    y = torch.conv_transpose2d(y, s["up.weight"], s["up.bias"], 2)
    y = torch.linear(np.maximum(y.reshape(2, -1), 0), s["fc1.weight"], s["fc1.bias"])
    expected = torch.linear(y, s["fc2.weight"], s["fc2.bias"])
    out, begins = load(Convolutions(), x, s, RULES)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
    by_path = {row.path: row for row in begins.rows}
    assert begins.layout == "torch" and begins.unused == ["bn.num_batches_tracked"]
    assert by_path["batch_stats/BatchNorm_0/var"].source == "bn.running_var"
    assert all(row.status == "copied" for row in begins.rows)


def test_modules_of_nnx_have_the_names_of_pytorch():
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(2, 3, (1, 2), padding="VALID", rngs=rngs)
            self.bn = nnx.BatchNorm(3, rngs=rngs)
            self.fc = nnx.Linear(3 * 2 * 2, 4, rngs=rngs)

        def __call__(self, x):
            x = self.bn(self.conv(x))
            return self.fc(x.reshape(x.shape[0], -1))

    x = np.random.default_rng(1).normal(size=(2, 2, 3, 2)).astype(np.float32)
    sizes = dict.fromkeys(("bn__weight", "bn__bias", "bn__running_mean", "bn__running_var"), 3)
    s = arrays(conv__weight=(3, 2, 1, 2), conv__bias=3, fc__weight=(4, 12), fc__bias=4, **sizes)
    s["bn.running_var"] = np.abs(s["bn.running_var"])
    y = torch.conv2d(x.transpose(0, 3, 1, 2), s["conv.weight"], s["conv.bias"])
    y = torch.batch_norm(y, *(s[f"bn.{n}"] for n in ("weight", "bias", "running_mean", "running_var")))
    out, _ = load(models.from_nnx(lambda rngs: Network(rngs)), x, s)
    np.testing.assert_allclose(
        out, torch.linear(y.reshape(2, -1), s["fc.weight"], s["fc.bias"]), rtol=1e-4, atol=1e-4
    )


class Attention(nn.Module):
    """Token embeddings, layer norm, attention of two heads, a head."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Embed(7, 6)(x.astype(jnp.int32))
        x = nn.LayerNorm(epsilon=1e-5)(x)
        return nn.Dense(6)(nn.MultiHeadDotProductAttention(num_heads=2)(x))


def test_embedding_norm_and_fused_attention():
    s = arrays(
        emb__weight=(7, 6),
        norm__weight=6,
        norm__bias=6,
        attn__in_proj_weight=(18, 6),
        attn__in_proj_bias=18,
        attn__out_proj__weight=(6, 6),
        attn__out_proj__bias=6,
        head__weight=(6, 6),
        head__bias=6,
    )
    tokens = np.float32([[1, 2, 3, 6], [0, 5, 5, 1]])
    y = torch.layer_norm(s["emb.weight"][tokens.astype(int)], s["norm.weight"], s["norm.bias"], 1e-5)
    expected = torch.linear(torch.attention(y, 2, s, "attn"), s["head.weight"], s["head.bias"])
    block = "MultiHeadDotProductAttention_0"
    rules = (
        (r"emb\.(.*)", r"Embed_0.\1"),
        (r"norm\.(.*)", r"LayerNorm_0.\1"),
        start.Rule(r"attn\.in_proj_(.*)", tuple(rf"{block}.{n}.\1" for n in ("query", "key", "value"))),
        (r"attn\.out_proj\.(.*)", rf"{block}.out.\1"),
        (r"head\.(.*)", r"Dense_0.\1"),
    )
    out, begins = load(Attention(), tokens, s, rules)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    assert any("part 2 of 3" in row.reason for row in begins.rows)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_recurrent(cell):
    gates = {"lstm": 4, "gru": 3}[cell]
    s = arrays(
        r__weight_ih_l0=(gates * 4, 3),
        r__weight_hh_l0=(gates * 4, 4),
        r__bias_ih_l0=gates * 4,
        r__bias_hh_l0=gates * 4,
        fc__weight=(2, 4),
        fc__bias=2,
    )
    x = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    expected = torch.linear(getattr(torch, cell)(x, s, "r", 4), s["fc.weight"], s["fc.bias"])
    module = models.build(models.ModelConfig(cell, features=(4,), num_classes=2))
    out, _ = load(module, x, s, ((r"r\.(.*)", r"Recurrent_0.\1"), (r"fc\.(.*)", r"Dense_0.\1")))
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


class Dense(nn.Module):
    """One square layer."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(x)


SQUARE = np.arange(9, dtype=np.float32).reshape(3, 3)
X = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("names", "fields", "transposed"),
    [
        (("Dense_0.weight", "Dense_0.bias"), {}, True),
        (("Dense_0/kernel", "Dense_0/bias"), {}, False),
        (("params/Dense_0/kernel", "params/Dense_0/bias"), {}, False),
        (("Dense_0/kernel", "Dense_0/bias"), {"layout": "torch"}, True),
        (("a", "b"), {"rules": (("a", "Dense_0/kernel"), ("b", "Dense_0/bias")), "layout": "torch"}, True),
        (("a", "b"), {"rules": (("a", "Dense_0/kernel"), ("b", "Dense_0/bias")), "layout": "flax"}, False),
        # A rule with a layout of its own comes before that of the source.
        (("w.weight", "Dense_0.bias"), {"rules": (start.Rule(r"w\..*", "Dense_0/kernel", layout="flax"),)}, False),
        # PyTorch's array in a source of Flax's, whose name says so.
        (
            ("w", "Dense_0/bias"),
            {"rules": (start.Rule("w", "Dense_0.weight", layout="torch"),), "layout": "flax"},
            True,
        ),
        # Transposed by the rule and by the layout: as it was.
        (("w.weight", "Dense_0.bias"), {"rules": (start.Rule(r"w\..*", "Dense_0.weight", (1, 0)),)}, False),
    ],
)
def test_a_square_kernel_lies_as_the_layout_says(names, fields, transposed):
    _, begins = load(Dense(), X, dict(zip(names, (SQUARE, np.zeros(3, np.float32)), strict=True)), **fields)
    np.testing.assert_array_equal(begins.params["Dense_0/kernel"], SQUARE.T if transposed else SQUARE)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_other_floats_are_cast_once(dtype):
    source = {"Dense_0.weight": (SQUARE / 7).astype(dtype), "Dense_0.bias": np.zeros(3, dtype)}
    _, begins = load(Dense(), X, source)
    kernel = begins.params["Dense_0/kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, source["Dense_0.weight"].T.astype(np.float32))
    assert str(np.dtype(dtype)) in begins.rows[1].reason


def test_what_may_be_missing_or_unused_is_named():
    source = {"Dense_0.weight": SQUARE, "head.weight": SQUARE}
    fields = {"allow_missing": (".*/bias",), "allow_unused": ("head",)}
    model = models.from_linen(Dense())
    config = start.Pretrained("object", **fields)
    begins = start.load(
        config,
        model,
        layers.trace(model, X),
        shapes(model, jax.ShapeDtypeStruct(X.shape[1:], X.dtype)),
        X,
        source=source,
    )
    assert set(begins.params) == {"Dense_0/kernel"} and begins.unused == ["head.weight"]
    assert [row.status for row in begins.rows] == ["fresh", "copied"]


def test_only_maps_are_flattened_channels_first():
    class Tokens(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.Dense(4)(x)
            return nn.Dense(2)(x.reshape(x.shape[0], -1))

    model = models.from_linen(Tokens())
    sizes = flattened_inputs(
        model, np.zeros((2, 3, 5), np.float32), *shapes(model, jax.ShapeDtypeStruct((3, 5), np.float32))
    )
    assert sizes == {"Dense_1/kernel": (3, 4)}
    traced = layers.trace(model, np.zeros((1, 3, 5), np.float32))["Dense_1/kernel"]
    weight = np.arange(24.0).reshape(2, 12)
    conversion = from_torch(traced, (12, 2), (2, 12), flattened=(3, 4))
    np.testing.assert_array_equal(conversion.apply(weight), weight.T)
    # After a convolution over one axis nothing says whether channels came first.
    assert isinstance(from_torch(traced, (12, 2), (2, 12), flattened=(3, 4), ordered=False), str)
