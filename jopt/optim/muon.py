"""Muon: momentum made orthogonal, for kernels; Adam with Nesterov's look-ahead for everything else."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.hyper import check_number
from jopt.layers import Layers, Parameter, over_copies, parameters, within_copy

# Jordan's quintic, chosen for its slope at 0, and his number of iterations; Optax's defaults too.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class ScaleByMuonState(NamedTuple):
    """State of `scale_by_muon`.

    Plain trees of the parameters' structure, unlike `optax.contrib.muon`'s masked ones, so that a mask over the
    parameters maps over every moment with `optax.tree.map_params`.
    """

    count: Any  # shape (), int32.
    mu: Any  # momentum of the kernels, first moments of the rest.
    nu: Any  # second moments; of the kernels unused, and 0.


def orthogonalize(x: jax.Array, eps: Any) -> jax.Array:
    r"""Nearly the closest orthogonal matrix $U V^\top$ of $x = U S V^\top$, by five Newton-Schulz iterations.

    $X \leftarrow x / (\lVert x \rVert_F + \epsilon)$, then $X \leftarrow a X + (b A + c A^2) X$ with $A = X X^\top$
    and $(a, b, c)$ = `NEWTON_SCHULZ` (Jordan, 2024, Muon). Its singular values end in about [0.7, 1.2], not at 1.

    Args:
      x: a floating matrix of shape (m, n).
      eps: $\epsilon$, a scalar that may be traced; makes the zero matrix stay zero.

    Returns:
      A matrix of the shape and dtype of `x`.

    Example:
      >>> print(orthogonalize(jnp.diag(jnp.array([3.0, -2.0])), 1e-8).round(1))
      [[ 1.1  0. ]
       [ 0.  -0.7]]
    """
    a, b, c = NEWTON_SCHULZ
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (jnp.sqrt(jnp.sum(jnp.square(x))) + eps)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if tall else x


def scale_by_muon(
    momentum: Any, b1: Any, b2: Any, eps: Any, layers: Layers | None = None
) -> optax.GradientTransformation:
    r"""Muon for the kernels of dense layers, Nesterov's Adam for the rest; equals `optax.contrib.muon` before its
    rate.

    For a kernel of m inputs and n outputs, with decay $\beta$ = momentum, and for the others ($\beta$ = b1):
    $M \leftarrow \beta M + (1 - \beta) g$ and
    $\hat M = \beta M / (1 - \beta^{t+1}) + (1 - \beta) g / (1 - \beta^t)$. A kernel moves along
    $u = \sqrt{\max(1, n / m)} \, \mathrm{orthogonalize}(\hat M)$, as the matrix [m, n] that its input and output
    axes make, each copy of a stacked layer by itself; another leaf along
    $u = \hat M / (\sqrt{v / (1 - b_2^t)} + \epsilon)$ with $v \leftarrow b_2 v + (1 - b_2) g^2$ (Dozat, 2016).

    References: Jordan, 2024, Muon: An optimizer for hidden layers in neural networks; Liu et al., 2025, Muon is
    scalable for LLM training, section 2.1. Optax's default decay is 0.95, and its Adam has the look-ahead. As in
    Optax the kernel of a convolution gets Adam; so do embeddings, as Jordan has it, biases and scales, whatever
    their rank.

    Args:
      momentum: $\beta$ of the kernels, a scalar that may be traced.
      b1: $\beta$ of the others, may be traced too.
      b2: $b_2$, may be traced too.
      eps: $\epsilon$, may be traced too.
      layers: what the model says about its parameters; None: what their names and shapes say.

    Returns:
      A `GradientTransformation` with a `ScaleByMuonState`.

    Raises:
      ConfigError: for a concrete number out of range: the decays lie in [0, 1), $\epsilon$ above 0.
      LayoutError: in `init` and `update`, for a kernel whose input and output axes are not known, naming its layer.

    Example:
      >>> t = scale_by_muon(0.95, 0.9, 0.999, 1e-8)
      >>> params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
      >>> updates, state = t.update(jax.tree.map(jnp.ones_like, params), t.init(params))
      >>> [f"{u:.2f}" for u in updates["bias"]]
      ['1.47', '1.47']
    """
    for name, beta in (("momentum", momentum), ("b1", b1), ("b2", b2)):
        check_number(name, beta, lambda x: (x >= 0) & (x < 1), "a number in [0, 1)")
    check_number("eps", eps, lambda x: x > 0, "a finite number above 0")

    def init(params):
        zeros = optax.tree.zeros_like
        _matrices(params, layers)  # whose errors should come at the start
        return ScaleByMuonState(count=jnp.zeros((), jnp.int32), mu=zeros(params), nu=zeros(params))

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        matrices = _matrices(updates, layers)

        def beta(matrix):
            return b1 if matrix is None else momentum

        def look_ahead(matrix, m, g):
            now, ahead = 1 - beta(matrix) ** count, 1 - beta(matrix) ** (count + 1)
            return beta(matrix) * (m / ahead) + (1 - beta(matrix)) * (g / now)

        def direction(matrix, m, v):
            if matrix is None:
                return m / (jnp.sqrt(v / (1 - b2**count)) + eps)
            return over_copies(functools.partial(_muon, within_copy(matrix), eps), matrix.stack)(m)

        def mapped(function, *trees):
            leaves = [jax.tree.leaves(tree) for tree in trees]
            return jax.tree.unflatten(
                jax.tree.structure(trees[0]), [function(*row) for row in zip(matrices, *leaves, strict=True)]
            )

        mu = mapped(lambda matrix, g, m: beta(matrix) * m + (1 - beta(matrix)) * g, updates, state.mu)
        nu = mapped(
            lambda matrix, g, v: b2 * v + (1 - b2) * jnp.square(g) if matrix is None else v, updates, state.nu
        )
        updates = mapped(direction, mapped(look_ahead, mu, updates), nu)
        return updates, ScaleByMuonState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


def _matrices(params: Any, layers: Layers | None) -> list[Parameter | None]:
    """For each leaf what is known of it, if it is the kernel of a dense layer; else None."""
    return [
        p.require_layout("Muon") if p.role == "kernel" and not p.window else None
        for p in parameters(params, layers)
    ]


def _muon(kernel: Parameter, eps: Any, m: jax.Array) -> jax.Array:
    """The direction of one kernel, orthogonal as the matrix [inputs, outputs]."""
    order = (*kernel.inputs, *kernel.outputs)
    rows, columns = (math.prod(m.shape[a] for a in side) for side in (kernel.inputs, kernel.outputs))
    matrix = m.transpose(order)
    flat = max(1, columns / rows) ** 0.5 * orthogonalize(matrix.reshape(rows, columns), eps)
    return flat.reshape(matrix.shape).transpose([order.index(axis) for axis in range(m.ndim)])
