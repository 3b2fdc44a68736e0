"""Distillation: sum over classes, mean over the batch, times T squared; and no gradient into the teacher."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from jopt import distill
from jopt.config import ConfigError, from_dict, to_dict
from jopt.distill import Features, LogitMSE, SoftTargets
from jopt.hyper import join, split

pytestmark = pytest.mark.unoptimized

LOSSES = {
    "loss": lambda s, t: distill.loss(s, t, 3.0),
    "mse": distill.mse,
    "feature_mse": distill.feature_mse,
    "similarity": distill.similarity,
    "attention": lambda s, t: distill.attention(s[..., None], t[..., None]),
}


def logits(seed, shape=(6, 5), scale=3.0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(0, scale, shape), jnp.float32) for _ in range(2)]


def reference(student, teacher, temperature):
    """In float64, from the formula."""
    s, t = (np.asarray(x, np.float64) / temperature for x in (student, teacher))
    return temperature**2 * (softmax(t, -1) * (log_softmax(t, -1) - log_softmax(s, -1))).sum(-1).mean()


# Soft targets.


def test_by_hand():
    student, teacher = jnp.zeros((1, 2)), jnp.log(jnp.array([[3.0, 1.0]]))
    wanted = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert float(distill.loss(student, teacher, 1.0)) == pytest.approx(wanted, rel=1e-6)
    # Twice the logits at twice the temperature: the same two distributions, and the factor.
    assert float(distill.loss(2 * student, 2 * teacher, 2.0)) == pytest.approx(4 * wanted, rel=1e-6)
    # The batch's mean, with an example that is learned already: half. Over batch and classes it would be a quarter.
    both = jnp.concatenate([student, teacher]), jnp.concatenate([teacher, teacher])
    assert float(distill.loss(*both, 1.0)) == pytest.approx(wanted / 2, rel=1e-6)
    # A class that neither believes in adds nothing, where a mean over classes would shrink it.
    more = [jnp.concatenate([x, jnp.full((1, 1), -80.0)], 1) for x in (student, teacher)]
    assert float(distill.loss(*more, 1.0)) == pytest.approx(wanted, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**16), st.floats(0.25, 50.0), st.sampled_from([(1, 2), (7, 10)]), st.floats(0.1, 30.0))
def test_against_the_formula_in_float64(seed, temperature, shape, scale):
    student, teacher = logits(seed, shape, scale)
    got = float(distill.loss(student, teacher, temperature))
    assert got == pytest.approx(reference(student, teacher, temperature), rel=1e-5, abs=1e-6 * temperature**2)
    assert got >= -1e-6 * temperature**2


@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0, 1e3])
def test_equal_logits_give_exactly_nothing(temperature):
    student, _ = logits(0)
    assert float(distill.loss(student, student, temperature)) == 0
    assert float(jax.jit(distill.loss)(student, jnp.array(student), temperature)) == 0
    slope = jax.grad(distill.loss)(student, student, temperature)
    np.testing.assert_allclose(slope, np.zeros((6, 5)), atol=1e-6 * temperature)


def test_a_constant_added_to_all_logits_changes_nothing():
    student, teacher = logits(1)
    got = distill.loss(student + 8, teacher - 16, 2.0)
    assert float(got) == pytest.approx(float(distill.loss(student, teacher, 2.0)), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_the_gradient_is_the_difference_of_probabilities(temperature):
    student, teacher = logits(2)
    q, p = (softmax(np.asarray(x, np.float64) / temperature, -1) for x in (student, teacher))
    slope = jax.grad(distill.loss)(student, teacher, temperature)
    np.testing.assert_allclose(slope, temperature * (q - p) / 6, rtol=1e-4, atol=1e-6)


def test_hot_gradients_tend_to_those_of_matching_logits():
    """Hinton, Vinyals and Dean 2015, eq. 4: (z - v) / N for logits of mean zero, N being the number of classes."""
    student, teacher = (x - x.mean(-1, keepdims=True) for x in logits(3))
    limit = np.asarray(student - teacher) / 5 / 6  # 5 classes, and the mean over 6 examples
    errors = []
    for temperature in (100.0, 200.0):
        slope = jax.grad(distill.loss)(student, teacher, temperature)
        errors.append(float(np.abs(slope - limit).max()))
    assert errors[1] < 0.6 * errors[0] < 0.6 * 0.05 * float(np.abs(limit).max())  # it falls as 1 / T
    np.testing.assert_allclose(jax.grad(distill.mse)(student, teacher), 2 * limit, rtol=1e-5, atol=1e-7)


def test_hot_gradients_do_not_fade():
    """Without the factor they would fall with T squared: by 100 here."""
    student, teacher = logits(4)
    cool, hot = (float(jnp.linalg.norm(jax.grad(distill.loss)(student, teacher, t))) for t in (10.0, 100.0))
    assert 0.5 < hot / cool < 2


def test_leading_axes_are_the_batch():
    student, teacher = logits(5, (2, 3, 5))
    flat = [x.reshape(6, 5) for x in (student, teacher)]
    assert float(distill.loss(student, teacher, 2.0)) == pytest.approx(float(distill.loss(*flat, 2.0)), rel=1e-6)


# Logits and features.


def test_mse_by_hand():
    assert float(distill.mse(jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[0.0, 4.0], [0.0, 3.0]]))) == 14 / 4


def test_mse_is_ba_and_caruanas_but_for_the_number_of_classes():
    student, teacher = logits(6)
    theirs = 0.5 * np.square(np.asarray(student - teacher, np.float64)).sum(-1).mean()
    assert float(distill.mse(student, teacher)) == pytest.approx(theirs * 2 / 5, rel=1e-6)


def test_a_regressor_takes_the_student_to_the_teachers_width():
    rng = np.random.default_rng(0)
    student, matrix = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((4, 2, 3), (3, 5)))
    teacher = jnp.asarray(np.asarray(student) @ np.asarray(matrix))
    assert float(distill.feature_mse(student, teacher, matrix)) < 1e-10
    off = np.asarray(teacher) + 1
    slope = jax.grad(distill.feature_mse, argnums=2)(student, jnp.asarray(off), matrix)
    wanted = -2 / off.size * np.einsum("abi,abj->ij", student, np.ones_like(off))
    np.testing.assert_allclose(slope, wanted, rtol=1e-4, atol=1e-5)


def gram_reference(student, teacher):
    out = []
    for x in (student, teacher):
        q = np.asarray(x, np.float64).reshape(len(x), -1)
        g = q @ q.T
        out.append(g / np.linalg.norm(g, axis=1, keepdims=True))
    return np.square(out[0] - out[1]).sum() / len(student) ** 2


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from([2, 7]))
def test_similarity_against_the_formula_in_float64(seed, batch):
    rng = np.random.default_rng(seed)
    student, teacher = (jnp.asarray(rng.normal(size=(batch, *s)), jnp.float32) for s in ((3,), (2, 2, 5)))
    got = float(distill.similarity(student, teacher))
    assert got == pytest.approx(gram_reference(student, teacher), rel=1e-4, abs=1e-7)
    assert 0 <= got <= 4 / batch + 1e-6


def test_similarity_does_not_see_scale_or_rotation():
    rng = np.random.default_rng(1)
    teacher = jnp.asarray(rng.normal(size=(5, 4)), jnp.float32)
    turned = jnp.asarray(teacher @ jnp.asarray(np.linalg.qr(rng.normal(size=(4, 4)))[0], jnp.float32))
    assert float(distill.similarity(4 * teacher, teacher)) == 0
    assert float(distill.similarity(turned, teacher)) < 1e-10
    assert float(distill.similarity(teacher[::-1], teacher)) > 1e-2


def test_attention_by_hand():
    student = jnp.array([[[3.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [0.0, 0.0]]])  # maps (9, 4) and (2, 0)
    teacher = jnp.array([[[3.0], [2.0]], [[0.0], [5.0]]])  # maps (9, 4) and (0, 25)
    assert float(distill.attention(student, teacher)) == 1.0  # mean of 0 and |(1, 0) - (0, 1)|^2
    maps = [x.reshape(2, 2, 1, -1) for x in (student, teacher)]
    assert float(distill.attention(*maps)) == 1.0


@pytest.mark.parametrize("name", ["similarity", "attention"])
def test_dead_features_have_finite_gradients(name):
    _, teacher = logits(7, (3, 4))
    student = jnp.zeros((3, 4)).at[1].set(1.0)
    value, slope = jax.value_and_grad(LOSSES[name])(student, teacher)
    assert np.isfinite(value) and np.isfinite(slope).all()
    assert float(LOSSES[name](jnp.zeros((3, 4)), jnp.zeros((3, 4)))) == 0


# What holds for all of them.


@pytest.mark.parametrize("name", LOSSES)
def test_no_gradient_reaches_the_teacher(name):
    student, teacher = logits(8)
    ours, theirs = jax.grad(LOSSES[name], argnums=(0, 1))(student, teacher)
    assert np.abs(ours).max() > 0
    assert not np.asarray(theirs).any()
    assert not np.asarray(jax.grad(lambda x: LOSSES[name](jax.lax.stop_gradient(x), x))(teacher)).any()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_against_finite_differences(name):
    student, teacher = logits(9, (3, 4), 1.0)
    direction = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
    step = 1e-2
    there, back = (float(LOSSES[name](student + s * step * direction, teacher)) for s in (1, -1))
    slope = float(jnp.vdot(jax.grad(LOSSES[name])(student, teacher), direction))
    assert slope == pytest.approx((there - back) / (2 * step), rel=1e-2, abs=1e-3)


@pytest.mark.optimized
@pytest.mark.parametrize("name", LOSSES)
def test_eager_is_jit(name):
    student, teacher = logits(10)
    eager, jitted = LOSSES[name](student, teacher), jax.jit(LOSSES[name])(student, teacher)
    # To the rounding of a sum whose order XLA chooses.
    np.testing.assert_allclose(eager, jitted, rtol=5e-7)
    assert eager.dtype == jnp.float32 and eager.shape == ()


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_is_computed_in_float32(name):
    student, teacher = (x.astype(jnp.bfloat16) for x in logits(11))
    wide = LOSSES[name](student.astype(jnp.float32), teacher.astype(jnp.float32))
    got = LOSSES[name](student, teacher)
    assert got.dtype == jnp.float32 and float(got) == float(wide)
    assert jax.grad(LOSSES[name])(student, teacher).dtype == jnp.bfloat16
    assert float(LOSSES[name](student, teacher.astype(jnp.float32))) == float(wide)


@pytest.mark.parametrize("name", LOSSES)
def test_vmap_is_a_loop(name):
    student, teacher = logits(12, (3, 4, 5))
    together = jax.vmap(LOSSES[name])(student, teacher)
    np.testing.assert_allclose(
        together, [LOSSES[name](s, t) for s, t in zip(student, teacher, strict=True)], rtol=1e-5
    )


def test_many_temperatures_and_weights_compile_once():
    student, teacher = logits(13)
    traces = []

    @jax.jit
    def total(temperature, weight):
        traces.append(1)
        method = SoftTargets("runs/big", temperature=temperature, weight=weight)
        return method.objective(student, jnp.ones(6), teacher)[0]

    grid = [(np.float32(t), np.float32(w)) for t in (1, 2, 8) for w in (0, 0.5, 1)]
    one_by_one = [float(total(t, w)) for t, w in grid]
    assert len(traces) == 1
    together = jax.vmap(total)(*(jnp.asarray(column) for column in zip(*grid, strict=True)))
    np.testing.assert_allclose(together, one_by_one, rtol=1e-5)
    losses = jax.vmap(distill.loss, (None, None, 0))(student, teacher, jnp.array([1.0, 5.0]))
    np.testing.assert_allclose(losses, [reference(student, teacher, t) for t in (1, 5)], rtol=1e-5)


# The combination.


def test_weights_zero_and_one_leave_one_loss_exactly():
    for weight, wanted in ((0.0, 0.3), (1.0, 7.7), (jnp.float32(1.0), 7.7)):
        total, parts = distill.combine(jnp.float32(0.3), jnp.float32(7.7), weight)
        assert total == np.float32(wanted)
        assert (parts["hard"], parts["soft"]) == (np.float32(0.3), np.float32(7.7))


@dataclasses.dataclass(frozen=True)
class Absolute(distill.Distillation):
    """A loss of somebody else's."""

    def soft_loss(self, student, teacher):
        return jnp.abs(student - jax.lax.stop_gradient(teacher)).mean()


