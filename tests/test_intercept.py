"""What layers compute, seen and changed from outside, against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from quick import jit, start

from jopt import intercept
from jopt.models import Model, from_linen
from jopt.models.cnn import ConvNet, ResNet
from jopt.models.mlp import MLP, TiedMLP
from jopt.models.rnn import RNN

pytestmark = pytest.mark.unoptimized

KEY = jax.random.key(0)
IMAGES = jax.random.normal(jax.random.key(1), (6, 8, 8, 1))


SMALL = {
    "mlp": MLP((7, 5)),
    "cnn": ConvNet((3, 4), (6,)),
    "resnet": ResNet(2, (1, 1)),
    "gru": RNN("gru", (5, 4)),
    "tied_mlp": TiedMLP(5, 3),
}


@functools.cache
def made(name):
    model = from_linen(SMALL[name])
    return model, *start(model, IMAGES)


def kernels(params):
    """The paths of the modules that own a kernel, from the parameters."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return {path.rpartition("/")[0] for path in paths if path.split("/")[-1] == "kernel"}


@pytest.mark.parametrize("name", SMALL)
def test_every_module_that_owns_a_kernel_is_a_layer(name):
    model, params, state = made(name)
    seen = intercept.names(model.apply, params, state, IMAGES, train=False)
    assert set(seen) == kernels(params)


def test_layers_come_in_call_order_with_their_shapes():
    model, params, state = made("cnn")
    seen = intercept.names(model.apply, params, state, IMAGES, train=False)
    shapes = {path: [(c.input.shape, c.output.shape) for c in calls] for path, calls in seen.items()}
    assert list(seen) == ["Conv_0", "Conv_1", "Dense_0", "Dense_1"]
    assert shapes == {
        "Conv_0": [((6, 8, 8, 1), (6, 8, 8, 3))],
        "Conv_1": [((6, 4, 4, 3), (6, 4, 4, 4))],
        "Dense_0": [((6, 16), (6, 6))],
        "Dense_1": [((6, 6), (6, 10))],
    }
    blocks = intercept.names(made("resnet")[0].apply, *made("resnet")[1:], IMAGES, train=False)
    assert list(blocks)[:3] == ["Conv_0", "Block_0/Conv_0", "Block_0/Conv_1"] and "Block_1/shortcut" in blocks


def test_names_takes_shapes_and_computes_nothing():
    model, *_ = made("mlp")
    shapes = jax.eval_shape(model.init, KEY, IMAGES)
    x = jax.ShapeDtypeStruct((3, 8, 8, 1), jnp.float32)
    seen = intercept.names(model.apply, *shapes, x, train=False)
    assert isinstance(seen["Dense_0"][0].input, jax.ShapeDtypeStruct) and seen["Dense_0"][0].input.shape == (
        3,
        64,
    )


def test_captured_calls_are_what_numpy_computes():
    model, params, state = made("mlp")
    logits, calls = intercept.capture(functools.partial(model.apply, train=False))(params, state, IMAGES)
    x = np.asarray(IMAGES, np.float64).reshape(6, -1)
    for path in ("Dense_0", "Dense_1", "Dense_2"):
        (call,) = calls[path]
        np.testing.assert_allclose(call.input, x, rtol=1e-5, atol=1e-6)
        y = x @ np.asarray(params[path]["kernel"], np.float64) + np.asarray(params[path]["bias"], np.float64)
        np.testing.assert_allclose(call.output, y, rtol=1e-5, atol=1e-5)
        x = np.maximum(y, 0)
    np.testing.assert_array_equal(logits[0], calls["Dense_2"][0].output)


@pytest.mark.optimized
@pytest.mark.parametrize("name", ["cnn", "gru", "tied_mlp"])
def test_capture_changes_nothing_eager_or_jitted(name):
    model, params, state = made(name)
    plain = functools.partial(model.apply, train=False)
    seen = intercept.capture(plain)
    np.testing.assert_array_equal(seen(params, state, IMAGES)[0][0], plain(params, state, IMAGES)[0])
    (logits, _), calls = jax.jit(seen)(params, state, IMAGES)
    np.testing.assert_array_equal(logits, jax.jit(plain)(params, state, IMAGES)[0])
    last = calls["Dense_1" if name != "gru" else "Dense_0"][-1]
    np.testing.assert_array_equal(last.output, logits)


