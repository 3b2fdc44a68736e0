"""What every optimizer promises to every training loop, in the spirit of Optax's alias_test."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt import optim

from .cases import WITH_OUTSIDE, config, jit

pytestmark = pytest.mark.unoptimized

EVERYTHING = {"weight_decay": 0.1, "l1": 0.1, "clip_by_global_norm": 1.0, "accumulate_steps": 2, "proximal_l1": 0.1}


def tree(dtype):
    """A pytree with dictionaries, a list, an empty node, a scalar and ranks 0 to 4."""
    ones = lambda *shape: jnp.full(shape, 0.5, dtype)  # noqa: E731
    return {"layers": [{"kernel": ones(3, 2), "bias": ones(2)}, {}], "conv": ones(1, 2, 3, 2), "scale": ones()}


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("name", "variant"), WITH_OUTSIDE)
def test_shapes_and_dtypes_are_stable(name, variant, dtype, changes):
    optimizer = optim.build(config(name, variant, **changes))
    params = tree(dtype)
    signature = lambda t: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), t)  # noqa: E731
    state = jax.eval_shape(optimizer.init, params)
    updates, new_state = jax.eval_shape(lambda p, s: optimizer.update(p, s, p, value=1.0, key=None), params, state)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    assert signature(new_state) == signature(state)
    assert signature(updates) == signature(jax.eval_shape(lambda: params))
    # Moments are float32 for bfloat16 parameters too: 1 - b2 = 0.001 would vanish in its 8 bits.
    assert {x.dtype for x in jax.tree.leaves(state)} <= {jnp.dtype("float32"), jnp.dtype("int32")}


@pytest.mark.parametrize(("name", "variant"), WITH_OUTSIDE)
def test_scans_and_keeps_parameters_finite_under_a_zero_gradient(name, variant):
    optimizer = optim.build(config(name, variant, clip_by_global_norm=1.0, adaptive_clip=0.1))
    params = tree(jnp.bfloat16)

    def body(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.tree.map(jnp.zeros_like, params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (end, _), _ = jit(lambda p: jax.lax.scan(body, (p, optimizer.init(p)), length=3))(params)
    assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves(end))
    if name not in ("adamw", "lion"):  # these decay
        jax.tree.map(np.testing.assert_array_equal, end, params)


@pytest.mark.parametrize(
    "changes", [{}, {"accumulate_steps": 2, "freeze": ("scale",)}], ids=["plain", "accumulate"]
)
@pytest.mark.parametrize(("name", "variant"), WITH_OUTSIDE)
def test_a_mask_maps_over_every_moment(name, variant, changes):
    optimizer = optim.build(config(name, variant, **changes))
    params = tree(jnp.float32)
    state = optimizer.init(params)
    ones = jax.tree.map(lambda x: jnp.ones_like(x) if x.ndim else x, state)
    masked = optax.tree.map_params(optimizer, lambda s, m: s * m, ones, jax.tree.map(jnp.zeros_like, params))
    assert jax.tree.structure(masked) == jax.tree.structure(state)
    assert all(not x.any() for x in jax.tree.leaves(masked) if x.ndim), "a moment that the mask missed"


def test_works_without_parameters_where_no_part_needs_them():
    optimizer = optim.build(optim.Config("adam"))
    grads = {"w": jnp.ones(2)}
    updates, _ = optimizer.update(grads, optimizer.init(grads))
    np.testing.assert_allclose(updates["w"], -1e-3, rtol=1e-4)
    for field in ("weight_decay", "l1", "proximal_l1"):
        optimizer = optim.build(optim.Config("adam", **{field: 0.1}))
        with pytest.raises(ValueError, match=f"{field}.*params"):
            optimizer.update(grads, optimizer.init(grads))


def test_works_inside_optax_chain():
    optimizer = optax.chain(optim.build(optim.Config("sgd", learning_rate=1.0)), optax.scale(0.5))
    params = {"w": jnp.ones(2)}
    updates, _ = optimizer.update(params, optimizer.init(params), params, loss=1.0)
    assert updates["w"].tolist() == [-0.5, -0.5]


def test_an_integer_parameter_is_an_error():
    with pytest.raises(TypeError, match=r"'step'.*floating.*int32"):
        optim.build(optim.Config()).init({"step": jnp.zeros(2, jnp.int32)})
