"""Counts checked by hand: 2 FLOPs a multiply-add."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from jopt.measure import Operations, flops, flops_by_layer, flops_by_scope, operations

pytestmark = pytest.mark.unoptimized


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def model_flops(model, x):
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    scopes = flops_by_scope(lambda p, x: model.apply({"params": p}, x), params, x)
    return scopes, flops_by_layer(scopes, params)


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(300)(x))
        return nn.Dense(10)(x)


class Net(nn.Module):
    """Conv_0: 8x8x3 -> 8x8x4, kernel 3x3, SAME; Dense_0: 4*4*4 -> 10."""

    def setup(self):
        self.conv = nn.Conv(4, (3, 3))
        self.dense = nn.Dense(10)

    def features(self, x):
        return nn.max_pool(nn.relu(self.conv(x)), (2, 2), (2, 2))

    def __call__(self, x):
        return self.dense(self.features(x).reshape(x.shape[0], -1))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.RNN(nn.SimpleCell(5), name="rnn")(x)[:, -1])


class Block(nn.Module):
    depth: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(3)(x)
        return Block(self.depth - 1, name="Block_0")(x) if self.depth else x


def test_mlp():
    scopes, layers = model_flops(MLP(), array(32, 784))
    assert scopes == {"MLP/Dense_0": 2 * 32 * 784 * 300, "MLP/Dense_1": 2 * 32 * 300 * 10}
    assert layers == {"Dense_0": 15_052_800, "Dense_1": 192_000}


def test_a_method_called_from_another_belongs_to_its_module():
    scopes, layers = model_flops(Net(), array(2, 8, 8, 3))
    assert layers == {"conv": 2 * 2 * 8 * 8 * 4 * 3 * 3 * 3, "dense": 2 * 2 * 64 * 10}
    assert set(scopes) == {"Net/conv", "Net/dense"}


def test_recurrent_network_counts_every_time_step():
    _, layers = model_flops(Recurrent(), array(2, 7, 3))
    cell = "SimpleCell_0"
    assert layers == {f"{cell}/i": 7 * 2 * 2 * 3 * 5, f"{cell}/h": 7 * 2 * 2 * 5 * 5, "Dense_0": 2 * 2 * 5 * 2}


def test_nested_modules_of_one_name_stay_apart():
    _, layers = model_flops(Block(2), array(1, 3))
    assert layers == {"Dense_0": 18, "Block_0/Dense_0": 18, "Block_0/Block_0/Dense_0": 18}


def test_gradient_is_attributed_to_the_layers_too():
    model, x = MLP(), array(4, 8)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    scopes = flops_by_scope(jax.grad(lambda p, x: model.apply(p, x).sum()), params, x)
    # Forward and weight gradient each; the second layer also passes a gradient on to its input.
    assert scopes == {"MLP/Dense_0": 2 * (2 * 4 * 8 * 300), "MLP/Dense_1": 3 * (2 * 4 * 300 * 10)}


def conv(x_shape, w_shape, strides=(1, 1), padding="VALID", **kwargs):
    return lambda x, w: jax.lax.conv_general_dilated(
        x, w, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **kwargs
    )


@pytest.mark.parametrize(
    "x, w, kwargs, expected",
    [
        ((2, 9, 9, 6), (3, 3, 6, 4), {}, 2 * (2 * 7 * 7 * 4) * 9 * 6),
        ((2, 9, 9, 6), (3, 3, 6, 4), {"padding": "SAME"}, 2 * (2 * 9 * 9 * 4) * 9 * 6),
        ((2, 9, 9, 6), (3, 3, 6, 4), {"strides": (2, 3)}, 2 * (2 * 4 * 3 * 4) * 9 * 6),
        ((2, 9, 9, 6), (3, 3, 3, 4), {"feature_group_count": 2}, 2 * (2 * 7 * 7 * 4) * 9 * 3),
        ((2, 9, 9, 6), (3, 3, 1, 6), {"feature_group_count": 6}, 2 * (2 * 7 * 7 * 6) * 9),
        ((2, 9, 9, 6), (3, 3, 6, 4), {"rhs_dilation": (2, 4)}, 2 * (2 * 5 * 1 * 4) * 9 * 6),
        # A transposed convolution: each of the 4 x 4 inputs meets each of the 2 x 2 window elements once.
        (
            (1, 4, 4, 3),
            (2, 2, 3, 5),
            {"padding": ((1, 1), (1, 1)), "lhs_dilation": (2, 2)},
            2 * 16 * 4 * 3 * 5,
        ),
    ],
)
def test_convolution(x, w, kwargs, expected):
    assert flops(conv(x, w, **kwargs), array(*x), array(*w)) == expected


def test_gradients_of_a_strided_convolution_cost_what_it_costs():
    x, w = array(2, 9, 9, 3), array(3, 3, 3, 4)
    f = conv(x, w, (2, 2))
    for argnums in (0, 1):
        assert flops(jax.grad(lambda x, w: (f(x, w) ** 2).sum(), argnums=argnums), x, w) == 2 * flops(f, x, w)


def outputs(size, kernel, stride, padding, dilation):
    """How often a window fits, by walking along the padded axis."""
    reach, low, high = dilation * (kernel - 1) + 1, *padding
    return len([at for at in range(0, low + size + high, stride) if at + reach <= low + size + high])


@pytest.mark.parametrize("size", [7, 14])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(4, 2, 1), (3, 2, 1), (5, 3, 1), (2, 2, 1), (3, 2, 2), (3, 1, 1)]
)
@pytest.mark.parametrize("padding", ["SAME", "VALID", (1, 1), (0, 2)])
def test_transposed_convolutions_and_gradients_cost_what_the_convolution_costs(
    size, kernel, stride, dilation, padding
):
    reach = dilation * (kernel - 1) + 1
    if padding == "SAME":
        all_of_it = max((-(-size // stride) - 1) * stride + reach - size, 0)
        pads = (all_of_it // 2, all_of_it - all_of_it // 2)
    else:
        pads = (0, 0) if padding == "VALID" else padding
    x, w = array(1, size, size, 8), array(kernel, kernel, 8, 4)
    f = conv(x, w, (stride, stride), padding=[pads, pads], rhs_dilation=(dilation, dilation))
    size_out = outputs(size, kernel, stride, pads, dilation)
    expected = 2 * (size_out * kernel) ** 2 * 8 * 4
    assert f(jnp.zeros(x.shape), jnp.zeros(w.shape)).shape[1] == size_out
    assert flops(f, x, w) == expected

    if stride == 1:
        return  # its transpose is a convolution like others, whose padding counts

    def transpose(g, w):
        return jax.linear_transpose(lambda x: f(x, w), x)(g)[0]

    g = array(1, size_out, size_out, 4)
    assert flops(transpose, g, w) == expected
    # The gradients of both, whose forward product is counted with them.
    assert operations(lambda x, w, g: jax.vjp(f, x, w)[1](g), x, w, g).convolution == 3 * expected
    assert operations(lambda g, w, x: jax.vjp(transpose, g, w)[1](x), g, w, x).convolution == 3 * expected


def test_published_counts_of_a_strided_convolution():
    # PyTorch, torch.utils.flop_counter.FlopCounterMode, batch of 2: Conv2d(16, 8, 4, 2, 1) on 14 x 14 and its
    # transpose on 7 x 7 have 401,408 each; the first with both gradients 1,204,224.
    x, w, g = array(2, 14, 14, 16), array(4, 4, 16, 8), array(2, 7, 7, 8)
    f = conv(x, w, (2, 2), padding=[(1, 1), (1, 1)])
    assert flops(f, x, w) == 401_408
    assert operations(lambda x, w, g: jax.vjp(f, x, w)[1](g), x, w, g).convolution == 1_204_224
    layer = nn.ConvTranspose(16, (4, 4), (2, 2), padding=((2, 2), (2, 2)), use_bias=False)
    params = jax.eval_shape(layer.init, jax.random.key(0), g)
    assert flops(layer.apply, params, g) == 401_408


def test_one_form_of_a_convolution_counts():
    def shifted(x, w):
        return jnp.concatenate([x[:, i : i + 7] for i in range(3)], -1) @ w.reshape(-1, 4)

    def both(x, w):
        native = lambda x, w: jax.lax.conv_general_dilated(  # noqa: E731
            x, w, (1,), "VALID", dimension_numbers=("NHC", "HIO", "NHC")
        )
        return jax.lax.platform_dependent(x, w, cpu=shifted, default=native)

    assert flops(both, array(2, 9, 6), array(3, 6, 4)) == 2 * (2 * 7 * 4) * 3 * 6
    assert operations(both, array(2, 9, 6), array(3, 6, 4)).matmul == 0


def test_batched_and_vmapped_products():
    assert flops(lambda a, b: a @ b, array(5, 2, 3), array(5, 3, 4)) == 5 * 2 * 2 * 3 * 4
    assert flops(jax.vmap(lambda a, b: a @ b), array(5, 2, 3), array(5, 3, 4)) == 5 * 2 * 2 * 3 * 4
    assert flops(jax.vmap(jnp.dot, in_axes=(0, None)), array(6, 3), array(3)) == 36


@jax.custom_vjp
def square(x):
    return x @ x


square.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T + x.T @ g,))


@pytest.mark.parametrize(
    "f, expected",
    [
        (jax.jit(lambda x: x @ x), 16),
        (jax.checkpoint(lambda x: x @ x), 16),
        (square, 16),
        (jax.grad(lambda x: square(x).sum()), 48),
        (lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, length=11)[0], 11 * 16),
        (lambda x: jax.lax.fori_loop(0, 5, lambda _, c: c @ x, x), 5 * 16),
        (lambda x: jax.lax.map(lambda r: x @ r, x), 2 * 8),
        (lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x), 32),
        (lambda x: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c + 1, x), 0),
    ],
)
def test_control_flow(f, expected):
    assert flops(f, array(2, 2)) == expected


def test_shard_map_counts_all_devices():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    f = jax.shard_map(lambda x, w: x @ w, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
    assert flops(f, array(8, 3), array(3, 5)) == 2 * 8 * 3 * 5


def test_a_product_in_a_while_loop_is_refused():
    def power(x):
        with jax.named_scope("power"):
            return jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ c, x)

    with pytest.raises(ValueError, match=r"`while`.*'power'"):
        flops(power, array(2, 2))


def test_a_callback_is_refused():
    with pytest.raises(ValueError, match="pure_callback"):
        flops(lambda x: jax.pure_callback(lambda x: x, x, x), array(2))


def test_kinds_of_operations():
    def f(x):
        h = nn.max_pool(nn.relu(x), (2, 2), (2, 2))  # maximum with 0: 64; 16 windows of 4
        return jnp.exp(h).sum()  # 16; 16

    assert operations(f, array(1, 8, 8, 1)) == Operations(0, 0, 64 + 16, 64 + 16)


def test_integers_and_movement_are_no_floating_point_work():
    i = jax.ShapeDtypeStruct((4, 4), jnp.int32)
    assert operations(lambda i: (i + i).T.reshape(-1)[::2].sum(), i) == Operations()
    assert flops(lambda i: i @ i, i) == 2 * 4**3


def test_counts_beyond_32_bits_are_exact():
    n = 2**20 + 1
    assert flops(lambda a, b: a @ b, array(n, n), array(n, n)) == 2 * n**3
