"""Programs that compute little are compiled quickly, chosen by structure; on the host, many operations are one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import levels
from jopt.levels import quick_jit
from jopt.train.effort import Effort

SMALL = Effort(
    parameters=50_610, forward=1_285, evaluations=41, evaluated=360, updates=0, calibrated=0, trained=1_257
)


def test_xla_accepts_the_options_of_every_level():
    for level in (levels.QUICK, levels.GOOD, levels.FULL):
        doubled = jax.jit(lambda x: 2 * x).lower(1.0).compile(compiler_options=levels.options(level))
        assert float(doubled(1.0)) == 2


def test_more_work_never_lowers_the_level():
    order = {levels.QUICK: 0, levels.GOOD: 1, levels.FULL: 2}
    chosen = [order[levels.Work(10.0**n).level] for n in range(14)]
    assert chosen == sorted(chosen) and set(chosen) == {0, 1, 2}


@pytest.mark.parametrize(
    ("name", "field", "least"),
    [
        ("init", "parameters", levels.GOOD),
        ("seen", "evaluations", levels.QUICK),
        ("evaluate", "evaluated", levels.QUICK),
        ("teacher", "trained", levels.GOOD),
    ],
)
def test_a_program_of_small_networks_is_compiled_quickly_and_of_large_ones_well(name, field, least):
    assert SMALL.level(name) == least
    assert SMALL._replace(**{field: 10_000 * getattr(SMALL, field)}).level(name) == levels.FULL


def test_what_training_goes_on_from_is_never_compiled_at_the_quickest_level():
    # There the bits of a trial in a grid could be others than alone.
    names = ("init", "rewind", "transfer", "update", "teacher", "segment")
    assert levels.QUICK not in {SMALL._replace(updates=1).level(name) for name in names}
    # What its own stage only evaluates, another one may learn from.
    assert SMALL.level("seen") == levels.QUICK and SMALL._replace(teaches=True).level("seen") == levels.GOOD


def test_what_trains_is_compiled_fully():
    assert SMALL.level("segment") is levels.FULL


def test_on_the_host_a_function_is_one_program():
    compiled = []

    def listen(name: str, seconds: float, **details: object) -> None:
        compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    x = np.arange(3, dtype=np.float32)
    try:
        result = quick_jit(lambda x: jnp.cumsum(jnp.flip(x) * 3 + 1) / 7)(x)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    np.testing.assert_allclose(result, np.cumsum(x[::-1] * 3 + 1) / 7, rtol=1e-6)
    assert compiled.count("/jax/core/compile/backend_compile_duration") == 1


def test_inside_of_a_program_it_is_a_part_of_it():
    double = quick_jit(lambda x: 2 * x)
    assert float(jax.jit(lambda x: double(x) + 1)(3.0)) == 7
    assert jax.vmap(double)(jnp.arange(3.0)).tolist() == [0, 2, 4]
    assert float(jax.grad(double)(3.0)) == 2


def test_constants_inside_of_a_program_stay_numbers():
    double, seen = quick_jit(lambda x: 2 * x), []

    def program(x):
        seen.append(float(double(np.float32(3))))
        return x

    jax.jit(program)(1.0)
    assert seen == [6.0]


def test_static_arguments_are_constants():
    repeat = quick_jit(lambda x, *, times: [x] * times, static=("times",))
    assert len(repeat(1.0, times=3)) == 3


@dataclasses.dataclass
class Thrice:
    times: int = 3

    def __call__(self, x):
        return self.times * x


def test_constants_that_cannot_be_hashed_are_constants_too():
    times = Thrice()
    with pytest.raises(TypeError):
        hash(times)
    call = quick_jit(lambda x, *, fn: fn(x) + 1, static=("fn",))
    assert float(call(2.0, fn=times)) == 7
    times.times = 4
    assert float(call(2.0, fn=times)) == 9
