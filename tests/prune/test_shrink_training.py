"""Training goes on after shrinking as it would have gone on under the masks, for every optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt.optim
from jopt.models import MLP, ResNet, from_linen
from jopt.prune import cut, shrink_all

from .cases import jit

pytestmark = pytest.mark.unoptimized

CONFIGS = {
    "sgd": jopt.optim.Config("sgd", learning_rate=0.1),
    "momentum": jopt.optim.Config("momentum", learning_rate=0.05),
    "nesterov, clipped": jopt.optim.Config("nesterov", learning_rate=0.05, clip_by_global_norm=0.5),
    "adagrad": jopt.optim.Config("adagrad", learning_rate=0.05),
    "adagrad, paper": jopt.optim.Config("adagrad", variant="paper", learning_rate=0.05),
    "rmsprop": jopt.optim.Config("rmsprop", learning_rate=0.01),
    "adam": jopt.optim.Config("adam", learning_rate=0.01),
    "adamw, accumulated": jopt.optim.Config("adamw", learning_rate=0.01, weight_decay=0.1, accumulate_steps=2),
    "lion": jopt.optim.Config("lion", learning_rate=0.003),
}
MODEL = MLP((12, 9), 4)


def trainer(model, optimizer, masks):
    """One jitted step that holds parameters and gradients under the masks."""
    net = from_linen(model)

    def project(tree):
        return jax.tree.map(lambda a, m: jnp.where(m, a, jnp.zeros_like(a)), tree, masks)

    @jit
    def step(params, state, opt_state, x, y):
        def loss(params):
            logits, new = net.apply(params, state, x, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new

        grads, new = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(project(grads), opt_state, params)
        return project(optax.apply_updates(params, updates)), new, opt_state

    return step


def batches(shape, classes, n):
    rng = np.random.default_rng(7)
    return [
        (rng.normal(size=(16, *shape)).astype(np.float32), rng.integers(0, classes, 16, np.int32)) for _ in range(n)
    ]


def random_masks(params, rng):
    """Half of the weights, and whole columns of every kernel but the last's; nothing else."""

    def mask(path, a):
        if "kernel" not in str(path[-1]):
            return jnp.ones(a.shape, bool)
        chosen = rng.random(a.shape) < 0.5
        if a.shape[-1] > 4:
            chosen[..., rng.random(a.shape[-1]) < 0.4] = False
        return jnp.array(chosen)

    return jax.tree_util.tree_map_with_path(mask, params)


def moments(optimizer, opt_state):
    trees = []
    optax.tree.map_params(optimizer, lambda tree: trees.append(tree) or tree, opt_state, is_leaf=lambda tree: True)
    return trees


def close(shrunk_state, masked_state):
    assert jax.tree.structure(shrunk_state) == jax.tree.structure(masked_state)
    for a, b in zip(jax.tree.leaves(shrunk_state), jax.tree.leaves(masked_state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-6)


# No moments, one tree of them, two, an accumulated gradient beside them, and a state of the paper's.
COVERING = ("sgd", "nesterov, clipped", "adagrad, paper", "adam", "adamw, accumulated")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in COVERING else pytest.mark.slow) for name in CONFIGS]
)
def test_training_goes_on_as_under_the_masks(name):
    optimizer = jopt.optim.build(CONFIGS[name], total_steps=20)
    params = MODEL.init(jax.random.key(0), jnp.ones((1, 6)))["params"]
    masks = random_masks(params, np.random.default_rng(3))
    step = trainer(MODEL, optimizer, masks)
    params = jax.tree.map(lambda a, m: jnp.where(m, a, 0.0), params, masks)
    opt_state = optimizer.init(params)
    data = batches((6,), 4, 10)
    for x, y in data[:5]:
        params, _, opt_state = step(params, {}, opt_state, x, y)
    small = shrink_all(MODEL, params, masks, optimizer=optimizer, opt_state=opt_state)
    assert small.model.features[0] < 12 and small.model.features[1] < 9
    close(small.params, cut(params, small.removed))  # the biases of what was removed are 0: nothing was folded
    fresh = jax.eval_shape(optimizer.init, small.params)
    assert jax.tree.map(jnp.shape, small.opt_state) == jax.tree.map(lambda s: s.shape, fresh)
    if name != "sgd":
        assert moments(optimizer, small.opt_state)
    shrunk, shrunk_opt = small.params, small.opt_state
    again = trainer(small.model, optimizer, cut(masks, small.removed))
    for x, y in data[5:]:
        params, _, opt_state = step(params, {}, opt_state, x, y)
        shrunk, _, shrunk_opt = again(shrunk, {}, shrunk_opt, x, y)
    close(shrunk, cut(params, small.removed))
    for shrunk_state, masked_state in zip(
        moments(optimizer, shrunk_opt), moments(optimizer, opt_state), strict=True
    ):
        close(shrunk_state, cut(masked_state, small.removed))
    assert float(jnp.abs(shrunk["Dense_0"]["kernel"] - small.params["Dense_0"]["kernel"]).max()) > 1e-3