@pytest.mark.parametrize(
    ("method", "soft_loss"),
    [
        (SoftTargets("runs/big", temperature=2.0, weight=0.25), lambda s, t: distill.loss(s, t, 2.0)),
        (LogitMSE("runs/big", weight=0.25), distill.mse),
        (Absolute("runs/big", weight=0.25), lambda s, t: np.abs(np.asarray(s) - np.asarray(t)).mean()),
    ],
    ids=lambda x: type(x).__name__,
)
def test_the_objective_is_made_of_its_parts(method, soft_loss):
    student, teacher = logits(14)
    hard = jnp.arange(6.0)
    total, parts = method.objective(student, hard, teacher)
    soft = soft_loss(student, teacher)
    assert set(parts) == {"hard", "soft", "kl"}
    assert (float(parts["hard"]), float(parts["soft"])) == (2.5, pytest.approx(float(soft), rel=1e-6))
    assert float(total) == pytest.approx(0.75 * 2.5 + 0.25 * float(soft), rel=1e-6)
    assert float(parts["kl"]) == pytest.approx(reference(student, teacher, 1.0), rel=1e-5)


@pytest.mark.parametrize("method", [SoftTargets("t", temperature=2.0), LogitMSE("t"), Absolute("t")], ids=str)
@pytest.mark.parametrize("positions", [(), (2,)])
def test_what_has_weight_0_counts_in_no_part(method, positions):
    student, teacher = (x.reshape(-1, *positions, x.shape[-1]) for x in logits(19))
    shape = student.shape[:-1]
    hard = jnp.arange(float(np.prod(shape))).reshape(shape)
    weights = (hard % 3 > 0).astype(jnp.float32)
    total, parts = method.objective(student, hard, jnp.where(weights[..., None] > 0, teacher, 1e6), weights=weights)
    chosen = [x[np.asarray(weights) > 0] for x in (student, hard, teacher)]
    expected, expected_parts = method.objective(*chosen)
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
    for name, part in expected_parts.items():
        assert float(parts[name]) == pytest.approx(float(part), rel=1e-5), name


