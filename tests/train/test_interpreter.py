"""Programs evaluated operation by operation: the values are JAX's, and the first bad operation is the right one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from jopt.train.interpreter import evaluate
from jopt.train.operations import Range

X = jnp.array([4.0, 1.0, 0.0, 2.0])


@pytest.fixture(autouse=True)
def quickly():
    with quick.compilation():
        yield


def evaluated(fn, *args):
    """The results of `fn`, and what each that is not finite came from, first to last."""
    program = jax.make_jaxpr(fn)(*args)
    names = [f"arg{i}" for i in range(len(jax.tree.leaves(args)))]
    results, marks = evaluate(program, jax.tree.leaves(args), names, "evaluation")
    return results, [None if mark is None else mark.chain() for mark in marks]


def scanned(fn):
    return lambda x: jax.lax.scan(lambda carry, row: (carry + row, fn(row)), jnp.float32(0), x)[1]


@jax.custom_vjp
def custom(x):
    return jnp.log(x)


custom.defvjp(lambda x: (custom(x), x), lambda x, g: (g / x,))

# Of X, in which one number is 0.
FIRST = {
    "plain": (jnp.log, "log"),
    "jit": (jax.jit(lambda x: jax.jit(jnp.log)(x + 0) * 2), "log"),
    "remat": (jax.checkpoint(lambda x: jnp.sin(1 / x)), "div"),
    "custom_vjp": (custom, "log"),
    "custom_jvp": (lambda x: jax.nn.relu(jnp.log(x) * -1), "log"),
    "cond": (lambda x: jax.lax.cond(x[2] == 0, jnp.log, jnp.exp, x), "log"),
    "scan": (scanned(lambda row: 1 / jnp.log1p(row)), "div"),
    "scan_of_one": (lambda x: scanned(jnp.log)(x[2:3]), "log"),
    "while": (lambda x: jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] / x), (0, x))[1], "div"),
    "gradient": (jax.grad(lambda x: jnp.sqrt(x).sum()), "div"),
    # The infinity that a mask puts in is meant; what follows from it is not.
    "masked_row": (lambda x: jax.nn.softmax(jnp.where(x[:, None] > x[None], 1.0, -jnp.inf)), "sub"),
    # A logarithm that a `where` drops is not at fault, whatever comes later.
    "dropped": (lambda x: jnp.where(x > 0, jnp.log(x), 0) + jax.lax.rsqrt(x), "rsqrt"),
}


@pytest.mark.parametrize("case", FIRST)
def test_the_first_bad_operation_is_named_and_the_values_are_those_of_jax(case):
    fn, primitive = FIRST[case]
    (result,), (chain,) = evaluated(fn, X)
    np.testing.assert_allclose(result, quick.jit(fn)(X), rtol=1e-6)
    assert chain[0].operation.primitive == primitive
    counts = [numbers.nans + numbers.infinities for numbers in chain[0].operation.outputs]
    assert sum(counts) > 0


FINITE = {
    "mask": lambda x: jax.nn.softmax(jnp.where(x > 1, x, -jnp.inf)),
    "guard": lambda x: jnp.where(x > 0, jnp.log(x), 0),
    "random": lambda x: (
        jax.random.normal(jax.random.key(0), x.shape) + jax.random.permutation(jax.random.key(1), x)
    ),
    "reverse": lambda x: jax.lax.scan(lambda c, r: (c * r, c), jnp.float32(1), x, reverse=True)[1],
}


@pytest.mark.parametrize("case", FINITE)
def test_values_that_end_finite_have_no_first_bad_operation(case):
    (result,), (chain,) = evaluated(FINITE[case], X)
    assert chain is None
    np.testing.assert_allclose(result, quick.jit(FINITE[case])(X), rtol=1e-5)


def test_an_argument_that_holds_a_nan_is_its_own_cause():
    _, (chain,) = evaluated(lambda a, b: jnp.log(a) + b.sum(), X, X.at[0].set(jnp.nan))
    assert (chain[0].operation, chain[0].name) == (None, "arg1")
    assert [bad.operation.primitive for bad in chain[1:]] == ["reduce_sum", "add"]


def test_the_scopes_the_side_and_the_line_of_an_operation():
    def loss(x):
        with jax.named_scope("Net"), jax.named_scope("Root_0"):
            return jnp.sqrt(x).sum()

    _, (chain,) = evaluated(jax.grad(loss), X)
    operation = chain[0].operation
    # The factor of a derivative is computed beside the forward pass.
    assert (operation.phase, operation.layer) == ("forward", "Net/Root_0")
    assert "test_interpreter.py" in operation.source and operation.source.endswith("return jnp.sqrt(x).sum()")
    assert operation.outputs == (Range("float32[4]", 0.25, 0.5, 0, 1),)