def test_a_shared_layer_has_a_call_for_each_use():
    model, params, state = made("tied_mlp")
    _, calls = intercept.capture(functools.partial(model.apply, train=False))(params, state, IMAGES)
    assert [len(calls[path]) for path in ("Dense_0", "shared", "Dense_1")] == [1, 2, 1]
    first, second = calls["shared"]
    np.testing.assert_array_equal(second.input, jax.nn.relu(first.output))


def test_replaced_inputs_reach_the_layers_in_order():
    model, params, state = made("mlp")
    seen = []

    def change(path, x):
        seen.append((path, x.shape))
        return 2 * x if path == "Dense_1" else x

    logits, _ = intercept.replace_inputs(model.apply, change)(params, state, IMAGES, train=False)
    doubled = {**params, "Dense_1": {**params["Dense_1"], "kernel": 2 * params["Dense_1"]["kernel"]}}
    np.testing.assert_allclose(logits, model.apply(doubled, state, IMAGES, train=False)[0], rtol=1e-5, atol=1e-5)
    assert seen == [("Dense_0", (6, 64)), ("Dense_1", (6, 7)), ("Dense_2", (6, 5))]


def test_capture_outside_a_replacement_sees_the_inputs_before_it_and_inside_after_it():
    apply = nn.Dense(2).apply
    variables = nn.Dense(2).init(KEY, jnp.ones((1, 3)))
    x = jnp.ones((1, 3))
    double = lambda path, x: 2 * x  # noqa: E731
    _, outside = intercept.capture(intercept.replace_inputs(apply, double))(variables, x)
    (_, inside) = intercept.replace_inputs(intercept.capture(apply), double)(variables, x)
    assert outside[""][0].input[0, 0] == 1 and inside[""][0].input[0, 0] == 2


def test_gradients_and_vmap_pass_through_a_replacement():
    model, params, state = made("mlp")
    halved = intercept.replace_inputs(model.apply, lambda path, x: x / 2)

    def total(params, x):
        return halved(params, state, x, train=True)[0].sum()

    grads = jax.jit(jax.grad(total))(params, IMAGES)
    np.testing.assert_array_equal(grads["Dense_2"]["bias"], np.full(10, 6.0))
    many = jnp.stack([IMAGES, 3 * IMAGES])
    loop = [total(params, x) for x in many]
    np.testing.assert_allclose(jax.vmap(total, (None, 0))(params, many), loop, rtol=1e-5)


def test_a_layer_called_by_keyword_is_seen():
    variables = nn.Dense(2).init(KEY, jnp.ones((1, 3)))
    by_name = lambda v, x: nn.Dense(2).apply(v, inputs=x)  # noqa: E731
    _, calls = intercept.capture(by_name)(variables, np.ones((1, 3), np.float32))
    assert calls[""][0].input.shape == (1, 3)
    zero = intercept.replace_inputs(by_name, lambda path, x: 0 * x)(variables, jnp.ones((1, 3)))
    np.testing.assert_array_equal(zero, np.zeros((1, 2)))


def numpy_statistics(calls, outputs, tolerance=0.0):
    x = np.concatenate([np.asarray(c.input, np.float64).reshape(-1, c.input.shape[-1]) for c in calls])
    y = np.concatenate([np.asarray(y, np.float64).reshape(-1, y.shape[-1]) for y in outputs])
    return np.sqrt((x**2).sum(0)), (np.abs(np.maximum(y, 0)) <= tolerance).mean(0)