def test_batch_statistics_go_on_too():
    model = ResNet(6, (1,), 3)
    optimizer = jopt.optim.build(CONFIGS["momentum"], total_steps=20)
    net = from_linen(model)
    data = batches((6, 6, 1), 3, 5)
    # What it starts from does not matter, and its initialization takes long to compile.
    rng = np.random.default_rng(0)
    params, state = jax.eval_shape(net.init, jax.random.key(0), data[0][0])
    params = jax.tree.map(lambda a: jnp.array(rng.normal(size=a.shape) * (a.ndim > 1) / 5, a.dtype), params)
    params = jax.tree_util.tree_map_with_path(lambda path, a: a + jnp.float32("scale" in str(path)), params)
    state = jax.tree_util.tree_map_with_path(lambda path, a: jnp.full(a.shape, "var" in str(path), a.dtype), state)
    masks = random_masks(params, np.random.default_rng(2))
    masks["Conv_0"]["kernel"] &= masks["Block_0"]["Conv_1"]["kernel"].any((0, 1, 2))[None, None, None]
    params = jax.tree.map(lambda a, m: jnp.where(m, a, 0.0), params, masks)
    step = trainer(model, optimizer, masks)
    opt_state = optimizer.init(params)
    for x, y in data[:2]:
        params, state, opt_state = step(params, state, opt_state, x, y)
    small = shrink_all(model, params, masks, model_state=state, optimizer=optimizer, opt_state=opt_state)
    assert small.model.streams[0] < 6 and small.model.inner[0] < 6
    again = trainer(small.model, optimizer, cut(masks, small.removed))
    shrunk_state = small.params, small.model_state, small.opt_state
    for x, y in data[2:]:
        params, state, opt_state = step(params, state, opt_state, x, y)
        shrunk_state = again(*shrunk_state, x, y)
    close(shrunk_state[0], cut(params, small.removed))
    close(shrunk_state[1], cut(state, small.removed))


def pruned_columns():
    params = MODEL.init(jax.random.key(0), jnp.ones((1, 6)))["params"]
    masks = random_masks(params, np.random.default_rng(3))
    return jax.tree.map(lambda a, m: jnp.where(m, a, 0.0), params, masks), masks


def test_the_stacked_moments_of_lbfgs_are_cut():
    """With its line search, whose `init` asks for the first leaf's dtype."""
    optimizer = optax.lbfgs(memory_size=3)
    params, masks = pruned_columns()
    memory, *others = optimizer.init(params)
    stacks = jax.tree.map(lambda p: jnp.stack([p, 2 * p, 3 * p]), params)
    opt_state = (memory._replace(diff_params_memory=stacks), *others)
    small = shrink_all(MODEL, params, masks, optimizer=optimizer, opt_state=opt_state)
    expected = jax.tree.map(lambda p: jnp.stack([p, 2 * p, 3 * p]), small.params)
    jax.tree.map(np.testing.assert_array_equal, small.opt_state[0].diff_params_memory, expected)
    fresh = jax.eval_shape(optimizer.init, small.params)
    assert jax.tree.map(jnp.shape, small.opt_state) == jax.tree.map(lambda s: s.shape, fresh)