@pytest.mark.parametrize("kind", ["mse", "similarity", "attention"])
def test_feature_losses_of_all_pairs_are_added(kind):
    student, teacher = logits(15)
    ours = dict(zip("ab", logits(16, (6, 3, 2)), strict=True))
    theirs = dict(zip("xy", logits(17, (6, 3, 2)), strict=True))
    plain = SoftTargets("runs/big", temperature=2.0)
    features = Features((("a", "x"), ("b", "y")), loss=kind, weight=jnp.float32(0.5))  # type: ignore[arg-type]
    method = dataclasses.replace(plain, features=features)
    kept = {"student_features": ours, "teacher_features": theirs}
    total, parts = method.objective(student, jnp.ones(6), teacher, **kept)
    fn = distill.FEATURE_LOSSES[kind]
    pairs = float(fn(ours["a"], theirs["x"]) + fn(ours["b"], theirs["y"]))
    assert float(parts["features"]) == pytest.approx(pairs, rel=1e-6)
    without = float(plain.objective(student, jnp.ones(6), teacher)[0])
    assert float(total) == pytest.approx(without + 0.5 * pairs, rel=1e-6)

    def of_features(a, x):
        kept = {"student_features": {**ours, "a": a}, "teacher_features": {**theirs, "x": x}}
        return method.objective(student, jnp.ones(6), teacher, **kept)[0]

    mine, not_mine = jax.grad(of_features, (0, 1))(ours["a"], theirs["x"])
    assert np.asarray(mine).any() and not np.asarray(not_mine).any()