@pytest.mark.parametrize("name", ["mlp", "cnn", "tied_mlp", "gru"])
def test_statistics_are_numpys_over_examples_positions_and_calls(name):
    model, params, state = made(name)
    capture = intercept.capture(functools.partial(model.apply, train=False))
    # In one program, so that no output is rounded to another side of zero.
    run = jit(lambda *args: (capture(*args)[1], intercept.statistics(model.apply, *args)))
    calls, stats = run(params, state, IMAGES)
    assert list(stats) == list(calls)
    for path, layer_calls in calls.items():
        norm, share = numpy_statistics(layer_calls, [c.output for c in layer_calls])
        np.testing.assert_allclose(stats[path].input_norm, norm, rtol=1e-5)
        np.testing.assert_array_equal(stats[path].zero_share, share.astype(np.float32))
        assert stats[path].input_norm.dtype == stats[path].zero_share.dtype == jnp.float32


def test_features_of_several_axes_are_in_the_order_of_the_kernel():
    """Whatever the order in which a layer names the axes that it sums over: its kernel is [4, 4, 3]."""
    module = nn.DenseGeneral(3, axis=(-1, -2))
    x = jnp.arange(32.0).reshape(2, 4, 4)
    params = module.init(jax.random.key(0), x)["params"]
    seen = intercept.statistics(lambda p, s, x, train: module.apply({"params": p}, x), params, {}, x)[""]
    slopes = jax.jacrev(lambda w: module.apply({"params": {**params, "kernel": w}}, x))(params["kernel"])
    # Of output 0: the derivative with respect to a kernel entry is the input that it is multiplied with.
    np.testing.assert_allclose(seen.input_norm, np.linalg.norm(slopes[:, 0, :, :, 0], axis=0), rtol=1e-6)


def test_a_hand_worked_case():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.Conv(2, (1, 1), use_bias=False)(x)

    model = from_linen(Net())
    params = {"Conv_0": {"kernel": jnp.array([[[[1.0, -1.0]]]])}}
    x = jnp.array([[3.0, 0.0], [-4.0, 0.5]]).reshape(1, 2, 2, 1)
    stats = intercept.statistics(model.apply, params, {}, x)["Conv_0"]
    assert stats.input_norm.tolist() == [np.float32(np.sqrt(25.25))]
    assert stats.zero_share.tolist() == [0.5, 0.75]  # of 3, 0, -4, .5 and of -3, 0, 4, -.5 behind a ReLU
    loose = intercept.statistics(model.apply, params, {}, x, tolerance=0.5)["Conv_0"]
    assert loose.zero_share.tolist() == [0.75, 0.75]
    raw = intercept.statistics(model.apply, params, {}, x, activation=lambda y: y)["Conv_0"]
    assert raw.zero_share.tolist() == [0.25, 0.25]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_batch_normalization_that_takes_the_output_is_looked_behind(dtype):
    dtype = jnp.dtype(dtype)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            norm = functools.partial(nn.BatchNorm, not train, momentum=0.9, dtype=jnp.float32)
            y = nn.Dense(4, dtype=dtype, name="normed")(x)
            x = nn.relu(norm()(y.astype(jnp.float32))).astype(dtype)
            y = nn.Dense(3, dtype=dtype, name="bare")(x)
            return norm()(nn.relu(y).astype(jnp.float32))

    model = from_linen(Net())
    x = jax.random.normal(KEY, (32, 5), dtype)
    params, state = model.init(KEY, x)
    state["batch_stats"]["BatchNorm_0"]["mean"] = jnp.array([-100.0, 100.0, 0.0, 0.0])
    state["batch_stats"]["BatchNorm_1"]["mean"] = jnp.full(3, 100.0)
    stats = intercept.statistics(model.apply, params, state, x)
    assert stats["normed"].zero_share[:2].tolist() == [0.0, 1.0]
    _, calls = intercept.capture(functools.partial(model.apply, train=False))(params, state, x)
    outputs = np.asarray(calls["bare"][0].output, np.float32)
    np.testing.assert_array_equal(stats["bare"].zero_share, (outputs <= 0).mean(0, dtype=np.float32))


def test_statistics_of_a_residual_network_use_its_normalizations():
    model, params, state = made("resnet")
    moved = jax.tree_util.tree_map_with_path(
        lambda path, v: v - 1e3 if path[-2].key == "shortcut_norm" and path[-1].key == "mean" else v, state
    )
    stats = jit(functools.partial(intercept.statistics, model.apply))(params, moved, IMAGES)
    assert stats["Block_1/shortcut"].zero_share.max() == 0  # behind a normalization of mean -1000 all are positive
    assert stats["Block_1/shortcut"].input_norm.shape == (2,) and stats["Block_1/shortcut"].zero_share.shape == (4,)


