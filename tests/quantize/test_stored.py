"""The simulation, the integers and the file are of one Spec, which is said once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import cluster, codec, hold, prune
from jopt.quantize import Spec, absmax, binary, dequantize, integers, quantize, ternary, weights
from jopt.rules import named_leaves
from jopt.transform import chain, identity

_RANDOM = np.random.default_rng(3)
PARAMS = {
    "a": {"bias": jnp.ones(6), "kernel": jnp.asarray(_RANDOM.normal(size=(40, 6)), jnp.float32)},
    "b": {"kernel": jnp.asarray(_RANDOM.normal(size=(6, 8)), jnp.float32)},
}
PRUNED = prune.one_shot(0.5)
CASES = {
    "few bits": weights(Spec(2, axis=-1)),
    "not narrow": weights(Spec(3, axis=-1, narrow=False)),
    "array of bits": weights(Spec(np.int32(4), axis=-1)),  # type: ignore[arg-type]
    "held ranges, after pruning": chain(PRUNED, weights(Spec(4, axis=-1), calibration="mse")),
    "asymmetric groups": weights(Spec(3, symmetric=False, axis=-1, group=2)),
    "asymmetric, then pruned": chain(weights(Spec(4, symmetric=False)), PRUNED),
    "one bit, held": hold(chain(PRUNED, weights(Spec(1, axis=-1)))),
    "signs": binary(),
    "signs with scales and integers": chain(
        binary([("a/kernel", False)], scaled=True), weights(None, [("b.*", None)])
    ),
    "three values": chain(PRUNED, ternary(axis=-1)),
}


@pytest.mark.parametrize("name", CASES)
def test_integers_and_file_are_those_of_the_simulation(name):
    see = CASES[name]
    state = see.update(see.init(PARAMS), PARAMS, step=0)
    later = jax.tree.map(lambda x: 1.5 * x[::-1], PARAMS)  # ranges that are held are not those of the moment
    seen, storage = see.apply(state, later), see.storage(state, later)
    found = integers(see, state, later)
    assert sorted(found) == sorted(storage) == ["a/kernel", "b/kernel"]
    leaves = dict(named_leaves(seen))
    for path, q in found.items():
        assert np.asarray(dequantize(q)).tobytes() == np.asarray(leaves[path]).tobytes()
        assert q.codes.dtype in (jnp.int8, jnp.uint8)
    packed = codec.encode(seen, storage=storage)
    file = codec.decode(packed.data)
    for path, q in found.items():
        np.testing.assert_array_equal(file.integers[path].codes, q.codes)
        np.testing.assert_array_equal(file.integers[path].scale, q.scale)
    specs, ranges = ({path: getattr(s, name) for path, s in storage.items()} for name in ("spec", "range"))
    assert packed.data == codec.encode(seen, specs=specs, ranges=ranges).data


def test_the_file_of_integers_is_as_small_as_their_codes():
    params = {"kernel": jnp.asarray(_RANDOM.normal(size=(128, 64)), jnp.float32)}
    see = weights(Spec(8, axis=-1))
    seen = see.apply({}, params)
    size = len(codec.encode(seen, storage=see.storage({}, params)).data)
    assert size < 128 * 64 + 4 * 64 + 100 < len(codec.encode(seen).data) / 2


def test_what_is_not_on_its_grid_any_more_is_no_integer():
    see = chain(weights(Spec(4)), cluster.share(3))
    state = see.update(see.init(PARAMS), PARAMS, step=0)
    assert sorted(see.storage(state, PARAMS)) == ["a/kernel", "b/kernel"] and integers(see, state, PARAMS) == {}


def test_the_last_to_quantize_a_parameter_says_how():
    see = chain(weights(Spec(8)), weights(Spec(2), calibration="absmax"))
    storage = see.storage(see.init(PARAMS), PARAMS)
    assert [s.spec for s in storage.values()] == [Spec(2)] * 2
    eight = weights(Spec(8)).apply({}, PARAMS)["a"]["kernel"]
    np.testing.assert_array_equal(storage["a/kernel"].range.high, absmax(eight, Spec(2)).high)


def test_without_quantization_nothing_is_stored_as_integers():
    for see in (identity(), PRUNED, chain(), chain(PRUNED, identity())):
        assert see.storage is None and integers(see, see.init(PARAMS), PARAMS) == {}
    for bits in (None, 32, np.int32(32)):
        see = weights(Spec(bits))  # type: ignore[arg-type]
        assert see.storage(see.init(PARAMS), PARAMS) == {}


def test_a_path_is_said_once():
    q = quantize(PARAMS["b"]["kernel"], Spec(4))
    seen = {"w": dequantize(q)}
    storage = {"w": q}  # whatever has a spec and a range
    assert codec.encode(seen, storage=storage).data == codec.encode(seen, specs={"w": q.spec}).data
    with pytest.raises(ValueError, match=r"storage.*specs.*'w'"):
        codec.encode(seen, specs={"w": q.spec}, storage=storage)
    with pytest.raises(ValueError, match=r"storage.*'v'"):
        codec.encode(seen, storage={"v": q})
