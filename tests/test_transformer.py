"""What every method of weights, every score and every measure makes of a transformer.

Three facts are the reference. Only kernels and embeddings are changed. A scanned network is treated like the one
whose blocks are written out, copy by copy and bit by bit. And an attention's projection is treated like the dense
layer of the matrix that its kernel is.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick
import transformer
from flax import linen as nn
from transformer import TOKENS, WAYS, known, model, stacked, tree

from jopt import clip, cluster, intercept, layers, measure, models, optim, prune, quantize
from jopt.quantize import Spec, binary, ternary
from jopt.rules import named_leaves
from jopt.transform import ParamTransform

pytestmark = pytest.mark.unoptimized
KEY = jax.random.key(3)
LINEAR = ("query", "key", "value", "out", "up", "down", "head")
WEIGHTS = (*(f"{name}/kernel" for name in LINEAR), "embed/embedding")
# Each gives the transform of a network's layers.
METHODS = {
    **{
        f"prune by {score}": functools.partial(prune.one_shot, 0.5, score=score)
        for score in ("magnitude", "l2", "saliency", "snip", "movement", "random")
    },
    "channels": functools.partial(prune.one_shot, 0.5, pattern=prune.Channel("outputs")),
    "input channels": functools.partial(prune.one_shot, 0.5, pattern=prune.Channel("inputs")),
    "2 of 4 inputs": functools.partial(prune.one_shot, pattern=prune.NM(2, 4, "inputs")),
    "blocks": functools.partial(prune.one_shot, 0.5, pattern=prune.Block((2, 2))),
    "erk": functools.partial(prune.one_shot, 0.5, budget="erk"),
    "gradual": functools.partial(prune.gradual, 0.75, begin=0, end=10),
    "iterative": functools.partial(prune.iterative, 0.75, begin=0, end=10, rounds=2),
    "rigl": functools.partial(prune.rigl, 0.5, end=10),
    "set": functools.partial(prune.set_evolution, 0.5, end=10),
    "4 bits by channel": functools.partial(quantize.weights, Spec(4, axis="outputs")),
    "4 bits by tensor": functools.partial(quantize.weights, Spec(4)),
    "4 bits in groups": functools.partial(quantize.weights, Spec(4, axis="outputs", group=4)),
    "asymmetric": functools.partial(quantize.weights, Spec(4, False, axis="outputs")),
    "mse": functools.partial(quantize.weights, Spec(3, axis="outputs"), calibration="mse"),
    "percentile": functools.partial(quantize.weights, Spec(3), calibration="percentile", percentile=90.0),
    "binary": binary,
    "xnor": functools.partial(binary, scaled=True),
    "ternary": ternary,
    "ternary by channel": functools.partial(ternary, axis="outputs"),
    "shared": functools.partial(cluster.share, 4),
    "clipped": functools.partial(clip.clip, -0.25, 0.25),
}
# These draw from a stream of the parameter's path, which the two networks have different ones of.
DRAWN = ("prune by random", "rigl", "set")
QUICK = (
    "prune by saliency", "prune by movement", "channels", "2 of 4 inputs", "blocks", "erk", "rigl",
    "4 bits by channel", "4 bits in groups", "mse", "xnor", "ternary by channel", "shared", "clipped",
)  # fmt: skip


def methods(*left_out):
    """Their names; those that are not in `QUICK` among the slow tests."""
    marks = {name: () if name in QUICK else pytest.mark.slow for name in METHODS}
    return [pytest.param(name, marks=mark) for name, mark in marks.items() if name not in left_out]


@functools.cache
def seen(name: str, way: str):
    """What the model sees after one update, and the state."""
    params, grads = tree(0, way), tree(1, way)
    t: ParamTransform = METHODS[name](layers=known(way))

    @quick.jit
    def run(params, grads):
        state = t.init(params)
        if t.observe is not None:
            state = t.observe(state, params, grads)
        state = t.update(state, params, step=20 if name in ("gradual", "iterative") else 0, grads=grads, key=KEY)
        return t.apply(state, params), state

    return run(params, grads)


def changed(before, after):
    pairs = zip(named_leaves(before), jax.tree.leaves(after), strict=True)
    return {path for (path, x), y in pairs if (x != y).any()}


@pytest.mark.parametrize("way", ["plain", "scanned"])
@pytest.mark.parametrize("name", methods())
def test_only_weights_are_changed(name, way):
    params = tree(0, way)
    weights = {path for path, _ in named_leaves(params) if path.endswith(WEIGHTS)}
    assert changed(params, seen(name, way)[0]) == weights


def test_a_rematerialized_network_says_what_the_plain_one_says():
    """So every method makes the same of it: it is a function of the parameters and of what is said about them."""
    assert known("remat") == known("plain")


@pytest.mark.parametrize("name", methods(*DRAWN))
def test_copies_of_a_scanned_block_are_layers_like_any_other(name):
    assert_equal(seen(name, "scanned")[0], stacked(seen(name, "plain")[0]))


@pytest.mark.parametrize("name", [p for p in methods() if p.values[0] in DRAWN])
def test_each_copy_has_a_budget_of_its_own(name):
    masks = seen(name, "scanned")[1].masks["blocks"]
    for path, mask in named_leaves(masks):
        assert {int(copy.sum()) for copy in mask} == {mask[0].size // 2}, path


def assert_equal(a, b):
    for (path, x), y in zip(named_leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=path)


def flat(kernel, how):
    """The kernel of a projection as the matrix [inputs, outputs]."""
    return kernel.reshape(8, 8) if how == "query" else kernel.reshape(-1, 8)


@pytest.mark.parametrize("how", ["query", "out"])
@pytest.mark.parametrize("name", methods(*DRAWN))
def test_a_projection_is_the_dense_layer_of_its_matrix(name, how):
    """Alone in its network, so that budgets and groups are its own; groups run along the inputs in either shape."""
    path = f"block_0/attention/{how}/kernel"
    kernel, grads = (tree(seed)["block_0"]["attention"][how]["kernel"] for seed in (0, 1))
    own = {"layer/kernel": known("plain")[path]._replace(path="layer/kernel")}
    dense = {"layer/kernel": layers.Parameter("layer/kernel", "Dense", "kernel", (0,), (1,))}

    def run(found, w, g):
        t = METHODS[name](layers=found)
        params, grads = {"layer": {"kernel": w}}, {"layer": {"kernel": g}}
        state = t.init(params)
        state = state if t.observe is None else t.observe(state, params, grads)
        state = t.update(state, params, step=20 if name in ("gradual", "iterative") else 0, grads=grads, key=KEY)
        return t.apply(state, params)["layer"]["kernel"]

    got = quick.jit(functools.partial(run, own))(kernel, grads)
    want = quick.jit(functools.partial(run, dense))(flat(kernel, how), flat(grads, how))
    np.testing.assert_array_equal(flat(got, how), want)


@functools.cache
def statistics():
    return jax.jit(lambda p: intercept.statistics(model("plain").apply, p, {}, TOKENS))(tree())


def test_statistics_go_by_the_layers_own_axes():
    """Against NumPy in float64, from what the layers were called with."""
    _, calls = jax.jit(intercept.capture(functools.partial(model("plain").apply, train=False)))(tree(), {}, TOKENS)
    for path, own in calls.items():
        x, y = (np.asarray(v, np.float64) for v in own[0])
        features_in = (2, 4) if path.endswith("out") else x.shape[-1:]
        features_out = (2, 4) if path.rpartition("/")[2] in ("query", "key", "value") else y.shape[-1:]
        norm = np.sqrt((x.reshape(-1, *features_in) ** 2).sum(0))
        zeros = (y.reshape(-1, *features_out) <= 0).mean(0)
        np.testing.assert_allclose(statistics()[path].input_norm, norm, rtol=1e-5)  # sums of 24 float32 squares
        np.testing.assert_array_equal(statistics()[path].zero_share, zeros.astype(np.float32))


@pytest.mark.parametrize(
    ("score", "pattern"), [("wanda", prune.NM(2, 4, "inputs")), ("activation", prune.Channel("outputs"))]
)
def test_scores_by_statistics_know_heads(score, pattern):
    """Wanda and APoZ of a projection are those of the dense layer of its matrix, with its statistics flat."""
    rules = [("embed.*", None)]  # nothing runs through an interceptor there
    sparsity = None if score == "wanda" else 0.5
    t = prune.one_shot(sparsity, score=score, pattern=pattern, rules=rules, layers=known("plain"))
    masks = t.update(t.init(tree()), tree(), step=0, layers=statistics()).masks
    for how in ("query", "out"):
        path = f"block_0/attention/{how}"
        kernel, own = tree()["block_0"]["attention"][how]["kernel"], statistics()[path]
        f = prune.one_shot(sparsity, score=score, pattern=pattern)
        params = {"layer": {"kernel": flat(kernel, how)}}
        ravelled = {"layer": type(own)(own.input_norm.ravel(), own.zero_share.ravel())}
        want = f.update(f.init(params), params, step=0, layers=ravelled).masks["layer"]["kernel"]
        np.testing.assert_array_equal(flat(masks["block_0"]["attention"][how]["kernel"], how), want)


@pytest.mark.parametrize("told", [True, False])
def test_wanda_leaves_a_dead_head_first(told):
    """A head whose inputs are all zero scores zero, so that half of the weights are all of its own.

    The statistics have the axes of their layer, so they say which these are where nothing else does.
    """
    out = {"out/kernel": known("plain")["block_0/attention/out/kernel"]} if told else None
    x = jnp.ones((5, 2, 4)) * jnp.array([1.0, 0.0])[None, :, None]
    stats = {"out": type(statistics()["head"])(jnp.sqrt((x**2).sum(0)), jnp.zeros(8))}
    t = prune.one_shot(0.5, score="wanda", layers=out)
    params = {"out": {"kernel": tree()["block_0"]["attention"]["out"]["kernel"]}}
    mask = t.update(t.init(params), params, step=0, layers=stats).masks["out"]["kernel"]
    assert mask[0].all() and not mask[1].any()


def test_biases_are_corrected_by_heads():
    """The mean output before and after, computed by the layers themselves in float64."""
    params = tree()
    t = quantize.weights(Spec(2, axis="outputs"), layers=known("plain"))
    rounded = quick.jit(lambda p: t.apply(t.init(p), p))(params)
    rng = np.random.default_rng(5)
    for how, features in (("query", (8,)), ("out", (2, 4))):
        x = rng.normal(1.0, 2.0, (400, *features))
        w, q = (np.float64(p["block_0"]["attention"][how]["kernel"]) for p in (params, rounded))
        shift = np.tensordot(x, q - w, len(features)).mean(0)
        for mean in (x.mean(0), x.mean(0).ravel()):
            corrected = quantize.correct_biases(
                params, rounded, {f"block_0/attention/{how}": jnp.float32(mean)}, layers=known("plain")
            )
            bias = params["block_0"]["attention"][how]["bias"]
            got = np.float64(bias) - np.float64(corrected["block_0"]["attention"][how]["bias"])
            np.testing.assert_allclose(got, shift, atol=1e-5)  # float32 biases of about 1


def test_unknown_axes_are_an_error_that_names_the_layer():
    attention = tree()["block_0"]["attention"]
    params = {"mix": {"key": attention["key"], "out": attention["out"]}}
    cases = {
        "a scale for each output channel": quantize.weights(Spec(4, axis="outputs")),
        "Channel": prune.one_shot(0.5, pattern=prune.Channel("outputs")),
        "NM": prune.one_shot(pattern=prune.NM(2, 4, "inputs")),
        "Block": prune.one_shot(0.5, pattern=prune.Block((2, 2))),
        "adaptive clipping": None,
        "Muon": None,
    }
    for what, t in cases.items():
        message = rf"mix/key/kernel: {what}.* of layer 'mix/key'"
        with pytest.raises(layers.LayoutError, match=message):
            if t is None:
                config = optim.Config("muon") if what == "Muon" else optim.Config("sgd", adaptive_clip=0.1)
                optimizer = optim.build(config)
                optimizer.update(params, optimizer.init(params), params)
            else:
                t.init(params)
    erk = prune.one_shot(0.5, budget="erk")
    with pytest.raises(layers.LayoutError, match=r"mix/key/kernel.*'erk'"):
        erk.update(erk.init(params), params, step=0)
    with pytest.raises(layers.LayoutError, match=r"mix/out/kernel.*bias"):
        quantize.correct_biases(params, params, {"mix/out": jnp.ones(8)})


class Named(nn.Module):
    """As Flax names its parts by itself."""

    @nn.compact
    def __call__(self, x, *, train=False):
        scan = nn.scan(transformer.Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return scan()(nn.MultiHeadDotProductAttention(num_heads=2)(nn.Dense(8)(x)), None)[0]


def test_names_of_flax_say_what_a_trace_says():
    """So that methods on a tree alone, with no model at hand, treat attention and scanned blocks rightly too."""
    x = jnp.ones((1, 5, 8))
    traced = layers.trace(models.from_linen(Named()), x)
    shapes = jax.eval_shape(lambda: Named().init(KEY, x)["params"])
    assert any(path.startswith("ScanBlock_0/attention/out") for path in traced)
    for of_trace, of_name in zip(traced.values(), layers.parameters(shapes), strict=True):
        for field in ("path", "role", "contract", "outputs", "stack"):
            assert getattr(of_trace, field) == getattr(of_name, field), of_trace


def test_a_plan_says_each_role():
    rows = quantize.Weights(bits=4).plan(tree(0, "scanned"), known("scanned"))
    said = {row.path: (row.role, row.what) for row in rows}
    assert said["blocks/attention/query/bias"] == ("bias of DenseGeneral", "left as it is")
    assert said["blocks/norm_0/scale"] == ("scale of LayerNorm", "left as it is")
    assert said["blocks/attention/query/kernel"][0] == "kernel of DenseGeneral"
    assert said["blocks/attention/query/kernel"][1].endswith("16 scales of 8 values")  # 2 copies x 2 heads x 4
    assert said["embed/embedding"][0] == "embedding of Embed"
    for method, what in (
        (prune.Gradual(sparsity=0.75), "keeps 32 of 128 weights in each of 2 copies, gradual by magnitude"),
        (cluster.Share(4, keep_zero=False), "at most 4 values in each of 2 copies, trained"),
    ):
        rows = method.plan(tree(0, "scanned"), known("scanned"))
        assert next(row.what for row in rows if row.path == "blocks/up/kernel") == what


@pytest.mark.parametrize("way", [pytest.param("plain", marks=pytest.mark.slow), "scanned"])
def test_what_methods_build_holds_at_the_end(way):
    """`check` of each method: nothing to say of what the transform gave, something of what it did not."""
    params = tree(0, way)
    for method in (
        prune.OneShot(sparsity=0.5),
        prune.OneShot(pattern="channel", sparsity=0.5),
        quantize.Weights(bits=3),
        quantize.XNOR(),
        cluster.Share(4),
    ):
        t = method.build(begin=0, steps=10, layers=known(way))

        @quick.jit
        def run(params, t=t):
            state = t.update(t.init(params), params, step=0)
            return t.apply(state, params), state, params

        fine, state, dense = jax.device_get(run(params))
        assert method.check(state, fine, known(way)) == []
        weights = sum(path.endswith(WEIGHTS) for path, _ in named_leaves(params))
        problems = method.check(state, dense, known(way))
        assert len({p.partition(":")[0].partition(" of copy")[0] for p in problems}) == weights


def test_effective_flops_know_kernels_from_biases():
    """Half of a kernel's entries save half of its layer's products, written out and scanned; a bias saves none."""
    for way in WAYS:
        params = jax.tree.map(np.asarray, tree(0, "scanned" if way == "scanned" else "plain"))
        scopes = measure.flops_by_scope(lambda p, way=way: model(way).apply(p, {}, TOKENS, train=False)[0], params)
        by_layer = measure.flops_by_layer(scopes, params)
        block = "blocks" if way == "scanned" else "block_0"
        query = params[block]["attention"]["query"]
        assert measure.effective_flops(by_layer, params, known(way)) == by_layer
        query["bias"] = np.zeros_like(query["bias"])
        assert measure.effective_flops(by_layer, params, known(way)) == by_layer
        kernel = query["kernel"] = query["kernel"].copy()
        kernel.reshape(-1)[::2] = 0
        less = measure.effective_flops(by_layer, params, known(way))
        own = f"{block}/attention/query"
        assert less == {**by_layer, own: by_layer[own] // 2} and by_layer[own] > 0


def test_effective_flops_of_layers_that_cannot_be_seen_are_left_out():
    from flax import nnx

    net = models.from_nnx(lambda rngs: nnx.Linear(4, 3, rngs=rngs))
    params, _ = net.init(KEY, jnp.ones((1, 4)))
    params = {"layer": jax.device_get(params)}
    by_layer = measure.flops_by_layer(
        measure.flops_by_scope(lambda x: net.apply(params["layer"], {}, x, train=False)[0], jnp.ones((1, 4))),
        params,
    )
    assert by_layer == {"layer": 0, "": 24} and measure.effective_flops(by_layer, params) is None
    outcome = measure.StageOutcome("dense", params, flops=by_layer)
    (row,) = measure.stage_rows([outcome])
    assert row["flops"] == 24 and row["effective_flops"] is None


def test_distinct_values_are_those_of_weights():
    params = {"query": {"bias": np.arange(8.0).reshape(2, 4), "kernel": np.ones((8, 2, 4))}}
    assert measure.total_storage(measure.storage(params)).distinct_values == 1


@pytest.mark.parametrize("way", ["plain", "scanned"])
def test_muon_is_optax_muon_given_the_same_axes(way):
    """`optax.contrib.muon` takes the axes of each kernel by hand; Adam moves what has none."""
    params = tree(0, way)
    named = known(way)

    def numbers(path, leaf):
        p = named["/".join(k.key for k in path)]
        return optax.contrib.MuonDimensionNumbers(p.inputs, p.outputs) if p.role == "kernel" else None

    axes = jax.tree_util.tree_map_with_path(numbers, params)
    config = optim.Config("muon", learning_rate=0.1)
    c = optim.config.complete(config)
    ours = optim.build(config, layers=named)
    theirs = optax.contrib.muon(
        0.1,
        beta=c.momentum,
        eps=c.eps,
        adam_b1=c.b1,
        adam_b2=c.b2,
        adam_eps_root=0.0,
        muon_weight_dimension_numbers=axes,
    )
    p, q, s, t = params, params, ours.init(params), theirs.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for step in range(2):
            u, s = quick.jit(ours.update)(tree(10 + step, way), s, p)
            v, t = quick.jit(theirs.update)(tree(10 + step, way), t, q)
            p, q = optax.apply_updates(p, u), optax.apply_updates(q, v)
    for (path, a), b in zip(named_leaves(p), jax.tree.leaves(q), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5, err_msg=path)  # float32 products in another order


@pytest.mark.parametrize("way", ["plain", "scanned"])
def test_adaptive_clipping_goes_by_output_units(way):
    """Against the paper's equation 3 in float64, unit by unit."""
    params, grads = tree(0, way), tree(1, way)
    optimizer = optim.build(optim.Config("sgd", learning_rate=1.0, adaptive_clip=0.3), layers=known(way))
    updates, _ = quick.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p))(grads, params)
    query = ("blocks" if way == "scanned" else "block_0", "attention", "query", "kernel")
    g, w, u = (np.float64(functools.reduce(lambda t, k: t[k], query, tree_)) for tree_ in (grads, params, updates))
    for unit in np.ndindex(*((2, 2, 4) if way == "scanned" else (2, 4))):
        at = (unit[0], slice(None), *unit[1:]) if way == "scanned" else (slice(None), *unit)
        scale = min(1.0, 0.3 * np.linalg.norm(w[at]) / np.linalg.norm(g[at]))
        np.testing.assert_allclose(u[at], -scale * g[at], rtol=1e-5)


def test_the_network_itself_is_the_same_in_every_way():
    """So that the comparisons above compare treatments, not networks."""
    logits = [
        quick.jit(lambda p, way=way: model(way).apply(p, {}, TOKENS, train=False)[0])(tree(0, way)) for way in WAYS
    ]
    for other in logits[1:]:
        np.testing.assert_allclose(other, logits[0], rtol=1e-4, atol=1e-4)
    assert transformer.DEPTH == 2
