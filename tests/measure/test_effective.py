import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.measure import effective_flops, flops, flops_by_layer, flops_by_scope

pytestmark = pytest.mark.unoptimized


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        x = nn.relu(nn.Conv(6, (3, 3), strides=2, feature_group_count=2)(x))
        x = nn.RNN(nn.SimpleCell(5))(x.reshape(x.shape[0], -1, 6))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


@pytest.fixture(scope="module")
def case():
    x = jnp.ones((1, 6, 6, 2))
    params = Net().init(jax.random.key(0), x)["params"]

    def fn(p):
        return Net().apply({"params": p}, x)

    return params, flops_by_layer(flops_by_scope(fn, params), params), flops(fn, params)


def test_a_dense_model_costs_what_it_costs(case):
    params, by_layer, total = case
    assert effective_flops(by_layer, params) == by_layer
    assert sum(by_layer.values()) == total


def test_every_kept_entry_counts_once_for_each_use(case):
    params, by_layer, _ = case
    rng = np.random.default_rng(0)
    pruned = jax.tree.map(lambda w: np.where(rng.random(w.shape) < 0.4, w, 0) if w.ndim > 1 else w, params)
    uses = {"Conv_0": 36, "Conv_1": 9, "Dense_0": 1}  # output positions
    effective = effective_flops(by_layer, pruned)
    for layer, times in uses.items():
        assert effective[layer] == 2 * times * np.count_nonzero(pruned[layer]["kernel"]), layer
    (cell,) = (layer for layer in by_layer if layer.endswith("SimpleCell_0/h"))
    kernel = pruned["SimpleCell_0"]["h"]["kernel"]
    assert effective[cell] == 2 * 9 * np.count_nonzero(kernel)  # time steps


def test_exact_beyond_the_integers_of_a_float():
    params = {"Dense_0": {"kernel": np.float32([[1, 0, 0]])}}
    assert effective_flops({"Dense_0": 3 * (2**60 + 1)}, params) == {"Dense_0": 2**60 + 1}


def test_what_has_no_kernel_counts_in_full():
    params = {"Norm_0": {"scale": np.zeros(3)}, "Dense_0": {"bias": np.zeros(2), "kernel": np.zeros((2, 2))}}
    assert effective_flops({"Norm_0": 7, "Dense_0": 8, "": 5, "Other": 2}, params) == {
        "Norm_0": 7,
        "Dense_0": 0,
        "": 5,
        "Other": 2,
    }
    assert effective_flops({"": 5}, np.zeros((2, 2))) == {"": 5}


def test_several_kernels_of_a_layer_are_taken_as_one():
    cell = {"w": np.float32([[1, 0]]), "u": np.float32([[1, 1], [0, 0]])}
    assert effective_flops({"cell": 60}, {"cell": cell}) == {"cell": 30}
