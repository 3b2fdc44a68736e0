"""The decoder and ViT against NumPy in float64; parameters by formula; what a config may not say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from flax import linen as nn

from jopt import models
from jopt.config import ConfigError
from jopt.models.vit import patches
from jopt.rules import named_leaves

pytestmark = pytest.mark.unoptimized

DECODER = models.Decoder(vocabulary=11, width=16, depth=2, heads=4, kv_heads=2, hidden=24)
TIED = models.Decoder(vocabulary=7, width=12, depth=1, heads=2, hidden=16, tied=True)
TOKEN = models.ViT(num_classes=3, patch=2, width=8, depth=2, heads=2, hidden=12)
MEAN = models.ViT(num_classes=3, patch=3, width=8, depth=1, heads=4, pool="mean")
NETWORKS = {"decoder": DECODER, "tied": TIED, "token": TOKEN, "mean": MEAN}


def batch(network, n=3):
    rng = np.random.default_rng(1)
    if isinstance(network, models.Decoder):
        return jnp.asarray(rng.integers(0, network.vocabulary, (n, 6)), jnp.uint8)
    return jnp.asarray(rng.normal(size=(n, 6, 12, 2)), jnp.float32)


@functools.cache
def start(name):
    """A model, and parameters none of which is 0 or 1."""
    model, x = NETWORKS[name].model(), batch(NETWORKS[name])
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x)[0], x)
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda s: jnp.asarray(0.4 * rng.normal(size=s.shape), s.dtype), shapes), x


def attention(p, x, heads, *, rotary=False):
    """One query, key and value at a time."""
    batch, time, width = x.shape
    size = width // heads

    def project(layer):
        return np.einsum("btw,whd->bthd", x, layer["kernel"]) + layer.get("bias", 0)

    q, k, v = (project(p[name]) for name in ("query", "key", "value"))
    if rotary:
        turns = np.exp(1j * np.arange(time)[:, None] * 10000.0 ** (-2 * np.arange(size // 2) / size))[:, None]
        q, k = ((a[..., : size // 2] + 1j * a[..., size // 2 :]) * turns for a in (q, k))
        q, k = (np.concatenate([a.real, a.imag], -1) for a in (q, k))
    mixed, shared = np.zeros((batch, time, heads, size)), heads // k.shape[2]
    for b, t, h in np.ndindex(batch, time, heads):
        seen = t + 1 if rotary else time
        scores = k[b, :seen, h // shared] @ q[b, t, h] / np.sqrt(size)
        weights = np.exp(scores - scores.max())
        mixed[b, t, h] = (weights / weights.sum()) @ v[b, :seen, h // shared]
    return np.einsum("bthd,hdw->btw", mixed, p["out"]["kernel"]) + p["out"].get("bias", 0)


def rms_norm(p, x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"]


def layer_norm(p, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0)


def decoder(config, p, tokens):
    x = p["embed"]["embedding"][tokens]
    for i in range(config.depth):
        x = x + attention(p[f"attention_{i}"], rms_norm(p[f"attention_norm_{i}"], x), config.heads, rotary=True)
        mlp, h = p[f"mlp_{i}"], rms_norm(p[f"mlp_norm_{i}"], x)
        x = x + dense(mlp["down"], silu(dense(mlp["gate"], h)) * dense(mlp["up"], h))
    x = rms_norm(p["norm"], x)
    return x @ p["embed"]["embedding"].T if config.tied else dense(p["head"], x)


def vit(config, p, images):
    size = config.patch
    rows, columns = images.shape[1] // size, images.shape[2] // size
    cut = [
        images[:, size * i : size * (i + 1), size * j : size * (j + 1)].reshape(len(images), -1)
        for i in range(rows)
        for j in range(columns)
    ]
    x = dense(p["embed"], np.stack(cut, 1))
    if config.pool == "token":
        x = np.concatenate([np.repeat(p["token"], len(images), 0), x], 1)
    x = x + p["positions"]
    for i in range(config.depth):
        x = x + attention(p[f"attention_{i}"], layer_norm(p[f"attention_norm_{i}"], x), config.heads)
        mlp, h = p[f"mlp_{i}"], layer_norm(p[f"mlp_norm_{i}"], x)
        x = x + dense(mlp["down"], gelu(dense(mlp["up"], h)))
    x = layer_norm(p["norm"], x)
    return dense(p["head"], x[:, 0] if config.pool == "token" else x.mean(1))


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_numpy(name):
    model, params, x = start(name)
    logits = quick.jit(lambda p, x: model.apply(p, {}, x, train=False)[0])(params, x)
    reference = decoder if name in ("decoder", "tied") else vit
    expected = reference(NETWORKS[name], jax.tree.map(np.float64, params), np.asarray(x))
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_those_of_the_formula(name):
    c, (_, params, x) = NETWORKS[name], start(name)
    w = c.width
    if isinstance(c, models.Decoder):
        kv = c.kv_heads or c.heads
        block = 2 * w * w + 2 * w * kv * (w // c.heads) + 3 * w * c.hidden + 2 * w
        expected = (1 if c.tied else 2) * c.vocabulary * w + c.depth * block + w
    else:
        hidden, token = c.hidden or 4 * w, c.pool == "token"
        positions = x.shape[1] * x.shape[2] // c.patch**2 + token
        block = 4 * (w + 1) * w + 2 * w * hidden + hidden + w + 4 * w
        embedding = (c.patch**2 * x.shape[3] + 1) * w + positions * w + token * w
        expected = embedding + c.depth * block + 2 * w + (w + 1) * c.num_classes
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_the_default_hidden_size_is_two_thirds_of_four_widths():
    params = jax.eval_shape(models.Decoder(width=96, depth=1).model().init, jax.random.key(0), batch(DECODER))[0]
    assert params["mlp_0"]["gate"]["kernel"].shape == (96, 256)


def test_logits_do_not_depend_on_later_tokens():
    model, params, x = start("decoder")
    apply = quick.jit(lambda x: model.apply(params, {}, x, train=False)[0])
    before, after = apply(x), apply(x.at[:, 3:].set((x[:, 3:] + 1) % 11))
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert (before[:, 3:] != after[:, 3:]).any(-1).all()


def test_tokens_of_any_integer_type_give_the_same_logits():
    model, params, x = start("decoder")
    apply = quick.jit(lambda x: model.apply(params, {}, x, train=False)[0])
    for dtype in (jnp.int8, jnp.uint16, jnp.int32):
        np.testing.assert_array_equal(apply(x.astype(dtype)), apply(x))


def test_patches_and_a_dense_layer_are_a_convolution():
    x, kernel = batch(TOKEN), jnp.asarray(np.random.default_rng(2).normal(size=(3, 3, 2, 5)), jnp.float32)
    conv = nn.Conv(5, (3, 3), strides=3, padding="VALID", use_bias=False)
    expected = conv.apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(patches(x, 3) @ kernel.reshape(18, 5), expected.reshape(3, 8, 5), atol=1e-5)


@pytest.mark.parametrize("name", ["decoder", "token"])
def test_dropout_takes_a_traced_rate_and_acts_in_training_alone(name):
    _, params, x = start(name)

    @functools.partial(quick.jit, static_argnums=1)
    def logits(rate, train, key):
        network = type(NETWORKS[name])(**{**vars(NETWORKS[name]), "dropout": rate})
        return network.model().apply(params, {}, x, train=train, key=key)[0]

    keys = jax.random.split(jax.random.key(0))
    evaluated, exact = logits(0.5, False, keys[0]), logits(0.0, True, keys[0])
    # Another program, so rounded in other places.
    np.testing.assert_allclose(evaluated, exact, atol=1e-5)
    first, second = (np.asarray(logits(0.5, True, key)) for key in keys)
    assert np.abs(first - second).max() > 0.01 and np.abs(first - exact).max() > 0.01


@pytest.mark.parametrize("name", ["decoder", "mean"])
def test_bfloat16_computes_in_bfloat16_and_gives_float32(name):
    model, params, x = start(name)
    low = type(NETWORKS[name])(**{**vars(NETWORKS[name]), "dtype": "bfloat16"}).model()
    run = [quick.jit(lambda p, x, m=m: m.apply(p, {}, x, train=False)[0]) for m in (low, model)]
    logits, exact = (np.asarray(apply(params, x)) for apply in run)
    assert logits.dtype == np.float32
    # 8 bits of mantissa in some 20 products, one after the other.
    assert 0 < np.abs(logits - exact).max() < 0.1 * np.abs(exact).max()


def test_decoders_start_with_logits_of_their_own_size():
    """Loss close to that of a uniform guess: no branch blows up, however deep."""
    network = models.Decoder(vocabulary=64, width=64, depth=4, heads=4, kv_heads=1)
    model, x = network.model(), jnp.asarray(np.random.default_rng(3).integers(0, 64, (4, 16)), jnp.uint8)
    params, _ = quick.jit(model.init)(jax.random.key(0), x)
    logits = quick.jit(lambda p, x: model.apply(p, {}, x, train=False)[0])(params, x)
    assert 0.5 < float(logits.std()) < 2


WRONG = [
    ("heads", models.Decoder(width=60, heads=8)),
    ("heads", models.Decoder(width=12, heads=4)),  # heads of 3 features, which no rotation turns in pairs
    ("heads", models.Decoder(heads=0)),
    ("kv_heads", models.Decoder(heads=4, kv_heads=3)),
    ("kv_heads", models.Decoder(heads=4, kv_heads=8)),
    ("kv_heads", models.Decoder(kv_heads=0)),
    ("vocabulary", models.Decoder(vocabulary=0)),
    ("width", models.Decoder(width=-4)),
    ("depth", models.Decoder(depth=0)),
    ("hidden", models.Decoder(hidden=0)),
    ("rotary_base", models.Decoder(rotary_base=1.0)),
    ("rotary_base", models.Decoder(rotary_base=float("inf"))),
    ("dropout", models.Decoder(dropout=1.0)),
    ("dropout", models.Decoder(dropout=float("nan"))),
    ("dtype", models.Decoder(dtype="float16")),
    ("tied", models.Decoder(tied="yes")),  # type: ignore
    ("heads", models.ViT(width=64, heads=5)),
    ("patch", models.ViT(patch=0)),
    ("num_classes", models.ViT(num_classes=0)),
    ("hidden", models.ViT(hidden=-1)),
    ("pool", models.ViT(pool="max")),
    ("dropout", models.ViT(dropout=-0.1)),
    ("dtype", models.ViT(dtype="int8")),
]


@pytest.mark.parametrize(("field", "network"), WRONG)
def test_a_wrong_field_is_named(field, network):
    with pytest.raises(ConfigError) as error:
        network.validate("stages[0].model")
    assert error.value.field == f"stages[0].model.{field}"
    assert error.value.value is getattr(network, field)


@pytest.mark.parametrize(
    ("name", "x"),
    [
        ("decoder", jax.ShapeDtypeStruct((2, 6), jnp.float32)),
        ("decoder", jax.ShapeDtypeStruct((2, 6, 3), jnp.uint8)),
        ("token", jax.ShapeDtypeStruct((2, 5, 6, 1), jnp.float32)),
        ("token", jax.ShapeDtypeStruct((2, 36), jnp.float32)),
    ],
)
def test_inputs_of_another_kind_are_refused(name, x):
    with pytest.raises(ValueError, match="inputs must be"):
        models.check(NETWORKS[name].model(), x)


def test_every_weight_is_known():
    """Kernels and embeddings by their axes; positions, norms and biases are none."""
    from jopt import layers

    for name in NETWORKS:
        model, params, x = start(name)
        known = layers.trace(model, x)
        shapes = {path: leaf.shape for path, leaf in named_leaves(params)}
        for path, p in known.items():
            assert p.is_weight == path.endswith(("kernel", "embedding")), path
            if p.is_weight:
                assert sorted((*p.contract, *p.outputs)) == list(range(len(shapes[path]))) and not p.stack
        heads = [p for path, p in known.items() if path.endswith("query/kernel")]
        assert {(p.contract, p.outputs) for p in heads} == {((0,), (1, 2))}