def test_the_yardstick_is_no_part_of_the_loss():
    student, teacher = logits(18)
    slope = jax.grad(lambda s: SoftTargets("t").objective(s, jnp.ones(6), teacher)[1]["kl"])(student)
    assert not np.asarray(slope).any()


def test_a_student_learns_its_teacher():
    """A linear student on a linear teacher's soft targets finds its distribution, with no label seen."""
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((64, 3), (3, 4)))
    method = SoftTargets("t", weight=1.0, temperature=2.0)

    def loss(student):
        return method.objective(x @ student, jnp.full(64, 100.0), x @ w)

    @jax.jit
    def train(student):
        def step(s, _):
            return s - 0.3 * jax.grad(lambda v: loss(v)[0])(s), None

        return jax.lax.scan(step, student, length=300)[0]

    start = jnp.zeros((3, 4))
    assert float(loss(start)[1]["kl"]) > 0.3
    assert float(loss(train(start))[1]["kl"]) < 1e-5


# Bad input.


ONE, TWO = jnp.ones((3, 4)), jnp.ones((3, 5))


def matching(**fields):
    """A student that matches one layer."""
    return SoftTargets("t", features=Features((("a", "b"),), **fields))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distill.loss(ONE, TWO, 1.0), r"logits .*\(3, 4\) and \(3, 5\)"),
        (lambda: distill.loss(ONE, ONE[:1], 1.0), "one shape"),
        (lambda: distill.loss(jnp.float32(1), jnp.float32(1), 1.0), "one shape"),
        (lambda: distill.loss(ONE, jnp.ones((3, 4), jnp.int32), 1.0), "teacher logits .*int32"),
        (lambda: distill.loss(ONE, ONE, 0.0), r"temperature .*0\.0$"),
        (lambda: distill.loss(ONE, ONE, -1), "temperature .*-1$"),
        (lambda: distill.loss(ONE, ONE, float("nan")), "temperature .*nan$"),
        (lambda: distill.loss(ONE, ONE, float("inf")), "temperature .*inf$"),
        (lambda: distill.loss(ONE, ONE, jnp.ones(3)), "temperature"),
        (lambda: jax.jit(lambda x: distill.loss(x, x, 0.0))(ONE), "temperature"),
        (lambda: distill.mse(ONE, TWO), "one shape"),
        (lambda: distill.feature_mse(ONE, TWO), r"features .*\(3, 4\) and \(3, 5\)"),
        (lambda: distill.feature_mse(ONE, TWO, jnp.ones((5, 4))), "4 features"),
        (lambda: distill.feature_mse(ONE, TWO, jnp.ones((4, 6))), r"\(3, 6\) and \(3, 5\)"),
        (lambda: distill.similarity(ONE, TWO[:2]), r"batch.*\(3, 4\) and \(2, 5\)"),
        (lambda: distill.similarity(ONE[0], ONE[0]), "batch"),
        (lambda: distill.attention(ONE, ONE), r"\[batch, positions \.\.\., channels\]"),
        (lambda: distill.attention(ONE[..., None], TWO[..., None]), "the same positions"),
        (lambda: SoftTargets("t").objective(ONE, jnp.float32(1), ONE), r"hard_losses .*\(3,\)"),
        (lambda: matching().objective(ONE, ONE[:, 0], ONE, student_features={"c": ONE}),
         r"features\[0\] .*student.*\(c\).*'a'"),
        (lambda: matching().objective(ONE, ONE[:, 0], ONE, student_features={"a": ONE}),
         r"features\[0\] .*teacher.*\(none\).*'b'"),
        (lambda: matching().objective(
            ONE, ONE[:, 0], ONE, student_features={"a": ONE}, teacher_features={"b": TWO}),
         r"features\[0\] \('a', 'b'\): .* one shape"),
        (lambda: matching(loss="cosine").objective(
            ONE, ONE[:, 0], ONE, student_features={"a": ONE}, teacher_features={"b": ONE}),
         "loss .*'cosine'"),
    ],
)  # fmt: skip
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


