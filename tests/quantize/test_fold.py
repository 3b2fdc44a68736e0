"""Batch-norm folding: hand-worked arrays, the same function in evaluation mode, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import coupling
from jopt.coupling import CouplingError
from jopt.models import MLP, ResNet, from_linen
from jopt.prune import shrink, shrink_all
from jopt.quantize import fold, fold_batch_norm

pytestmark = pytest.mark.unoptimized


def vector(*values):
    return jnp.array(values, jnp.float32)


def test_fold_batch_norm_by_hand():
    kernel = jnp.array([[[[1.0, -2.0], [0.0, 4.0]]]])  # 1 x 1, two channels in, two out
    args = {"scale": vector(3, 0.5), "offset": vector(1, 0), "mean": vector(2, -1), "var": vector(0.75, 3.75)}
    # Factors 3 / sqrt(0.75 + 0.25) = 3 and 0.5 / sqrt(3.75 + 0.25) = 0.25.
    new, bias = fold_batch_norm(kernel, vector(5, 7), **args, eps=0.25)
    assert new.tolist() == [[[[3, -0.5], [0, 1]]]]
    assert bias.tolist() == [(5 - 2) * 3 + 1, (7 + 1) * 0.25]
    assert fold_batch_norm(kernel, None, **args, eps=0.25)[1].tolist() == [-2 * 3 + 1, 0.25]
    new, bias = fold_batch_norm(kernel, None, None, None, args["mean"], args["var"], eps=0.25)
    assert new.tolist() == [[[[1, -1], [0, 2]]]] and bias.tolist() == [-2, 0.5]


def test_fold_batch_norm_is_the_float64_formula_and_keeps_zeros_and_dtype():
    rng = np.random.default_rng(0)
    kernel, bias, scale, offset, mean = (rng.normal(size=s) for s in ((3, 3, 2, 5), 5, 5, 5, 5))
    var = rng.exponential(size=5)
    kernel[rng.random(kernel.shape) < 0.5] = 0
    factor = scale / np.sqrt(var + 1e-5)
    arrays = [jnp.array(a, jnp.float32) for a in (kernel, bias, scale, offset, mean, var)]
    for run in (fold_batch_norm, jax.jit(fold_batch_norm)):
        new, b = run(*arrays)
        np.testing.assert_allclose(new, kernel * factor, rtol=1e-5)
        np.testing.assert_allclose(b, (bias - mean) * factor + offset, rtol=1e-4, atol=1e-6)
        assert ((np.asarray(new) == 0) == (kernel == 0)).all()
    half, b = fold_batch_norm(arrays[0].astype(jnp.bfloat16), *arrays[1:])
    assert half.dtype == b.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["bias", "scale", "offset", "mean", "var"])
def test_a_vector_of_another_length_is_refused(name):
    vectors = dict.fromkeys(("bias", "scale", "offset", "mean", "var"), jnp.ones(3))
    with pytest.raises(ValueError, match=rf"{name}.*\(3,\).*\(1,\)"):
        fold_batch_norm(jnp.ones((2, 3)), **{**vectors, name: jnp.ones(1)})


def start(model, shape, seed=0):
    rng = np.random.default_rng(seed)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape))))

    def leaf(path, a):
        value = rng.normal(size=a.shape) / np.sqrt(max(1, np.prod(a.shape[:-1])))
        return jnp.array(np.exp(value) if "var" in str(path[-1]) else value, a.dtype)

    out = dict(jax.tree_util.tree_map_with_path(leaf, variables))
    return out.pop("params"), out


@pytest.mark.parametrize(("size", "blocks"), [(8, (1, 1)), (64, (1,))])
def test_a_folded_resnet_is_the_same_function_in_evaluation(size, blocks):
    model = ResNet(4, blocks, 3)
    params, state = start(model, (size, size, 2))
    folded, new, left = fold(model, params, state)
    assert folded == ResNet(4, blocks, 3, folded=True) and left == {}
    x = jnp.array(np.random.default_rng(1).normal(size=(3, size, size, 2)), jnp.float32)
    theirs, _ = jax.jit(lambda p, s: from_linen(model).apply(p, s, x, train=False))(params, state)
    ours, _ = jax.jit(lambda p: from_linen(folded).apply(p, {}, x, train=False))(new)
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5 * float(jnp.abs(theirs).max()))
    # It has the parameters that the folded module asks for: a scale and an offset became a bias.
    wanted = jax.eval_shape(lambda: folded.init(jax.random.key(0), x))["params"]
    assert jax.tree.structure(wanted) == jax.tree.structure(new)
    assert jax.tree.map(lambda a: a.shape, wanted) == jax.tree.map(jnp.shape, new)

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    assert count(params) - count(new) == count(state) // 2


def test_folding_works_under_jit_on_params():
    model = ResNet(2, (1,), 3)
    params, state = start(model, (8, 8, 1))
    eager, jitted = fold(model, params, state)[1], jax.jit(lambda p, s: fold(model, p, s)[1])(params, state)
    assert jax.tree.structure(eager) == jax.tree.structure(jitted)
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_resnet18_loses_a_parameter_a_channel():
    variables = jax.eval_shape(lambda: ResNet().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    new = jax.eval_shape(lambda p, s: fold(ResNet(), p, s)[1], params, state)
    assert sum(leaf.size for leaf in jax.tree.leaves(new)) == 11_173_962 - 4_800


def test_models_without_batch_norm_come_back_as_they_are():
    params = {"anything": vector(1)}
    for model in (MLP(()), object(), ResNet(folded=True)):
        assert fold(model, params, {}) == (model, params, {})


def test_a_model_that_does_not_say_what_its_state_is_is_refused():
    with pytest.raises(CouplingError, match=r"object.*coupling\("):
        fold(object(), {}, {"batch_stats": {"mean": vector(0)}})
    model = ResNet(2, (1,), 3)
    params, state = start(model, (8, 8, 1))
    with pytest.raises(CouplingError, match=r"'BatchNorm_0'.*'Conv_0/kernel'.* no 'batch_stats/"):
        fold(model, params, {})
    del params["Conv_0"]
    with pytest.raises(CouplingError, match=" no 'Conv_0/kernel'"):
        fold(model, params, state)


def test_folding_and_shrinking_commute():
    model = ResNet(4, (1,), 3)
    params, state = start(model, (8, 8, 1))
    mask = jnp.ones((3, 3, 4, 4), bool).at[..., 1].set(False)
    masks = {"Block_0": {"Conv_0": {"kernel": mask}}}
    offset = params["Block_0"]["BatchNorm_0"]
    offset["bias"], offset["scale"] = offset["bias"].at[1].set(-1), offset["scale"].at[1].set(0)
    small = shrink_all(model, params, masks, model_state=state)
    one, first, _ = fold(small.model, small.params, small.model_state)
    folded, new, _ = fold(model, params, state)
    other, second = shrink(folded, new, masks)
    assert one == other and one.inner == (3,)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), first, second))


def test_every_norm_of_every_model_is_declared():
    """The statistics that a coupling names are all that the model has."""
    model = ResNet(2, (1, 1), 3)
    _, state = start(model, (8, 8, 1))
    named = [(layer.norm.mean, layer.norm.var) for layer in coupling.layers(model.coupling()) if layer.norm]
    have = {
        jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in jax.tree_util.tree_leaves_with_path(state)
    }
    assert {path for pair in named for path in pair} == have
