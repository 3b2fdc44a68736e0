"""Shrinking by hand: which units go, where their constants go, what is refused and why."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt import coupling
from jopt.coupling import CouplingError
from jopt.models import MLP, RNN, XOR, ConvNet, ResNet, TiedMLP, from_linen
from jopt.prune import Removed, cut, describe_shrinking, shrink, shrink_all, shrink_plan

pytestmark = pytest.mark.unoptimized


def dense(kernel, bias):
    return {"kernel": jnp.array(kernel, jnp.float32), "bias": jnp.array(bias, jnp.float32)}


def start(model, shape, seed=0):
    """Parameters and state of random numbers, without compiling an initialization."""
    rng = np.random.default_rng(seed)
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(x.shape)))
    fill = jax.tree.map(lambda a: jnp.array(rng.normal(size=a.shape) / 2, a.dtype), dict(variables))
    return fill.pop("params"), fill


def columns(shape, *pruned):
    mask = np.ones(shape, bool)
    mask[..., list(pruned)] = False
    return jnp.array(mask)


def rows(shape, *pruned):
    mask = np.ones(shape, bool)
    mask[..., list(pruned), :] = False
    return jnp.array(mask)


TWO_LAYERS = {
    "Dense_0": dense([[1, 2, 3], [4, 5, 6]], [0.0, 0.5, -1.0]),
    "Dense_1": dense([[1, 10], [2, 20], [4, 40]], [0.25, 0.75]),
}


@pytest.mark.parametrize(
    ("activation", "constants"),
    [
        ("relu", (0.5, 0.0)),
        ("identity", (0.5, -1.0)),
        ("tanh", np.tanh([0.5, -1.0])),
        ("sigmoid", 1 / (1 + np.exp([-0.5, 1.0]))),
        ("softplus", np.log1p(np.exp([0.5, -1.0]))),
    ],
)
def test_the_constant_of_a_removed_neuron_goes_into_the_next_bias(activation, constants):
    model = MLP((3,), 2, activation)
    masks = {"Dense_0": {"kernel": columns((2, 3), 1, 2), "bias": None}, "Dense_1": None}
    small, params = shrink(model, TWO_LAYERS, masks)
    assert small == MLP((1,), 2, activation)
    np.testing.assert_array_equal(params["Dense_0"]["kernel"], [[1], [4]])
    np.testing.assert_array_equal(params["Dense_1"]["kernel"], [[1, 10]])
    a, b = constants
    np.testing.assert_allclose(params["Dense_1"]["bias"], [0.25 + 2 * a + 4 * b, 0.75 + 20 * a + 40 * b], rtol=1e-6)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_a_neuron_that_no_one_reads_goes_whatever_it_is():
    small, params = shrink(MLP((3,), 2), TWO_LAYERS, {"Dense_1": {"kernel": rows((3, 2), 0)}})
    assert small.features == (2,)
    np.testing.assert_array_equal(params["Dense_0"]["kernel"], [[2, 3], [5, 6]])
    np.testing.assert_array_equal(params["Dense_0"]["bias"], [0.5, -1])
    np.testing.assert_array_equal(params["Dense_1"]["bias"], TWO_LAYERS["Dense_1"]["bias"])


def test_weights_pruned_one_by_one_stay_as_zeros_and_nothing_else_changes():
    mask = jnp.array([[True, True, False], [True, False, True]])
    small, params = shrink(MLP((3,), 2), TWO_LAYERS, {"Dense_0": {"kernel": mask}})
    assert small.features == (3,)
    np.testing.assert_array_equal(params["Dense_0"]["kernel"], [[1, 2, 0], [4, 0, 6]])
    assert jax.tree.structure(params) == jax.tree.structure(TWO_LAYERS)


@pytest.mark.parametrize("masks", [None, {}, {"Dense_0": None}, {"Dense_0": {"kernel": None, "bias": None}}])
def test_without_masks_nothing_is_removed(masks):
    small, params = shrink(MLP((3,), 2), TWO_LAYERS, masks)
    assert small == MLP((3,), 2)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, TWO_LAYERS))


def test_a_zero_that_is_not_masked_is_a_weight_like_any_other():
    params = {**TWO_LAYERS, "Dense_0": dense([[0, 2, 3], [0, 5, 6]], [0, 0, 0])}
    assert shrink(MLP((3,), 2), params, None)[0].features == (3,)
    masks = jax.tree.map(lambda w: w != 0, params)
    assert shrink(MLP((3,), 2), params, masks)[0].features == (2,)


def test_a_layer_is_never_emptied_and_keeps_its_first_unit():
    masks = {"Dense_0": {"kernel": jnp.zeros((2, 3), bool)}}
    small, params = shrink(MLP((3,), 2, "sigmoid"), TWO_LAYERS, masks)
    assert small.features == (1,)
    np.testing.assert_array_equal(params["Dense_0"]["kernel"], [[0], [0]])
    np.testing.assert_array_equal(params["Dense_0"]["bias"], [0])
    (row,) = shrink_plan(MLP((3,), 2, "sigmoid"), TWO_LAYERS, masks)
    assert row == ("Dense_0", 3, 1, "1 is left: a layer is never emptied")


def test_removal_goes_on_through_the_layers_both_ways():
    params = {
        "Dense_0": dense(np.ones((2, 3)), [1, 2, 3]),
        "Dense_1": dense(np.ones((3, 3)), [0, 0, 7]),
        "Dense_2": dense(np.ones((3, 2)), [0, 0]),
    }
    model = MLP((3, 3), 2, "identity")
    # Neuron 0 of the second layer reads neuron 0 of the first only, which is the constant 1: so it is 0 + 1.
    only_first = jnp.array([[True, True, True], [False, True, True], [False, True, True]])
    masks = {"Dense_0": {"kernel": columns((2, 3), 0)}, "Dense_1": {"kernel": only_first}}
    small, new = shrink(model, params, masks)
    assert small.features == (2, 2)
    assert new["Dense_1"]["bias"].tolist() == [1, 8] and new["Dense_2"]["bias"].tolist() == [1, 1]
    # Neuron 2 of the first layer is read by neuron 2 of the second only, which no one reads.
    to_last = jnp.array([[True, True, False], [True, True, False], [False, False, True]])
    small, new = shrink(model, params, {"Dense_1": {"kernel": to_last}, "Dense_2": {"kernel": rows((3, 2), 2)}})
    assert small.features == (2, 2) and new["Dense_1"]["bias"].tolist() == [0, 0]


def test_a_pruned_bias_is_zero_and_takes_no_constant_in():
    bias = jnp.array([True, False, True])
    masks = {"Dense_0": {"kernel": columns((2, 3), 1), "bias": bias}}
    small, params = shrink(MLP((3,), 2, "identity"), TWO_LAYERS, masks)
    assert small.features == (2,)
    np.testing.assert_array_equal(params["Dense_1"]["bias"], TWO_LAYERS["Dense_1"]["bias"])
    masks = {"Dense_0": {"kernel": columns((2, 3), 1)}, "Dense_1": {"bias": jnp.array([True, False])}}
    (row,) = shrink_plan(MLP((3,), 2, "identity"), TWO_LAYERS, masks)
    assert row == ("Dense_0", 3, 3, "1 constant, but is read by a layer whose bias is pruned: Dense_1")


def conv_net(padding, kernel=3, bias=0.5, **options):
    model = ConvNet((2, 2), (4,), kernel=kernel, padding=padding, num_classes=3, **options)
    x = jax.random.normal(jax.random.key(1), (2, 14, 14, 1))
    params, _ = start(model, x.shape)
    params["Conv_0"]["bias"] = jnp.array([0.1, bias])
    params["Conv_1"]["bias"] = jnp.array([bias, 0.2])
    return model, params, x


@pytest.mark.parametrize(
    ("padding", "kernel", "bias", "before_conv", "after"),
    [
        ("SAME", 3, 0.5, 2, "read through zero padding"),
        ("SAME", 3, -0.5, 1, ""),  # relu(-0.5) = 0, and zero padding is of zeros
        ("SAME", 1, 0.5, 1, ""),
        ("VALID", 3, 0.5, 1, ""),
        (None, 3, 0.5, 2, "give x"),
        (None, 3, -0.5, 1, ""),
    ],
)
def test_a_constant_channel_folds_only_where_no_zeros_are_padded(padding, kernel, bias, before_conv, after):
    model, params, x = conv_net(padding, kernel, bias)
    masks = {
        "Conv_0": {"kernel": columns(params["Conv_0"]["kernel"].shape, 1)},
        "Conv_1": {"kernel": columns(params["Conv_1"]["kernel"].shape, 0)},
    }
    small, new = shrink(model, params, masks)
    assert small.channels == (before_conv, 1)  # behind the last convolution it goes into Dense_0's bias, always
    assert after in shrink_plan(model, params, masks)[0].why
    masked = {**params}
    for name in masks:
        masked[name] = {**params[name], "kernel": jnp.where(masks[name]["kernel"], params[name]["kernel"], 0.0)}
    shrunk_outputs, masked_outputs = (
        jax.jit(m.apply)({"params": p}, x) for m, p in ((small, new), (model, masked))
    )
    np.testing.assert_allclose(shrunk_outputs, masked_outputs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("pixels", "remaining"), [(14, 1), (6, 2)])
def test_an_input_says_what_padding_none_is(pixels, remaining):
    model = ConvNet((2, 2), (4,), kernel=3, padding=None)
    x = jax.ShapeDtypeStruct((2, pixels, pixels, 1), jnp.float32)
    params, _ = start(model, x.shape)
    params["Conv_0"]["bias"] = jnp.array([0.1, 0.5])
    masks = {"Conv_0": {"kernel": columns((3, 3, 1, 2), 1)}}
    small, new = shrink(model, params, masks, x=x)
    assert small.channels == (remaining, 2)
    assert jax.eval_shape(small.apply, {"params": new}, x).shape == (2, 10)


def test_flattening_makes_rows_for_every_pixel():
    model, params, _ = conv_net("SAME")  # 14 -> 7 -> 3: Dense_0 reads 3 * 3 pixels of 2 channels
    masks = {"Conv_1": {"kernel": columns((3, 3, 2, 2), 0)}}
    _, new = shrink(model, params, masks)
    kernel, bias = params["Dense_0"]["kernel"], params["Dense_0"]["bias"]
    np.testing.assert_array_equal(new["Dense_0"]["kernel"], kernel[1::2])
    np.testing.assert_allclose(new["Dense_0"]["bias"], bias + 0.5 * kernel[0::2].sum(0), rtol=1e-5, atol=1e-6)


def elman(bias=0.5):
    params = {
        "Recurrent_0": {
            "kernel": jnp.ones((2, 3)),
            "recurrent_kernel": jnp.ones((3, 3)),
            "bias": jnp.array([0.1, bias, 0.2]),
        },
        "Dense_0": dense(np.ones((3, 1)), [0]),
    }
    return RNN("rnn", (3,), 1), params


def test_an_elman_unit_is_constant_after_the_first_step_only():
    model, params = elman()
    masks = {"kernel": columns((2, 3), 1), "recurrent_kernel": columns((3, 3), 1)}
    (row,) = shrink_plan(model, params, {"Recurrent_0": masks})
    assert row.after == 3 and "when it is still 0" in row.why
    # Where its own layer does not read it, the next may take its constant in.
    masks["recurrent_kernel"] = masks["recurrent_kernel"] & rows((3, 3), 1)
    small, new = shrink(model, params, {"Recurrent_0": masks})
    assert small.features == (2,)
    np.testing.assert_allclose(new["Dense_0"]["bias"], np.tanh(np.float32(0.5)), rtol=1e-6)
    # Without a bias it is always 0, also where it reads itself.
    model, params = elman(0.0)
    masks["recurrent_kernel"] = columns((3, 3), 1).at[1, 1].set(True)
    assert shrink(model, params, {"Recurrent_0": masks})[0].features == (2,)


def test_a_state_unit_that_only_itself_reads_goes():
    model, params = elman()
    masks = {
        "Recurrent_0": {"recurrent_kernel": rows((3, 3), 1).at[1, 1].set(True)},
        "Dense_0": {"kernel": rows((3, 1), 1)},
    }
    assert shrink(model, params, masks)[0].features == (2,)
    masks["Recurrent_0"]["recurrent_kernel"] = rows((3, 3), 1).at[1, 0].set(True)
    assert shrink(model, params, masks)[0].features == (3,)


def test_units_that_feed_only_one_another_go_together():
    model, params = elman(0.0)
    params["Recurrent_0"]["bias"] = jnp.zeros(3)
    cycle = jnp.array([[False, True, True], [True, False, True], [False, False, True]])
    masks = {"kernel": columns((2, 3), 0, 1), "recurrent_kernel": cycle}
    small, new = shrink(model, params, {"Recurrent_0": masks})
    assert small.features == (1,) and new["Recurrent_0"]["recurrent_kernel"].tolist() == [[1]]


@pytest.mark.parametrize(("cell", "gates", "gate"), [("gru", 3, 2), ("lstm", 4, 2)])
def test_a_gated_unit_stays_at_zero_if_its_new_value_does(cell, gates, gate):
    model = RNN(cell, (3,), 2)
    params, _ = start(model, (1, 5, 4))
    if cell == "gru":
        params["Recurrent_0"]["recurrent_bias"] = jnp.zeros(3)
    unit = gate * 3 + 1
    masks = {
        "kernel": columns((4, 3 * gates), unit),
        "recurrent_kernel": columns((3, 3 * gates), unit),
    }
    (row,) = shrink_plan(model, params, {"Recurrent_0": masks})
    assert row.after == 3 and "bias that is not 0" in row.why
    params["Recurrent_0"]["bias"] = params["Recurrent_0"]["bias"].at[unit].set(0)
    small, new = shrink(model, params, {"Recurrent_0": masks})
    assert small.features == (2,)
    remaining = np.delete(np.arange(3 * gates), [g * 3 + 1 for g in range(gates)])
    np.testing.assert_array_equal(new["Recurrent_0"]["kernel"], params["Recurrent_0"]["kernel"][:, remaining])
    np.testing.assert_array_equal(new["Recurrent_0"]["bias"], params["Recurrent_0"]["bias"][remaining])
    assert new["Recurrent_0"]["recurrent_kernel"].shape == (2, 2 * gates)
    if cell == "gru":
        params["Recurrent_0"]["recurrent_bias"] = jnp.array([0.0, 0.1, 0.0])
        assert shrink(model, params, {"Recurrent_0": masks})[0].features == (3,)


def test_tied_layers_fold_a_constant_only_if_it_is_the_same_in_every_use():
    model = TiedMLP(3, 3, 1, "identity")
    params = {
        "Dense_0": dense(np.ones((2, 3)), [0, 2, 0]),
        "shared": dense(np.ones((3, 3)), [0, 2, 0]),
        "Dense_1": dense([[1], [5], [1]], [0]),
    }
    masks = {"Dense_0": {"kernel": columns((2, 3), 1)}, "shared": {"kernel": columns((3, 3), 1)}}
    small, new = shrink(model, params, masks)
    assert small.width == 2
    assert new["shared"]["bias"].tolist() == [2, 2] and new["Dense_1"]["bias"].tolist() == [10]
    params["Dense_0"]["bias"] = jnp.array([0.0, 1.0, 0.0])
    (row,) = shrink_plan(model, params, masks)
    assert row.after == 3 and "differs from use to use" in row.why


def test_xor_shrinks():
    params = {"Dense_0": dense(np.ones((2, 3)), [0, 0, 0]), "Dense_1": dense([[1], [1], [3]], [0])}
    small, new = shrink(XOR(), params, {"Dense_0": {"kernel": columns((2, 3), 2)}})
    assert small.hidden == 2 and new["Dense_1"]["bias"].tolist() == [1.5]  # sigmoid(0) * 3


def resnet(**options):
    model = ResNet(width=4, blocks=(1, 1), num_classes=3, **options)
    params, state = start(model, (1, 8, 8, 1))
    state = jax.tree_util.tree_map_with_path(lambda path, a: jnp.full_like(a, "var" in str(path)), state)
    params = jax.tree_util.tree_map_with_path(lambda path, a: jnp.full_like(a, "bias" not in str(path)), params)
    return model, params, state


def test_a_channel_inside_a_block_goes_where_its_normalization_leaves_nothing():
    model, params, state = resnet()
    params["Block_0"]["BatchNorm_0"]["bias"] = jnp.array([-1.0, 1.0, 0.0, 0.0])
    state["batch_stats"]["Block_0"]["BatchNorm_0"]["mean"] = jnp.array([0.0, 0.0, 3.0, -3.0])
    masks = {"Block_0": {"Conv_0": {"kernel": columns((3, 3, 4, 4), 0, 1, 2, 3)}}}
    small = shrink_all(model, params, masks, model_state=state)
    assert small.model.inner == (2, 8) and small.model.streams == (4, 8)  # relu(-1) and relu(0 - 3) are 0
    assert small.model_state["batch_stats"]["Block_0"]["BatchNorm_0"]["mean"].tolist() == [0, -3]
    assert small.params["Block_0"]["Conv_1"]["kernel"].shape == (3, 3, 2, 4)
    row = shrink_plan(model, params, masks, model_state=state)[2]
    assert row == ("Block_0/Conv_0", 4, 2, "2 constant, but is read through zero padding: Block_0/Conv_1")


def test_a_stream_channel_goes_only_if_all_its_writers_leave_it_alone():
    model, params, state = resnet()
    stem = {"Conv_0": {"kernel": columns((3, 3, 1, 4), 2)}}
    row = shrink_plan(model, params, stem, model_state=state)[0]
    assert (row.layer, row.after, row.why) == ("stage_0", 4, "1 still written by Block_0/Conv_1")
    both = {**stem, "Block_0": {"Conv_1": {"kernel": columns((3, 3, 4, 4), 2)}}}
    small = shrink_all(model, params, both, model_state=state)
    assert small.model.streams == (3, 8)
    assert small.removed[0].kept == (0, 1, 3)
    assert small.params["Block_1"]["shortcut"]["kernel"].shape == (1, 1, 3, 8)
    assert small.model_state["batch_stats"]["Block_0"]["BatchNorm_1"]["var"].shape == (3,)
    # A stream's last value may be another constant: behind it there is only the mean over the pixels.
    params["Block_1"]["BatchNorm_1"]["bias"] = jnp.full((8,), 0.5)
    last = {
        "Block_1": {
            "Conv_1": {"kernel": columns((3, 3, 8, 8), 5)},
            "shortcut": {"kernel": columns((1, 1, 4, 8), 5)},
        }
    }
    small = shrink_all(model, params, last, model_state=state)
    assert small.model.streams == (4, 7)
    np.testing.assert_allclose(
        small.params["Dense_0"]["bias"], params["Dense_0"]["bias"] + 0.5 * params["Dense_0"]["kernel"][5], rtol=1e-6
    )


def test_the_plan_is_a_table():
    masks = {"Dense_0": {"kernel": columns((2, 3), 1)}}
    text = describe_shrinking(shrink_plan(MLP((3,), 2), TWO_LAYERS, masks))
    assert text.splitlines() == [
        "layer    before  after  why not more",
        "Dense_0       3      2",
        "all           3      2",
    ]


def test_removed_cuts_masks_and_other_trees_too():
    masks = {"Dense_0": {"kernel": columns((2, 3), 1).at[0, 0].set(False)}}
    small = shrink_all(MLP((3,), 2), TWO_LAYERS, masks)
    assert small.removed == (
        Removed("Dense_0", 3, (0, 2), (("Dense_0/kernel", -1), ("Dense_0/bias", -1), ("Dense_1/kernel", -2))),
    )
    assert cut(masks, small.removed)["Dense_0"]["kernel"].tolist() == [[False, True], [True, True]]
    with pytest.raises(ValueError, match=r"Dense_0/bias.*\(2,\).* 3 .*Dense_0"):
        cut({"Dense_0": {"bias": jnp.ones(2)}}, small.removed)


def test_bfloat16_stays_bfloat16():
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), TWO_LAYERS)
    _, new = shrink(MLP((3,), 2), params, {"Dense_0": {"kernel": columns((2, 3), 1)}})
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype("bfloat16")}
    assert new["Dense_1"]["bias"].tolist() == [1.25, 10.75]


NAN = {**TWO_LAYERS, "Dense_0": dense(np.ones((2, 3)), [0, np.nan, 0])}
BAD = {
    "a Model": (from_linen(MLP((3,), 2)), TWO_LAYERS, {}, CouplingError, "pass the Linen module"),
    "another module": (object(), TWO_LAYERS, {}, CouplingError, "does not say how its axes are coupled"),
    "other sizes": (MLP((4,), 2), TWO_LAYERS, {}, CouplingError, r"Dense_0/kernel has shape \(2, 3\).*4 units"),
    "more layers": (MLP((3, 2), 2), TWO_LAYERS, {}, CouplingError, "'Dense_2/kernel', which is not there"),
    "other outputs": (MLP((3,), 5), TWO_LAYERS, {}, CouplingError, r"params/Dense_1/bias would have shape \(2,\)"),
    "other layer": (MLP((3,), 2), TWO_LAYERS, {"Dense_7": {"kernel": jnp.ones(2, bool)}}, ValueError, "Dense_7"),
    "other shape": (
        MLP((3,), 2),
        TWO_LAYERS,
        {"Dense_0": {"kernel": jnp.ones((3, 2), bool)}},
        ValueError,
        r"must have shape \(2, 3\), got \(3, 2\)",
    ),
    "not bool": (MLP((3,), 2), TWO_LAYERS, {"Dense_0": {"kernel": jnp.ones((2, 3))}}, ValueError, "must be bool"),
    "NaN": (MLP((3,), 2), NAN, {}, ValueError, "params/Dense_0/bias holds NaN"),
    "batch statistics": (ResNet(4, (1,)), {}, {}, ValueError, "shrink_all"),
}


@pytest.mark.parametrize(("model", "params", "masks", "error", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_reason(model, params, masks, error, match):
    with pytest.raises(error, match=match):
        shrink(model, params, masks)


def test_tracers_missing_statistics_and_a_missing_optimizer_are_refused():
    model, params, _ = resnet()
    with pytest.raises(ValueError, match="pass model_state"):
        shrink_all(model, params, {})
    with pytest.raises(CouplingError, match="batch_stats/BatchNorm_0/mean"):
        shrink_all(model, params, {}, model_state={})
    with pytest.raises(ValueError, match=r"params/Dense_0/bias.*traced"):
        jax.jit(lambda p: shrink(MLP((3,), 2), p, {})[1])(TWO_LAYERS)
    with pytest.raises(ValueError, match="pass optimizer"):
        shrink_all(MLP((3,), 2), TWO_LAYERS, {}, opt_state=optax.sgd(0.1).init(TWO_LAYERS))


class Scaled:
    """Anybody's model: two matrices named in their own way."""

    def __init__(self, size):
        self.size = size

    def init(self, key, x):
        del key
        return {"params": {"enter": jnp.ones((x.shape[-1], self.size)), "leave": jnp.ones((self.size, 1))}}

    def coupling(self, x=None):
        first, last = coupling.Layer(("enter",)), coupling.Layer(("leave",))
        point = coupling.Point((first,), (coupling.reads(last),), jnp.cos)
        return coupling.Coupling(
            (coupling.Group("hidden", self.size, (point,)),),
            lambda sizes: Scaled(sizes["hidden"]),
            lambda shape: (1, shape("enter")[0]),
        )


def test_any_object_that_declares_its_coupling_shrinks():
    params = Scaled(3).init(None, jnp.ones((1, 2)))["params"]
    small, new = shrink(Scaled(3), params, {"leave": rows((3, 1), 0)})
    assert small.size == 2 and new["enter"].shape == (2, 2)
    # cos(0) = 1, and there is no bias to put it in.
    (row,) = shrink_plan(Scaled(3), params, {"enter": columns((2, 3), 0)})
    assert row == ("hidden", 3, 3, "1 constant, but is read by a layer without a bias: leave")
