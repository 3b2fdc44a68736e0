"""Muon: momentum made orthogonal, for matrices; Adam with Nesterov's look-ahead for everything else."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

# Jordan's quintic, chosen for its slope at 0, and his number of iterations; Optax's defaults too.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class ScaleByMuonState(NamedTuple):
    """State of `scale_by_muon`.

    Plain trees of the parameters' structure, unlike `optax.contrib.muon`'s masked ones, so that a mask over the
    parameters maps over every moment with `optax.tree.map_params`.
    """

    count: Any  # shape (), int32.
    mu: Any  # momentum of the matrices, first moments of the rest.
    nu: Any  # second moments; of the matrices unused, and 0.


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


def scale_by_muon(momentum: Any, b1: Any, b2: Any, eps: Any) -> optax.GradientTransformation:
    r"""Muon for the leaves of rank 2, Nesterov's Adam for the others; equals `optax.contrib.muon` before its rate.

    For a matrix of shape (m, n), with decay $\beta$ = momentum, and for the others ($\beta$ = b1):
    $M \leftarrow \beta M + (1 - \beta) g$ and
    $\hat M = \beta M / (1 - \beta^{t+1}) + (1 - \beta) g / (1 - \beta^t)$. A matrix moves along
    $u = \sqrt{\max(1, n / m)} \, \mathrm{orthogonalize}(\hat M)$; another leaf along
    $u = \hat M / (\sqrt{v / (1 - b_2^t)} + \epsilon)$ with $v \leftarrow b_2 v + (1 - b_2) g^2$ (Dozat, 2016).

    References: Jordan, 2024, Muon: An optimizer for hidden layers in neural networks; Liu et al., 2025, Muon is
    scalable for LLM training, section 2.1. Optax's default decay is 0.95, and its Adam has the look-ahead.
    Rank 2 only, as in Optax: a convolution's kernel gets Adam.

    Args:
      momentum: $\beta$ of the matrices, a scalar that may be traced.
      b1: $\beta$ of the others, likewise.
      b2: $b_2$, likewise.
      eps: $\epsilon$, likewise.

    Returns:
      A `GradientTransformation` with a `ScaleByMuonState`.

    Example:
      >>> t = scale_by_muon(0.95, 0.9, 0.999, 1e-8)
      >>> params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
      >>> updates, state = t.update(jax.tree.map(jnp.ones_like, params), t.init(params))
      >>> [f"{u:.2f}" for u in updates["bias"]]
      ['1.47', '1.47']
    """

    def init(params):
        zeros = optax.tree.zeros_like
        return ScaleByMuonState(count=jnp.zeros((), jnp.int32), mu=zeros(params), nu=zeros(params))

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)

        def beta(g):
            return momentum if g.ndim == 2 else b1

        def look_ahead(m, g):
            now, ahead = 1 - beta(g) ** count, 1 - beta(g) ** (count + 1)
            return beta(g) * (m / ahead) + (1 - beta(g)) * (g / now)

        def direction(m, v):
            if m.ndim == 2:
                rows, columns = m.shape
                return max(1, columns / rows) ** 0.5 * orthogonalize(m, eps)
            return m / (jnp.sqrt(v / (1 - b2**count)) + eps)

        mu = jax.tree.map(lambda g, m: beta(g) * m + (1 - beta(g)) * g, updates, state.mu)
        nu = jax.tree.map(lambda g, v: v if g.ndim == 2 else b2 * v + (1 - b2) * jnp.square(g), updates, state.nu)
        updates = jax.tree.map(direction, jax.tree.map(look_ahead, mu, updates), nu)
        return updates, ScaleByMuonState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)
