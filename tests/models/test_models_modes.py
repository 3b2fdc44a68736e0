"""Models in training and in evaluation: the keyword that chooses, random streams, and the contract of `Model`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jopt import data, models, train
from jopt.models import Model, from_linen, from_nnx

pytestmark = pytest.mark.unoptimized

X = jax.random.normal(jax.random.key(7), (8, 4))
KEY = jax.random.key(1)
NAMES = ("train", "training", "is_training", "deterministic", "use_running_average")


def body(x, training):
    x = nn.BatchNorm(use_running_average=not training, momentum=0.9)(nn.Dense(3)(x))
    return nn.Dropout(0.5, deterministic=not training)(x)


class Train(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return body(x, train)


class Training(nn.Module):
    @nn.compact
    def __call__(self, x, training=False):
        return body(x, training)


class IsTraining(nn.Module):
    @nn.compact
    def __call__(self, x, is_training=False):
        return body(x, is_training)


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        return body(x, not deterministic)


class UseRunningAverage(nn.Module):
    @nn.compact
    def __call__(self, x, use_running_average=True):
        return body(x, not use_running_average)


class Keywords(nn.Module):
    @nn.compact
    def __call__(self, x, **kwargs):
        return body(x, kwargs.get("learn", False))


class Both(nn.Module):
    @nn.compact
    def __call__(self, x, train=False, deterministic=True):
        return nn.Dropout(0.5, deterministic=deterministic)(body(x, train))


LINEN = [(Train, "auto"), (Training, "auto"), (IsTraining, "auto"), (Deterministic, "auto")]
LINEN += [
    (UseRunningAverage, "auto"),
    (Keywords, "learn"),
    (Training, "training"),
    (Deterministic, "deterministic"),
]


@pytest.mark.parametrize(("module", "mode"), LINEN)
def test_every_mode_keyword_gives_the_bits_of_train(module, mode):
    reference = Train()
    variables = reference.init(KEY, X, train=False)
    y, moved = reference.apply(variables, X, train=True, rngs={"dropout": KEY}, mutable=["batch_stats"])
    model = from_linen(module(), mode=mode)
    params, state = model.init(KEY, X)
    assert jax.tree.structure((params, state)) == jax.tree.structure((variables["params"], moved))
    logits, new = model.apply(params, state, X, train=True, key=KEY)
    np.testing.assert_array_equal(logits, y)
    jax.tree.map(np.testing.assert_array_equal, new, moved)
    assert (np.asarray(y) == 0).sum() in range(4, 21), "half of 24"
    evaluated, same = model.apply(params, state, X, train=False)
    np.testing.assert_array_equal(evaluated, reference.apply(variables, X, train=False))
    jax.tree.map(np.testing.assert_array_equal, same, state)


def test_all_mode_keywords_of_a_module_are_given():
    model = from_linen(Both())
    params, state = model.init(KEY, X)
    many = jnp.ones((512, 4))
    zeros = (np.asarray(model.apply(params, state, many * X[:1], train=True, key=KEY)[0]) == 0).mean()
    assert abs(zeros - 0.75) < 0.06, "two dropouts of one half"
    assert (np.asarray(model.apply(params, state, X, train=False)[0]) != 0).all()


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, training=False):
        return nn.Dropout(0.5, deterministic=not training)(nn.Dense(3)(x))


class Attends(nn.Module):
    rate: float

    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(1, dropout_rate=self.rate, deterministic=True)(x[:, None])[:, 0]


HIDDEN = {
    "keywords": (Keywords(), "BatchNorm_0 (BatchNorm)"),
    "dropout": (nn.Sequential([nn.Dense(3), nn.Dropout(0.5, deterministic=True)]), "layers_1 (Dropout)"),
    "norm": (nn.Sequential([nn.Dense(3), nn.BatchNorm(use_running_average=True)]), "layers_1 (BatchNorm)"),
    "block": (nn.Sequential([nn.Dense(3), Block()]), "layers_1 (Block)"),
    "attention": (Attends(0.1), "MultiHeadDotProductAttention_0 (MultiHeadDotProductAttention)"),
}


@pytest.mark.parametrize("name", sorted(HIDDEN))
def test_layers_whose_mode_nothing_can_switch_are_refused(name):
    module, layer = HIDDEN[name]
    with pytest.raises(ValueError) as error:
        from_linen(module).init(KEY, X)
    message = str(error.value)
    assert message.startswith(
        f"{layer} differs between training and evaluation, but {type(module).__name__}.__call__ "
    )
    assert "from_linen(module, mode='...')" in message and "\n" not in message


def test_layers_that_stay_as_they_are_run_where_that_is_said_or_cannot_matter():
    frozen = nn.Sequential([nn.Dense(3), nn.BatchNorm(use_running_average=True)])
    none = nn.Sequential([nn.Dense(3), nn.Dropout(0.0, deterministic=True)])
    for model in (from_linen(frozen, mode=None), from_linen(none), from_linen(Attends(0.0))):
        params, state = model.init(KEY, X)
        outputs = [model.apply(params, state, X, train=train, key=KEY)[0] for train in (True, False)]
        np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("build", [lambda: from_linen(Train(), mode="learn"), lambda: nnx_model(NNXTrain, "learn")])
def test_a_keyword_that_the_module_does_not_take_is_refused(build):
    with pytest.raises(ValueError, match=r"mode.*\.__call__ \(x, train\).*'learn'"):
        build().apply({}, {}, X, train=True)


class Noise(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        y = body(x, train)
        return (y, *(jax.random.normal(self.make_rng(name), y.shape) for name in ("noise", "mask"))) if train else y


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        out = Noise(name="inner")(x, train=train)
        return jnp.concatenate(out, 1) if train else out


def test_random_streams_of_any_name_are_functions_of_the_key_and_dropout_keeps_its_bits():
    model = from_linen(Noisy())
    params, state = model.init(KEY, X)
    a, b, c = (np.asarray(model.apply(params, state, X, train=True, key=jax.random.key(k))[0]) for k in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a[:, 3:] != c[:, 3:]).all() and (a[:, 3:6] != a[:, 6:]).all()


class Sown(nn.Module):
    collection: str

    @nn.compact
    def __call__(self, x, *, train=False):
        y = nn.Dense(10)(x.reshape(x.shape[0], -1))
        self.sow(self.collection, "aux", (y**2).mean())
        return y


class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x), x


class Draws(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x) + jax.random.normal(self.make_rng("noise"), (x.shape[0], 3))


class Moves(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.BatchNorm(use_running_average=False)(x)


def plain(change=lambda logits, state, train: (logits, state), start=lambda params, state: (params, state)):
    """A model of two functions, one of which is changed."""

    def init(key, x):
        return start({"w": jnp.ones((4, 3))}, {"seen": jnp.zeros(3)})

    def apply(params, state, x, *, train, key=None):
        return change(x @ params["w"], state, train)

    return Model(init, apply)


class NNXTrain(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, train=False):
        return self.dropout(self.dense(x), deterministic=not train)


class NNXSown(nnx.Module):
    def __init__(self, rngs, kind):
        self.dense, self.kind = nnx.Linear(4, 3, rngs=rngs), kind

    def __call__(self, x):
        self.aux = self.kind(x.mean())
        return self.dense(x)


class NNXTwo(NNXTrain):
    def __call__(self, x, train=False):
        return super().__call__(x, train), x


class Loss(nnx.Variable):
    pass


def nnx_model(kind, mode="auto"):
    return from_nnx(lambda rngs: kind(rngs), mode=mode)


def test_nnx_modules_are_given_their_mode_keyword_too():
    model = nnx_model(NNXTrain)
    params, state = model.init(KEY, X)
    trained, other = (
        np.asarray(model.apply(params, state, X, train=True, key=jax.random.key(k))[0]) for k in (0, 1)
    )
    assert (trained != other).any() and (trained == 0).any()
    expected = X @ params["dense"]["kernel"]  # Biases start at 0.
    np.testing.assert_allclose(model.apply(params, state, X, train=False)[0], expected, rtol=1e-5)


def float16(logits, state, train):
    return logits, {"seen": state["seen"].astype(jnp.float16)} if train else state


GOOD = {
    "linen": from_linen(Train()),
    "linen intermediates": from_linen(Sown("intermediates")),
    "linen losses": from_linen(Sown("losses")),
    "nnx": nnx_model(NNXTrain),
    "nnx intermediates": from_nnx(lambda rngs: NNXSown(rngs, nnx.Intermediate)),
    "functions": plain(),
}
BAD = {
    "linen sows": (from_linen(Sown("seen")), "with train=True the model's state gets seen/aux/1: it must keep"),
    "linen gives two": (from_linen(Two()), "the module must give one array, its logits, got a tuple"),
    "linen draws in evaluation": (from_linen(Draws()), 'with train=False: None needs PRNG for "noise"'),
    "linen moves in evaluation": (from_linen(Moves()), "with train=False: .*[Cc]annot update variable"),
    "nnx sows": (from_nnx(lambda rngs: NNXSown(rngs, Loss)), "with train=True the model's state gets aux"),
    "nnx gives two": (nnx_model(NNXTwo), "the module must give one array, its logits, got a tuple"),
    "no pair": (plain(lambda y, s, t: y), r"apply must give a pair, \(logits, model_state\), got"),
    "no pair of init": (plain(start=lambda p, s: p), r"init must give a pair, \(params, model_state\), got dict"),
    "two": (plain(lambda y, s, t: ((y, y), s)), "one floating array of logits for its 8 examples, got a tuple"),
    "integers": (plain(lambda y, s, t: (y.argmax(-1), s)), r"for its 8 examples, got int32\[8\]"),
    "mean": (plain(lambda y, s, t: (y.mean(0), s)), r"for its 8 examples, got float32\[3\]"),
    "other logits": (
        plain(lambda y, s, t: (y[:, :2] if t else y, s)),
        r"\(8, 2\) with train=True and \(8, 3\) with",
    ),
    "state lost": (plain(lambda y, s, t: (y, s if t else {})), "with train=False the model's state loses seen"),
    "state of another dtype": (plain(float16), r"state seen becomes float16\[3\]: init gave float32\[3\]"),
    "state of another container": (plain(lambda y, s, t: (y, list(s.values()))), "state gets 0 and loses seen"),
}


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_model_that_keeps_the_contract_passes(name):
    logits = models.check(GOOD[name], X)
    assert logits.shape[0] == 8 and logits.dtype == jnp.float32


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_model_that_breaks_the_contract_is_refused_in_one_line(name):
    model, match = BAD[name]
    with pytest.raises(ValueError, match=match) as error:
        models.check(model, jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert "\n" not in str(error.value)


def test_a_run_refuses_such_a_model_before_it_writes_anything(tmp_path):
    experiment = train.Experiment(data=data.Digits(), epochs=1)
    with pytest.raises(ValueError, match="gets seen/aux/1"):
        train.run(experiment, tmp_path / "run", model=from_linen(Sown("seen")), quiet=True)
    assert not list(tmp_path.glob("run/*"))
