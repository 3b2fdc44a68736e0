"""Reading a packed file needs NumPy only."""

import subprocess
import sys

import numpy as np
import pytest

import jopt
from jopt import codec

BLOCKED = """
import sys
for name in ("jax", "jaxlib", "flax", "optax", "matplotlib", "scipy", "sklearn", "ml_dtypes", "tensorflow"):
    sys.modules[name] = None
import jopt, numpy
before = set(sys.modules)
from jopt import codec
file = codec.read(sys.argv[1])
print(file.metadata["name"], file.params["kernel"].sum(), sorted(file.integers), file.ledger.total)
try:
    jopt.chain
except ImportError:
    print("no jax")
try:
    codec.load(sys.argv[2])
except codec.CodecError as error:
    print(error.where, "ml_dtypes" in str(error))
"""


def test_a_file_is_read_where_jax_is_not_installed(tmp_path):
    kernel = np.zeros((20, 10), np.float32)
    kernel[::3, ::2] = 0.5
    ledger = codec.save(
        tmp_path / "model.jopt", {"kernel": kernel}, specs={"kernel": codec.Spec(4)}, metadata={"name": "small"}
    )
    import ml_dtypes

    codec.save(tmp_path / "half.jopt", {"kernel": kernel.astype(ml_dtypes.bfloat16)})
    command = [sys.executable, "-c", BLOCKED, str(tmp_path / "model.jopt"), str(tmp_path / "half.jopt")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[:2] == [f"small {kernel.sum()} ['kernel'] {ledger.total}", "no jax"]
    assert lines[2] == f"{tmp_path / 'half.jopt'}: header: kernel True"


LIGHT = """
import sys
import jopt
import jopt.codec
heavy = ("jax", "flax", "optax", "matplotlib", "scipy", "ml_dtypes", "orbax", "jopt.transform")
print([name for name in heavy if name in sys.modules], jopt.ConfigError.__module__, "chain" in dir(jopt))
"""


def test_importing_jopt_is_light():
    printed = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == ["[] jopt.config True"]


def test_every_name_is_given_when_asked_for():
    from jopt import ConfigError, ParamTransform, RuleError, chain, hold, identity, project_moments

    names = (chain, hold, identity, project_moments, ParamTransform)
    assert {name.__module__ for name in names} == {"jopt.transform"}
    assert (ConfigError.__module__, RuleError.__module__) == ("jopt.config", "jopt.rules")
    assert jopt.chain is chain and jopt.rules.RuleError is RuleError
    with pytest.raises(AttributeError):
        jopt.nothing  # noqa: B018  # type: ignore[attr-defined]


NAMED = "import jopt; print(jopt.codec.save.__name__, jopt.quantize.Spec(4).bits, jopt.measure.size({}).parameters)"


def test_packages_come_with_their_names():
    printed = subprocess.run([sys.executable, "-c", NAMED], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["save", "4", "0"]
