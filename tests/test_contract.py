"""What every ParamTransform promises to every loop and every optimizer."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick
from transform_cases import (
    BITS,
    CASES,
    DEFAULT,
    EAGER,
    END,
    LIFTED,
    MIDDLE,
    OPTIMIZERS,
    QUICK,
    SPARSITIES,
    statistics,
    tree,
)

from jopt import optim
from jopt.rules import named_leaves
from jopt.train.checkpoint import Checkpoints
from jopt.transform import identity, project_moments


def always(names: list[str]) -> list[Any]:
    """Every transform; those that are not in `names` among the slow tests."""
    return [pytest.param(name, marks=() if name in names else pytest.mark.slow) for name in CASES]


ALL = always(DEFAULT)
KEY = jax.random.key(0)
LAYERS = statistics(0)
TRIALS = 3


class Calls(NamedTuple):
    """What a loop calls, as functions of arrays only; numbers are the sparsity and the bits."""

    init: Any  # (numbers, params) -> state
    choose: Any  # (numbers, state, params, grads, step, key) -> state
    look: Any  # (numbers, state, params) -> what the transform makes of them, once and twice
    project: Any  # (numbers, state, tree) -> tree


def calls(name: str) -> Calls:
    make = CASES[name].make

    def init(numbers, params):
        return make(*numbers).init(params)

    def choose(numbers, state, params, grads, step, key):
        t = make(*numbers)
        if t.observe is not None:
            state = t.observe(state, params, grads)
        more = {"layers": LAYERS} if "layers" in t.needs else {}
        return t.update(state, params, step=step, grads=grads, key=key, **more)

    def look(numbers, state, params):
        t = make(*numbers)
        held = params if t.project is None else t.project(state, params)
        seen = t.apply(state, params)
        return {
            "seen": seen,
            "seen twice": t.apply(state, seen),
            "held": held,
            "held twice": held if t.project is None else t.project(state, held),
            "seen of held": t.apply(state, held),
            "forward of held": (t.forward or t.apply)(state, held),
        }

    def project(numbers, state, tree):
        t = make(*numbers)
        return tree if t.project is None else t.project(state, tree)

    return Calls(init, choose, look, project)


@functools.cache
def compiled(name: str) -> Calls:
    return Calls(*map(quick.jit if name in QUICK else jax.jit, calls(name)))


@functools.cache
def optimized(name: str) -> Calls:
    """As users compile it."""
    return Calls(*map(jax.jit, calls(name))) if name in QUICK else compiled(name)


def numbers(trial: int) -> tuple[jax.Array, jax.Array]:
    return jnp.float32(SPARSITIES[trial]), jnp.int32(BITS[trial])


def run(c: Calls, trial: int, n: Any = None) -> dict[str, Any]:
    """Two updates on weights that move in between, held as the training engine holds them; all that comes of it."""
    params, later = tree(trial), tree(trial + 10)
    n = numbers(trial) if n is None else n
    first = c.init(n, params)
    second = c.choose(n, first, params, tree(trial + 20, False), jnp.int32(MIDDLE), KEY)
    # What moved was projected before, and is so by the new masks after the update.
    params = c.project(n, second, later)
    third = c.choose(n, second, params, tree(trial + 30, False), jnp.int32(END), jax.random.fold_in(KEY, 1))
    return {"first": first, "second": second, "third": third, "params": params, **c.look(n, third, params)}


@functools.cache
def jitted_run(name: str, trial: int) -> dict[str, Any]:
    return run(compiled(name), trial)


def optimized_run(name: str, trial: int) -> dict[str, Any]:
    return run(optimized(name), trial) if name in QUICK else jitted_run(name, trial)


def signature(tree: Any) -> Any:
    return jax.tree.structure(tree), [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]


def assert_same_bits(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (name, x), y in zip(named_leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape) == (y.dtype, y.shape), name
        if x.tobytes() != y.tobytes():
            np.testing.assert_array_equal(x, y, err_msg=name)
            raise AssertionError(f"{name}: one has 0.0 where the other has -0.0")


@pytest.mark.parametrize("name", always(EAGER))
def test_a_jitted_call_gives_the_bits_of_an_eager_one(name):
    assert_same_bits(run(calls(name), 0), optimized_run(name, 0))


@pytest.mark.parametrize("name", ALL)
def test_other_sparsities_and_bits_compile_nothing(name):
    c = compiled(name)
    one, other = jitted_run(name, 0), run(c, 0, numbers(1))
    # `project` serves trees of other dtypes too, in the test of optimizers.
    assert [f._cache_size() for f in c[:3]] == [1, 1, 1]
    has_none = name in ("identity", "tie", "binary", "xnor", "weights-identity") or name.startswith("share")
    same = [(a == b).all() for a, b in zip(*(jax.tree.leaves(r["seen"]) for r in (one, other)), strict=True)]
    assert all(same) == (has_none or "-nm-" in name)


@pytest.mark.parametrize("name", ALL)
def test_structure_shapes_and_dtypes_are_kept(name):
    r = jitted_run(name, 0)
    state = signature(r["first"])
    assert signature(r["second"]) == signature(r["third"]) == state
    for what in ("seen", "held", "seen of held", "forward of held"):
        assert signature(r[what]) == signature(tree(0)), what
    for dtype in (jnp.float32, jnp.bfloat16):
        c, n = calls(name), numbers(0)
        params = jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), tree(0))
        first = jax.eval_shape(c.init, n, params)
        second = jax.eval_shape(c.choose, n, first, params, params, jnp.int32(0), KEY)
        assert signature(second) == signature(first)
        looks = jax.eval_shape(c.look, n, first, params)
        assert all(signature(x) == signature(params) for x in looks.values())


@pytest.mark.parametrize("name", ALL)
def test_what_is_seen_and_held_is_so_at_once(name):
    case = CASES[name]
    for trial in range(TRIALS):
        r = jitted_run(name, trial)
        assert_same_bits(r["held twice"], r["held"])
        assert_same_bits(r["forward of held"], r["seen of held"])
        if case.idempotent:
            assert_same_bits(r["seen twice"], r["seen"])
        if not case.repeatable:
            continue
        for x, y in zip(jax.tree.leaves(r["seen twice"]), jax.tree.leaves(r["seen"]), strict=True):
            eps = float(jnp.finfo(x.dtype).eps)
            wide = [np.asarray(v).astype(np.float64) for v in (x, y)]
            np.testing.assert_allclose(*wide, rtol=2 * eps, atol=2 * eps * np.abs(wide[1]).max())


@pytest.mark.parametrize("name", ALL)
def test_zero_stays_zero(name):
    if not CASES[name].keeps_zero:
        pytest.skip("a zero is a value like any other here")
    for trial in range(TRIALS):
        c, r = compiled(name), jitted_run(name, trial)
        late = tree(trial + 40)  # has other zeros than those that the transform saw in its update
        for params, seen in (
            (r["params"], r["seen"]),
            (late, c.look(numbers(trial), r["third"], late)["seen"]),
        ):
            for (path, w), v in zip(named_leaves(params), jax.tree.leaves(seen), strict=True):
                assert not np.where(np.asarray(w) == 0, np.asarray(v), 0).any(), path


@pytest.mark.parametrize("name", ALL)
def test_the_projection_is_linear(name):
    """Exactly for masks; a mean is so to rounding, but exactly in powers of two."""
    c, r, n = compiled(name), jitted_run(name, 0), numbers(0)
    project = functools.partial(c.project, n, r["third"])
    x, y = tree(50, False), tree(51, False)
    double = lambda t: jax.tree.map(lambda v: v * jnp.asarray(-2, v.dtype), t)  # noqa: E731
    add = lambda a, b: jax.tree.map(jnp.add, a, b)  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, project(double(x)), double(project(x)))
    for a, b in zip(*map(jax.tree.leaves, (project(add(x, y)), add(project(x), project(y)))), strict=True):
        if CASES[name].means:
            eps = 4 * float(jnp.finfo(a.dtype).eps)
            np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), rtol=eps, atol=eps)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", always(LIFTED))
def test_trials_side_by_side_are_the_trials_one_by_one(name):
    c = calls(name)
    stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731
    runs = [optimized_run(name, trial) for trial in range(TRIALS)]
    n = stack([numbers(trial) for trial in range(TRIALS)])
    params, grads = (
        stack([tree(trial + at, zeros) for trial in range(TRIALS)]) for at, zeros in ((0, True), (20, False))
    )
    first = jax.jit(jax.vmap(c.init))(n, params)
    second = jax.jit(jax.vmap(c.choose, in_axes=(0, 0, 0, 0, None, None)))(
        n, first, params, grads, jnp.int32(MIDDLE), KEY
    )
    looks = jax.jit(jax.vmap(c.look))(n, stack([r["third"] for r in runs]), stack([r["params"] for r in runs]))
    assert_same_bits(second, stack([r["second"] for r in runs]))
    assert_same_bits(looks, stack([{what: r[what] for what in looks} for r in runs]))


def test_what_is_saved_between_two_updates_goes_on_exactly(tmp_path):
    state = {
        "transforms": {name: jitted_run(name, 0)["second"] for name in DEFAULT},
        "params": {name: jitted_run(name, 0)["params"] for name in DEFAULT},
        "optimizers": {name: optim.build(config, 8).init(tree(0)) for name, config in OPTIMIZERS.items()},
    }
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(MIDDLE, state, {"score": 0.0})
        checkpoints.wait()
        restored = checkpoints.restore(MIDDLE, jax.eval_shape(lambda: state)).state
    assert_same_bits(restored, state)
    for name in DEFAULT:
        c, grads, key = compiled(name), tree(30, False), jax.random.fold_in(KEY, 1)
        old, params = jax.device_put((restored["transforms"][name], restored["params"][name]))
        again = c.choose(numbers(0), old, params, grads, jnp.int32(END), key)
        assert_same_bits(again, jitted_run(name, 0)["third"])


@functools.cache
def optimizer(name: str) -> optax.GradientTransformationExtraArgs:
    made = optim.build(OPTIMIZERS[name], 8)
    return optax.GradientTransformationExtraArgs(jax.jit(made.init), jax.jit(made.update))


add = jax.jit(optax.apply_updates)
average = jax.jit(functools.partial(optax.incremental_update, step_size=0.25))


def assert_equal(a: Any, b: Any, what: str) -> None:
    """Equal numbers: -0.0 counts as 0.0."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (name, x), y in zip(named_leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=f"{what}: {name}")


