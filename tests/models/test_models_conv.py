"""The convolution as slices and a product is the convolution, with its gradients, under every transformation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from quick import jit

from jopt.models import Conv, conv_general_dilated

pytestmark = pytest.mark.unoptimized


def both(shape, dtype=jnp.float32, **options):
    """The outputs and gradients (of the inputs and the parameters) of nn.Conv and of ours, on the same numbers."""
    rng = np.random.default_rng(0)
    normal = lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype)  # noqa: E731
    options |= {"features": 4, "dtype": dtype}
    x = normal(jax.ShapeDtypeStruct(shape, dtype))
    shapes = jax.eval_shape(nn.Conv(**options).init, jax.random.key(1), x)
    # Outputs are as large as the inputs: each is a sum over what a kernel's column holds.
    variables = jax.tree.map(lambda a: normal(a) / np.sqrt(max(1, np.prod(a.shape[:-1]))).astype(a.dtype), shapes)
    cotangent = normal(jax.eval_shape(nn.Conv(**options).apply, variables, x))
    results = []
    for module in (nn.Conv(**options), Conv(**options)):

        @jit
        def run(variables, x, cotangent, module=module):
            y, pull = jax.vjp(module.apply, variables, x)
            return y, pull(cotangent)

        results.append(run(variables, x, cotangent))
    return results


def assert_close(a, b, tolerance):
    for expected, actual in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert expected.shape == actual.shape and expected.dtype == actual.dtype
        expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
        np.testing.assert_allclose(expected, actual, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))


# A sum of at most 5 * 5 * 6 float32 products, or of 200 over the batch and the pixels for a kernel's gradient, in
# another order: each rounding is 6e-8 of a partial sum, so 1e-5 of the largest output leaves room.
FLOAT32 = 1e-5

PADDINGS = ["SAME", "VALID", "CIRCULAR", ((1, 0), (0, 2))]


@pytest.mark.parametrize("padding", PADDINGS, ids=str)
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 1, 1), ((2, 5), 1, 1), (3, 2, 1), (2, (2, 3), (2, 1)), (1, 2, 1)]
)
def test_equals_flax_in_two_dimensions(padding, kernel, stride, dilation):
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    native, sliced = both(
        (2, 9, 8, 3), kernel_size=kernel, strides=stride, kernel_dilation=dilation, padding=padding
    )
    assert_close(native, sliced, FLOAT32)


@pytest.mark.parametrize("padding", ["SAME", "VALID", "CAUSAL", "REFLECT"])
@pytest.mark.parametrize("stride", [1, 2])
def test_equals_flax_in_one_dimension(padding, stride):
    native, sliced = both((2, 11, 3), kernel_size=(4,), strides=stride, padding=padding)
    assert_close(native, sliced, FLOAT32)


def test_equals_flax_in_three_dimensions_and_without_bias():
    native, sliced = both((1, 4, 5, 6, 2), kernel_size=(2, 3, 2), use_bias=False)
    assert_close(native, sliced, FLOAT32)


@pytest.mark.parametrize("groups", [2, 4])
def test_groups_and_input_dilation_fall_back_to_the_native_convolution(groups):
    native, sliced = both((2, 6, 6, 4), kernel_size=(3, 3), feature_group_count=groups)
    assert_close(native, sliced, 0)
    native, sliced = both((2, 6, 6, 4), kernel_size=(3, 3), input_dilation=2, padding=1)
    assert_close(native, sliced, 0)


def test_bfloat16_is_within_its_rounding():
    # Outputs are rounded to 8 bits (2**-9 relative), the backward pass rounds once more.
    native, sliced = both((2, 8, 8, 3), jnp.bfloat16, kernel_size=(3, 3))
    assert sliced[0].dtype == jnp.bfloat16 and sliced[1][0]["params"]["kernel"].dtype == jnp.float32
    assert_close(native, sliced, 2**-6)


def test_negative_padding_crops():
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 2))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 2, 4))
    options = {
        "window_strides": (1, 1),
        "padding": ((-1, 2), (0, -2)),
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    }
    native = lax.conv_general_dilated(x, kernel, **options)
    assert_close(native, conv_general_dilated(x, kernel, **options), FLOAT32)


def test_other_layouts_are_native():
    x, kernel = jnp.ones((1, 2, 8, 8)), jnp.ones((4, 2, 3, 3))
    f = functools.partial(conv_general_dilated, window_strides=(1, 1), padding="SAME")
    assert "conv_general_dilated" in str(jax.make_jaxpr(f)(x, kernel))
    assert f(x, kernel).shape == (1, 4, 8, 8)


def loss(kernel, x):
    y = conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return (y**2).sum()


def native_loss(kernel, x):
    return (
        lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) ** 2
    ).sum()


@pytest.mark.optimized
@pytest.mark.parametrize("wrap", ["plain", "scan", "vmap"])
def test_the_cpu_program_has_products_and_no_convolution(wrap):
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    step = jax.grad(loss, (0, 1))
    f = {
        "plain": step,
        "scan": lambda k, x: lax.scan(lambda k, _: (k - step(k, x)[0], None), k, None, length=3)[0],
        "vmap": lambda k, x: jax.vmap(step, (0, None))(jnp.stack([k, k]), x),
    }[wrap]
    text = jax.jit(f).lower(kernel, x).compile().as_text()
    assert "convolution(" not in text and "conditional(" not in text
    assert " dot(" in text or "__onednn$matmul" in text or "__ynn" in text


def test_other_platforms_get_the_native_convolution():
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    for platform in ("cuda", "tpu"):
        text = jax.export.export(jax.jit(jax.grad(loss)), platforms=[platform])(kernel, x).mlir_module()
        assert "stablehlo.convolution" in text and "dot_general" not in text


@pytest.mark.parametrize(
    "transform", [("jit", "vmap"), ("jit", "checkpoint"), ("vmap", "checkpoint")], ids="-".join
)
def test_transformations_compose(transform):
    x = jax.random.normal(jax.random.key(0), (3, 2, 6, 6, 2))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 2, 4))

    def apply(f):
        g = jax.grad(jax.checkpoint(f) if "checkpoint" in transform else f)
        g = jax.vmap(g, (None, 0)) if "vmap" in transform else functools.partial(g)
        return (jax.jit(g) if "jit" in transform else g)(kernel, x if "vmap" in transform else x[0])

    assert_close(apply(native_loss), apply(loss), FLOAT32)


def test_forward_mode_and_second_derivatives():
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 1))
    kernel = jax.random.normal(jax.random.key(1), (2, 2, 1, 2))
    tangent = jnp.ones_like(kernel)
    for f in (
        lambda l: jax.jvp(functools.partial(l, x=x), (kernel,), (tangent,))[1],
        lambda l: jax.hessian(l)(kernel, x),
    ):
        assert_close(f(native_loss), f(loss), FLOAT32)