@pytest.mark.slow
def test_lbfgs_goes_on_as_under_the_masks():
    optimizer = optax.lbfgs(memory_size=3)
    params, masks = pruned_columns()
    ((x, y),) = batches((6,), 4, 1)

    def trainer(model, masks):
        def loss(params):
            params = jax.tree.map(lambda a, m: jnp.where(m, a, 0.0), params, masks)
            return optax.softmax_cross_entropy_with_integer_labels(model.apply({"params": params}, x), y).mean()

        @jit
        def step(params, opt_state):
            value, grad = optax.value_and_grad_from_state(loss)(params, state=opt_state)
            updates, opt_state = optimizer.update(grad, opt_state, params, value=value, grad=grad, value_fn=loss)
            return optax.apply_updates(params, updates), opt_state

        return step

    step, opt_state = trainer(MODEL, masks), optimizer.init(params)
    for _ in range(3):
        params, opt_state = step(params, opt_state)
    small = shrink_all(MODEL, params, masks, optimizer=optimizer, opt_state=opt_state)
    assert small.model.features[0] < 12
    again, shrunk_state = trainer(small.model, cut(masks, small.removed)), (small.params, small.opt_state)
    for _ in range(3):
        params, opt_state = step(params, opt_state)
        shrunk_state = again(*shrunk_state)
    close(shrunk_state[0], cut(params, small.removed))


def test_one_number_for_a_parameter_stays():
    """NovoGrad's norms, and Adafactor's placeholders for rows and columns of small matrices."""
    params, masks = pruned_columns()
    for optimizer in (optax.novograd(0.1), optax.adafactor(0.1)):
        small = shrink_all(MODEL, params, masks, optimizer=optimizer, opt_state=optimizer.init(params))
        fresh = jax.eval_shape(optimizer.init, small.params)
        assert jax.tree.map(jnp.shape, small.opt_state) == jax.tree.map(lambda s: s.shape, fresh)


def test_several_moments_in_the_place_of_a_parameter_are_cut():
    optimizer = optax.GradientTransformation(
        lambda p: optax.TraceState(jax.tree.map(lambda a: [a, 2 * a], p)), lambda g, s, p=None: (g, s)
    )
    params, masks = pruned_columns()
    small = shrink_all(MODEL, params, masks, optimizer=optimizer, opt_state=optimizer.init(params))
    shrunk_state, cut_params = small.opt_state.trace["Dense_1"]["kernel"], small.params["Dense_1"]["kernel"]
    np.testing.assert_array_equal(shrunk_state[0], cut_params)
    np.testing.assert_array_equal(shrunk_state[1], 2 * cut_params)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (
            optax.GradientTransformation(
                lambda p: optax.TraceState(jax.tree.map(lambda a: jnp.zeros(5), p)), lambda g, s, p=None: (g, s)
            ),
            r"trace\['Dense_0'\]\['bias'\] has shape \(5,\), but the parameter Dense_0/bias has \(12,\)",
        ),
        (optax.adafactor(0.1, min_dim_size_to_factor=2), r"\['Dense_0'\]\['kernel'\] has shape \(\d+,\).* cut"),
        (optax.flatten(optax.adam(0.1)), r"\.mu has shape \(241,\).*optax\.flatten.* cut"),
        (optax.contrib.galore(0.1, rank=2), r"optax\.contrib\.galore .*cannot be cut"),
    ],
    ids=("another shape", "rows and columns", "flatten", "galore"),
)
def test_what_cannot_be_cut_is_refused_by_path(optimizer, message):
    params, masks = pruned_columns()
    with pytest.raises(ValueError, match=message):
        shrink_all(MODEL, params, masks, optimizer=optimizer, opt_state=optimizer.init(params))