def in_moments(change: Callable[[Any], Any], o: Any, moments: Any) -> Any:
    """The moments with every tree of the parameters' structure changed."""
    return project_moments(identity()._replace(project=lambda state, x: change(x)), None, o, moments)


def pairs() -> list[Any]:
    """Every transform and every optimizer several times; all of their pairs among the slow tests."""
    found = []
    for i, name in enumerate(CASES):
        for j, with_ in enumerate(OPTIMIZERS):
            fast = name in DEFAULT and not name.startswith("weights-") and (i + j) % 4 == 0
            marks = [] if fast else [pytest.mark.slow]
            if name == "quantize>share>prune":
                why = "until the next update shared means count weights that were pruned after they were shared"
                marks.append(pytest.mark.xfail(reason=why, strict=True))
            found.append(pytest.param(name, with_, marks=marks))
    return found


@pytest.mark.parametrize(("name", "with_"), pairs())
def test_an_optimizer_stays_where_the_parameters_are_held(name, with_):
    """Parameters, updates, moments and averages, while clipping, decay, L1 and accumulation are at work."""
    c, o, n = compiled(name), optimizer(with_), numbers(0)
    params = tree(0)
    averaged, state, moments = params, c.init(n, params), o.init(params)
    kept = jax.tree.map(jnp.ones_like, params)
    # The second update falls between the two gradients that make one step where two are accumulated.
    for step, steps in ((MIDDLE, 3), (END, 2)):
        state = c.choose(n, state, params, tree(20 + step, False), jnp.int32(step), jax.random.key(step))
        project = functools.partial(c.project, n, state)
        params, averaged, moments = project(params), project(averaged), in_moments(project, o, moments)
        before, kept = kept, project(jax.tree.map(jnp.ones_like, params))
        if name.startswith("rigl") and step == END:
            assert_regrown_start_at_rest(before, kept, params, o, moments)
        for i in range(steps):
            updates, moments = o.update(project(tree(step + i, False)), moments, params)
            updates = project(updates)
            params = add(params, updates)
            averaged = average(params, averaged)
            for what, x in {"parameters": params, "updates": updates, "average": averaged}.items():
                assert_equal(project(x), x, what)
            # Clipped unit by unit, weights of one value have gradients of their own, and so have their moments.
            if not (CASES[name].means and OPTIMIZERS[with_].adaptive_clip):
                assert_equal(in_moments(project, o, moments), moments, "moments")
    assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves((params, moments)))
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (params, tree(0))), strict=True))


def assert_regrown_start_at_rest(before: Any, kept: Any, params: Any, o: Any, moments: Any) -> None:
    grown = jax.tree.map(lambda a, b: (a == 0) & (b != 0), before, kept)
    assert any(x.any() for x in jax.tree.leaves(grown))

    def there(x: Any) -> Any:
        return jax.tree.map(lambda v, g: jnp.where(g, v, jnp.zeros_like(v)), x, grown)

    assert not any(x.any() for x in jax.tree.leaves(there(params)))
    matrices = {x.shape for x in jax.tree.leaves(params) if x.ndim >= 2}
    rest = [x for x in jax.tree.leaves(in_moments(there, o, moments)) if x.shape in matrices]
    assert not any(x.any() for x in rest)
