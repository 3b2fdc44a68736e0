"""A model of whatever a reference names: classes of three frameworks, functions, modules, pairs of functions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx

from jopt.models import Model, check, from_any, from_functions, from_linen

pytestmark = pytest.mark.unoptimized
X = jnp.ones((2, 4))


class Linen(nn.Module):
    width: int
    classes: int = 3

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        return nn.Dropout(0.5, deterministic=not train)(nn.Dense(self.classes)(nn.relu(nn.Dense(self.width)(x))))


class Nnx(nnx.Module):
    def __init__(self, width: int, classes: int = 3, *, rngs: nnx.Rngs):
        self.up, self.down = nnx.Linear(4, width, rngs=rngs), nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x):
        return self.down(nnx.relu(self.up(x)))


class Equinox(eqx.Module):
    mlp: eqx.nn.MLP

    def __init__(self, width: int, classes: int = 3, *, key):
        self.mlp = eqx.nn.MLP(4, classes, width, 1, key=key)

    def __call__(self, x):
        return self.mlp(x)


class PairOutput(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x), x


class Unrelated:
    pass


def a_model(width: int) -> Model:
    return from_linen(Linen(width))


def a_linen_module(width: int) -> nn.Module:
    return Linen(width)


def an_nnx_module(width: int, rngs: nnx.Rngs) -> nnx.Module:
    return Nnx(width, rngs=rngs)


def an_equinox_module(width: int, *, key) -> eqx.Module:
    return Equinox(width, key=key)


def a_pair(width: int):
    def init(key, x):
        return {"w": jax.random.normal(key, (x.shape[-1], width)), "v": jnp.ones((width, 3))}

    return init, lambda params, x: x @ params["w"] @ params["v"]


def a_pair_with_a_state(width: int):
    def init(key):
        return {"w": jnp.ones((4, 3))}, {"steps": jnp.float32(width)}

    def apply(params, state, x, *, train):
        return x @ params["w"], {"steps": state["steps"] + 1.0} if train else state

    return init, apply


def a_number(width: int):
    return width


FUNCTIONS = (a_model, a_linen_module, an_nnx_module, an_equinox_module, a_pair, a_pair_with_a_state)


@pytest.mark.parametrize("target", [Linen, Nnx, Equinox, *FUNCTIONS], ids=lambda t: t.__name__)
def test_each_kind_is_a_model_that_takes_its_options(target):
    model = from_any(target, {"width": 5})
    assert check(model, X) == jax.ShapeDtypeStruct((2, 3), jnp.float32)
    first, second = (model.init(jax.random.key(seed), X)[0] for seed in (0, 1))
    shapes = [leaf.shape for leaf in jax.tree.leaves(first)]
    assert any(5 in shape for shape in shapes) or target is a_pair_with_a_state
    # Weights come from the run's seed, so that seeds of a grid differ.
    same = jax.tree.map(lambda a, b: bool((a == b).all()), first, second)
    assert not all(jax.tree.leaves(same)) or target is a_pair_with_a_state


def test_what_is_made_already_is_its_own_model():
    model = a_model(5)
    assert from_any(model) is model
    for value in (Linen(5), Nnx(5, rngs=nnx.Rngs(0)), Equinox(5, key=jax.random.key(0)), a_pair(5)):
        assert check(from_any(value), X).shape == (2, 3)


@pytest.mark.parametrize("target", [Linen, Nnx, Equinox, a_model, an_nnx_module], ids=lambda t: t.__name__)
def test_a_wrong_option_names_those_that_there_are(target):
    with pytest.raises(ValueError, match=r"no option 'widht'; it takes: width"):
        from_any(target, {"widht": 5})
    with pytest.raises(ValueError, match="needs the option width"):
        from_any(target)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (3, {}, "int"),
        ("tests.models:Linen", {}, "str"),
        (Unrelated, {}, "Unrelated must be a class of Linen"),
        (a_number, {"width": 3}, "a_number must give.*int"),
        (Nnx, {"width": 5, "rngs": 1}, "rngs.*seed"),
        (Linen(5), {"width": 5}, "made already"),
        (lambda: (lambda key: {}, lambda x: x), {}, "apply must take"),
    ],
)
def test_anything_else_is_one_clear_line(target, options, message):
    with pytest.raises(ValueError, match=message) as error:
        from_any(target, options)
    assert "\n" not in str(error.value)


def test_outputs_that_are_not_one_array_are_found_by_the_check():
    with pytest.raises(ValueError, match=r"one array.*tuple"):
        check(from_any(PairOutput), X)


def test_functions_get_the_keywords_that_they_take():
    seen = []

    def apply(params, x, *, train, key):
        seen.append((train, key is not None))
        return x @ params["w"]

    model = from_functions(lambda key: {"w": jnp.ones((4, 3))}, apply)
    check(model, X)
    assert seen == [(True, True), (False, False)]


def bytes_network():
    class Bytes(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(256)(nn.Embed(256, 8)(x))

    return from_linen(Bytes())


def test_tokens_and_outputs_of_any_shape_pass_the_check():
    tokens = jax.ShapeDtypeStruct((2, 7), jnp.int32)
    assert check(bytes_network(), tokens) == jax.ShapeDtypeStruct((2, 7, 256), jnp.float32)


def test_a_pytree_of_inputs_passes_the_check():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(jnp.concatenate([x["numbers"], nn.Embed(9, 2)(x["kind"])], -1))

    x = {"numbers": jax.ShapeDtypeStruct((2, 4), jnp.float32), "kind": jax.ShapeDtypeStruct((2,), jnp.int32)}
    assert check(from_linen(Two()), x).shape == (2, 3)
    equinox = from_any(lambda key: Equinox(5, key=key))
    wrapped = Model(equinox.init, lambda p, s, x, **options: equinox.apply(p, s, x["numbers"], **options))
    assert check(wrapped, x).shape == (2, 3)


def test_layers_of_a_pytree_of_inputs_are_traced():
    from jopt import layers, quantize

    def init(key, x):
        return {"w": jnp.ones((4, 3)), "embedding": jnp.ones((9, 3))}, {}

    def apply(params, state, x, *, train, key=None):
        return x["numbers"] @ params["w"] + params["embedding"][x["kind"]], state

    x = {"numbers": jnp.ones((2, 4)), "kind": jnp.zeros(2, jnp.int32)}
    known = layers.trace(Model(init, apply), x)
    assert known["w"].contract == (0,) and known["embedding"].role == "embedding"

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x["numbers"])

    model = from_linen(Net())
    params, state = model.init(jax.random.key(0), x)
    _, state = quantize.Activations(examples=1).calibrate(model, params, state, x)
    assert set(state["activation_ranges"]) == {"Dense_0"}
