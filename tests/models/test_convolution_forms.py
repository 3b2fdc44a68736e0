"""Every form of a convolution's three sums is `lax.conv_general_dilated`'s, and so is what is chosen of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from quick import jit

from jopt.models import conv_general_dilated
from jopt.models.convolution import choose, contract
from jopt.models.convolution_forms import FORMS, OPERANDS, Geometry

pytestmark = pytest.mark.unoptimized

LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}
SAME = Geometry((6, 5), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))


def integers(shape, dtype=jnp.float32, seed=0):
    """Small integers: every order of a sum of their products gives the same bits."""
    return jnp.asarray(np.random.default_rng(seed).integers(-3, 4, shape), dtype)


def native(x, kernel, geometry):
    return lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=LAYOUTS[len(geometry.window)],
    )


def assert_all_forms_equal_lax(geometry, channels, dtype=jnp.float32):
    x = integers((2, *geometry.sizes, channels[0]), dtype)
    kernel = integers((*geometry.window, *channels), dtype, 1)

    @jit
    def run(x, kernel, y):
        gradients = jax.vjp(lambda x, kernel: native(x, kernel, geometry), x, kernel)[1](y)
        operands = {"input": x, "kernel": kernel, "output": y}
        forms = {
            (result, form): contract(*(operands[name] for name in OPERANDS[result]), **options, form=form)
            for result in OPERANDS
            for options in [{"result": result, "geometry": geometry}]
            for form in FORMS[result]
        }
        return dict(zip(("output", "input", "kernel"), (native(x, kernel, geometry), *gradients))), forms  # noqa: B905

    y = integers(jax.eval_shape(lambda: native(x, kernel, geometry)).shape, dtype, 2)
    expected, forms = run(x, kernel, y)
    assert y.shape[1:-1] == geometry.positions
    for (result, form), actual in forms.items():
        assert actual.dtype == dtype
        np.testing.assert_array_equal(expected[result], actual, err_msg=f"{result}, {form}")


@pytest.mark.parametrize(
    "geometry",
    [
        SAME,
        SAME._replace(strides=(2, 3)),
        SAME._replace(padding=((-1, 2), (0, -1))),
        SAME._replace(padding=((4, 0), (0, 3)), strides=(3, 1)),
        SAME._replace(dilation=(2, 1), padding=((2, 1), (0, 1)), strides=(1, 2)),
        Geometry((6, 5), (1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1)),
        Geometry((2, 2), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
        Geometry((7,), (4,), (2,), ((3, -1),), (1,)),
        Geometry((4, 3, 5), (2, 3, 1), (1, 2, 2), ((1, 0), (1, 1), (0, 0)), (2, 1, 1)),
    ],
    ids=str,
)
def test_every_form_is_exact_on_integers(geometry):
    assert_all_forms_equal_lax(geometry, (3, 2))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_exact_on_integers(dtype):
    # Sums of at most 60 products of at most 9 stay below 2**8 in nearly all, and exactly in float32.
    geometry = SAME._replace(sizes=(3, 3), strides=(2, 2))
    x, kernel = integers((1, 3, 3, 2), dtype), integers((3, 3, 2, 2), dtype, 1)
    y = contract(x, kernel, result="output", geometry=geometry)
    assert y.dtype == dtype
    np.testing.assert_array_equal(
        y, native(x.astype(jnp.float32), kernel.astype(jnp.float32), geometry).astype(dtype)
    )


@st.composite
def geometries(draw):
    axis = st.tuples(*(st.integers(1, n) for n in (6, 3, 3, 2)), st.integers(-1, 3), st.integers(-1, 3))
    axes = draw(st.lists(axis, min_size=1, max_size=2))
    sizes, window, strides, dilation, low, high = zip(*axes, strict=True)
    geometry = Geometry(sizes, window, strides, tuple(zip(low, high, strict=True)), dilation)
    spans = zip(sizes, low, high, geometry.extent, strict=True)
    # At least one position, and padding that leaves at least one pixel: what `lax` itself accepts.
    return (
        geometry if all(size + a + b > extent and size + min(a, b, 0) > 0 for size, a, b, extent in spans) else SAME
    )


@settings(max_examples=15, deadline=None)
@given(geometries())
def test_every_form_is_exact_for_any_geometry(geometry):
    assert_all_forms_equal_lax(geometry, (2, 3))


def layer(x, kernel, conv=conv_general_dilated):
    return conv(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUTS[2])


def test_gradients_of_any_order_are_those_of_lax():
    x, kernel, v = integers((1, 4, 4, 16)), integers((3, 3, 16, 2), seed=1), integers((3, 3, 16, 2), seed=2)

    def derivatives(conv):
        loss = lambda x, kernel: (layer(x, kernel, conv) ** 2).sum()  # noqa: E731
        product = lambda x, kernel: jax.jvp(lambda k: jax.grad(loss, (0, 1))(x, k), (kernel,), (v,))[1]  # noqa: E731
        reverse = jax.grad(lambda x, k: (jax.grad(loss, 1)(x, k) * v).sum(), (0, 1))
        return jit(lambda x, kernel: (product(x, kernel), reverse(x, kernel)))(x, kernel)

    assert choose("output", SAME._replace(sizes=(4, 4)), (16, 2), x.dtype) == "native"
    jax.tree.map(
        np.testing.assert_array_equal, derivatives(lax.conv_general_dilated), derivatives(conv_general_dilated)
    )


@pytest.mark.parametrize("axes", [(0, None), (None, 3), (1, 4)], ids=str)
@pytest.mark.parametrize("channels", [2, 16])
def test_trials_on_any_axis_equal_trials_one_by_one(axes, channels):
    x, kernel = integers((3, 2, 4, 4, channels)), integers((3, 3, 3, channels, 2), seed=1)
    operands = [a if axis is not None else a[0] for a, axis in zip((x, kernel), axes, strict=True)]
    moved = [a if axis is None else jnp.moveaxis(a, 0, axis) for a, axis in zip(operands, axes, strict=True)]

    def gradients(x, kernel):
        y, pull = jax.vjp(layer, x, kernel)
        return y, pull(y)

    batched = jit(jax.vmap(gradients, axes))(*moved)
    for i in range(3):
        one = gradients(*(a if axis is None else a[i] for a, axis in zip(operands, axes, strict=True)))
        jax.tree.map(lambda many, alone, i=i: np.testing.assert_array_equal(many[i], alone), batched, one)


@pytest.mark.optimized
def test_a_step_has_the_same_bits_alone_and_under_map():
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=(4, 6, 6, 16)), jnp.float32)
    kernels = jnp.asarray(draw.normal(size=(3, 3, 3, 16, 4)), jnp.float32)

    def train(kernel):
        step = lambda kernel, _: (kernel - 1e-4 * jax.grad(lambda k: (layer(x, k) ** 2).sum())(kernel), None)  # noqa: E731
        return lax.scan(step, kernel, None, length=2)[0]

    mapped = jax.jit(lambda kernels: lax.map(train, kernels))(kernels)
    for kernel, result in zip(kernels, mapped, strict=True):
        np.testing.assert_array_equal(jax.jit(train)(kernel), result)


@pytest.mark.optimized
def test_a_loop_has_no_convolution_in_another_layout_than_that_of_the_fast_kernels():
    x, kernel = jnp.ones((2, 6, 6, 16)), jnp.ones((3, 3, 16, 4))

    def step(kernel, _):
        gradients = jax.grad(lambda k, x: (layer(x, k) ** 2).sum(), (0, 1))(kernel, x)
        return kernel - sum(g.sum() for g in gradients), None

    text = jax.jit(lambda k: lax.scan(step, k, None, length=3)[0]).lower(kernel).compile().as_text()
    convolutions = [line for line in text.splitlines() if " convolution(" in line]
    assert len(convolutions) == 3 and all("dim_labels=b01f_01io->b01f" in line for line in convolutions)


def test_images_smaller_than_the_window_few_channels_and_other_axes_are_products():
    wide = Geometry((8, 8), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    forms = lambda geometry, channels=16, dtype=jnp.float32: [  # noqa: E731
        choose(result, geometry, (channels, 8), dtype) for result in ("output", "input", "kernel")
    ]
    assert forms(wide) == ["native"] * 3
    assert forms(wide._replace(strides=(2, 2))) == ["native", "native", "columns"]
    assert forms(wide, 272) == ["native", "native", "columns"]
    kernels = {choose("kernel", wide, channels, jnp.float32) for channels in ((1, 16), (3, 32), (16, 10))}
    assert kernels == {"native"} and choose("kernel", wide, (8, 8), jnp.float32) == "columns"
    for geometry, channels, dtype in [
        (wide, 8, jnp.float32),
        (wide, 16, jnp.bfloat16),
        (wide._replace(sizes=(3, 8)), 16, jnp.float32),
        (wide._replace(dilation=(1, 2)), 16, jnp.float32),
        (Geometry((8,), (3,), (1,), ((1, 1),), (1,)), 16, jnp.float32),
    ]:
        assert forms(geometry, channels, dtype) == ["columns"] * 3


def test_shard_map_that_checks_what_varies_takes_a_replicated_kernel():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x, kernel = integers((4, 4, 4, 16)), integers((3, 3, 16, 2), seed=1)
    gradient = jax.grad(lambda kernel, x: (layer(x, kernel) ** 2).sum())
    spec = jax.sharding.PartitionSpec
    parts = jit(jax.shard_map(gradient, mesh=mesh, in_specs=(spec(), spec("data")), out_specs=spec()))
    np.testing.assert_array_equal(parts(kernel, x), gradient(kernel, x))


def test_any_batch_size_can_be_exported():
    x, kernel = integers((3, 6, 6, 16)), integers((3, 3, 16, 2), seed=1)
    (batch,) = jax.export.symbolic_shape("b")
    exported = jax.export.export(jax.jit(lambda x: layer(x, kernel)), platforms=("cpu", "tpu"))(
        jax.ShapeDtypeStruct((batch, 6, 6, 16), jnp.float32)
    )
    np.testing.assert_array_equal(exported.call(x), layer(x, kernel, lax.conv_general_dilated))
