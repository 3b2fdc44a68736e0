"""Options of the compiler hold inside their context, for what is compiled there, and nowhere else."""

import jax
import jax.numpy as jnp
import pytest

from jopt.train.compiler import Compiler, compiler_options


def doubled(compiler):
    return int(compiler.call("double", 0, lambda x: x + x, jnp.int32(3)))


def test_options_reach_the_compiler_and_only_inside_the_context():
    with compiler_options(xla_no_such_option=1), pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        doubled(Compiler())
    assert doubled(Compiler()) == 6


def test_options_of_an_outer_context_hold_inside_as_well():
    with (
        compiler_options(xla_no_such_option=1),
        compiler_options(xla_backend_optimization_level=0),
        pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"),
    ):
        doubled(Compiler())


def test_what_is_compiled_stays_as_it_was_compiled():
    compiler = Compiler()
    assert doubled(compiler) == 6
    with compiler_options(xla_no_such_option=1):
        assert doubled(compiler) == 6
    assert compiler.counts["double"] == 1