NAN, INF = float("nan"), float("inf")
PAIR = ("a", "b")


@pytest.mark.parametrize("kind", [SoftTargets, LogitMSE])
@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        *(({"teacher": text}, "teacher", text) for text in ("", "stage:", "  ")),
        *(({"weight": weight}, "weight", weight) for weight in (-0.1, 1.1, NAN)),
        ({"features": (PAIR,)}, "features", (PAIR,)),
        ({"features": Features()}, "features.pairs", ()),
        ({"features": Features((PAIR,), loss="cosine")}, "features.loss", "cosine"),
        # 1e-50 is 0 as a float32.
        *(({"features": Features((PAIR,), weight=w)}, "features.weight", w) for w in (-1.0, 0.0, 1e-50, NAN, INF)),
        ({"features": Features((("a", ""),))}, "features.pairs[0]", ("a", "")),
        ({"features": Features((PAIR, PAIR))}, "features.pairs[1]", PAIR),
        ({"features": Features((("a",),))}, "features.pairs", (("a",),)),
    ],
)
def test_bad_configs(kind, changes, field, value):
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(kind("runs/big"), **changes).validate()
    assert (error.value.field, repr(error.value.value)) == (f"distill.{field}", repr(value))


@pytest.mark.parametrize("temperature", [0.0, 1e-50, INF, "hot"])
def test_a_bad_temperature_is_refused(temperature):
    with pytest.raises(ConfigError) as error:
        SoftTargets("runs/big", temperature=temperature).validate()
    assert (error.value.field, error.value.value) == ("distill.temperature", temperature)


def test_good_configs():
    for method in (
        SoftTargets("runs/big"),
        LogitMSE("stage:big", weight=1),
        SoftTargets("runs/big", weight=0.0, features=Features((("Dense_0", "Dense_1"),), weight=0.5)),
    ):
        method.validate()
        assert from_dict(type(method), to_dict(method)) == method


def test_numbers_are_swept_and_the_rest_is_structure():
    structure, numbers = split(SoftTargets("runs/big", features=Features((PAIR,))))
    assert set(numbers) == {"temperature", "weight", "features.weight"}
    assert join(structure, numbers).teacher == "runs/big"
    hotter = SoftTargets("runs/big", temperature=9.0, features=Features((PAIR,), weight=2.0))
    assert split(hotter)[0] == structure
    assert split(SoftTargets("runs/big"))[0] != structure
    assert split(SoftTargets("runs/big"))[0] != split(LogitMSE("runs/big"))[0]
