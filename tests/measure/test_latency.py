import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from jopt.measure import latency, peak_memory, throughput

pytestmark = pytest.mark.unoptimized


def test_latency_is_of_the_call_and_not_of_the_compilation():
    measured = latency(jax.jit(lambda x: jnp.sin(x @ x).sum()), jnp.ones((32, 32)), repeats=20)
    assert 0 < measured.p10 <= measured.median <= measured.p90
    assert measured.median < measured.compile_seconds
    assert measured.n == 20


def test_latency_grows_with_the_work():
    def f(n):
        return lambda x: jax.lax.scan(lambda c, _: (jnp.tanh(c @ x), None), x, length=n)[0]

    x = jnp.ones((64, 64))
    assert latency(f(2000), x, repeats=3).median > latency(f(20), x, repeats=3).median


def test_throughput():
    measured = latency(lambda x: x + 1, jnp.ones(8), repeats=3)
    assert throughput(measured, 8) == 8 / measured.median


@pytest.mark.parametrize("kwargs, message", [({"repeats": 0}, "repeats must"), ({"warmup": -1}, "warmup must")])
def test_bad_counts(kwargs, message):
    with pytest.raises(ValueError, match=message):
        latency(lambda x: x, 1.0, **kwargs)


def test_peak_memory_is_in_bytes():
    assert 50e6 < peak_memory() < 500e9


def test_import_is_light():
    code = """
import sys, jopt.measure
from jax._src import xla_bridge
assert not xla_bridge._backends, "a backend was started"
for name in ("matplotlib", "rich", "tensorboardX", "flax", "optax"):
    assert name not in sys.modules, name
"""
    subprocess.run([sys.executable, "-c", code], check=True)