def test_statistics_jit_to_the_same_and_trace_the_tolerance():
    model, params, state = made("cnn")
    traces = []

    @jax.jit
    def run(params, state, x, tolerance):
        traces.append(1)
        return intercept.statistics(model.apply, params, state, x, tolerance=tolerance)

    eager = intercept.statistics(model.apply, params, state, IMAGES, tolerance=0.1)
    for path, statistics in run(params, state, IMAGES, 0.1).items():
        np.testing.assert_allclose(statistics.input_norm, eager[path].input_norm, rtol=1e-6)
        np.testing.assert_array_equal(statistics.zero_share, eager[path].zero_share)
    run(params, state, IMAGES, 0.2)
    assert len(traces) == 1


def test_the_share_of_a_dead_neuron_is_exactly_one_for_every_number_of_examples():
    variables = {"params": {"kernel": jnp.zeros((3, 2)), "bias": jnp.array([-1.0, 1.0])}}
    apply = lambda params, state, x, train: nn.Dense(2).apply(params, x)  # noqa: E731
    run = jax.jit(lambda x: intercept.statistics(apply, variables, {}, x)[""].zero_share)
    for rows in (3, 41, 49, 55):
        assert run(jnp.ones((rows, 3))).tolist() == [1.0, 0.0]


def test_models_without_modules_are_refused():
    plain = Model(lambda key, x: ({"w": x[0]}, {}), lambda params, state, x, *, train, key=None: (x, state))
    for run in (
        lambda: intercept.names(plain.apply, {}, {}, jnp.ones((2, 4)), train=False),
        lambda: intercept.replace_inputs(lambda x: x, lambda path, x: x)(jnp.ones(3)),
        lambda: intercept.statistics(plain.apply, {}, {}, jnp.ones((2, 4))),
    ):
        with pytest.raises(ValueError, match=r"Linen.*from_nnx"):
            run()


def test_jitted_functions_are_refused():
    with pytest.raises(TypeError, match=r"jit.*result"):
        intercept.capture(jax.jit(nn.Dense(2).apply))
    with pytest.raises(TypeError, match=r"jit.*result"):
        intercept.replace_inputs(jax.jit(nn.Dense(2).apply), lambda path, x: x)


def test_a_kernel_whose_module_does_not_map_an_array_to_an_array_is_refused():
    cell = nn.OptimizedLSTMCell(3)
    x = jnp.ones((2, 4))
    carry = cell.initialize_carry(KEY, x.shape)
    variables = cell.init(KEY, carry, x)
    with pytest.raises(TypeError, match=r"'\w+' \(DenseParams\).*tuple"):
        intercept.capture(cell.apply)(variables, carry, x)


def test_layers_inside_a_trace_of_their_own_can_be_replaced_and_captured():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.remat(nn.Dense)(2, name="inner")(x)

    variables = Net().init(KEY, jnp.ones((1, 3)))
    y, calls = intercept.capture(Net().apply)(variables, 2 * jnp.ones((1, 3)))
    assert [(c.input.tolist(), c.copies) for c in calls["inner"]] == [([[2.0, 2.0, 2.0]], 0)]
    np.testing.assert_array_equal(calls["inner"][0].output, y)
    scale = jnp.float32(0)
    zero = intercept.replace_inputs(Net().apply, lambda path, x: scale * x)(variables, jnp.ones((1, 3)))
    np.testing.assert_array_equal(zero, np.zeros((1, 2)))


def test_the_hook_is_gone_after_an_error():
    def fails(x):
        nn.Dense(2).init(KEY, x)
        raise RuntimeError("stop")

    calls = []
    with pytest.raises(RuntimeError, match="stop"):
        intercept.replace_inputs(fails, lambda path, x: x)(jnp.ones((1, 3)))
    nn.intercept_methods(lambda *a: calls.append(a))
    assert nn.Dense(2).init(KEY, jnp.ones((1, 3))) and not calls
