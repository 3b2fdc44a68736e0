"""What each optimizer makes of the gradient before the learning rate: Optax's transforms, the articles' forms,
Muon.

All formulas are for one element; g is the gradient, u the direction, and the parameter moves by minus the learning
rate times u.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jopt.config import ConfigError
from jopt.hyper import check_number
from jopt.layers import Layers, Parameter, over_copies, parameters, within_copy
from jopt.optim.config import NAMES, Config, resolve_kind
from jopt.reference import call
from jopt.typing import Number, OptState, Params, Updates

# Jordan's quintic, chosen for its slope at 0, and his number of iterations; Optax's defaults too.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def scale_by_optimizer(config: Config, layers: Layers | None = None) -> optax.GradientTransformation:
    """The transform that `config.name` and `config.variant` stand for, or that a callable in its place returns.

    Args:
      config: a config whose coefficients are present, as `jopt.optim.config.complete` makes it.
      layers: what the model says about its parameters, which muon reads, and a callable with a parameter of that
        name.

    Returns:
      A `GradientTransformation` whose state is one of Optax's NamedTuples (muon's and a callable's are their own).

    Raises:
      ConfigError: if a callable in the place of the name returns something else.

    Example:
      >>> from jopt.optim.config import complete
      >>> t = scale_by_optimizer(complete(Config("momentum", momentum=0.5)))
      >>> updates, state = t.update({"w": jnp.ones(2)}, t.init({"w": jnp.zeros(2)}))
      >>> t.update({"w": jnp.ones(2)}, state)[0]["w"].tolist()
      [1.5, 1.5]
    """
    make = resolve_kind(config.name, NAMES, "name")
    if make is not None:
        return _from_outside(make, config, layers)
    c: Any = config  # its coefficients are present, though declared as optional
    paper = c.variant == "paper"
    match c.name:
        case "sgd":
            return optax.identity()
        case "momentum" | "nesterov":
            return optax.trace(c.momentum, nesterov=c.name == "nesterov")
        case "adagrad":
            return scale_by_paper_adagrad(c.eps) if paper else optax.scale_by_rss(0.1, c.eps)
        case "rmsprop":
            return optax.scale_by_rms(c.decay, c.eps, eps_in_sqrt=not paper)
        case "adam" | "adamw":
            return scale_by_adam(c.b1, c.b2, c.eps, bias_correction=c.bias_correction and not paper)
        case "lion":
            return optax.scale_by_lion(c.b1, c.b2)
        case "muon":
            return scale_by_muon(c.momentum, c.b1, c.b2, c.eps, layers)
    raise ValueError(f"no optimizer is named {c.name!r}")


def _from_outside(make: Callable, config: Config, layers: Layers | None) -> optax.GradientTransformation:
    transform = call(make, config, layers=layers)
    if not (callable(getattr(transform, "init", None)) and callable(getattr(transform, "update", None))):
        accepted = (
            f"a callable that returns an optax.GradientTransformation (it returned a {type(transform).__name__})"
        )
        raise ConfigError("name", config.name, accepted)
    return transform


def scale_by_paper_adagrad(eps: Number) -> optax.GradientTransformation:
    r"""$s \leftarrow s + g^2$ from $s_0 = 0$; $u = g / (\sqrt{s} + \epsilon)$.

    Duchi, Hazan and Singer, 2011, Adaptive subgradient methods, Figure 1 (diagonal; their $\delta$ is $\epsilon$).
    `optax.scale_by_rss` starts from 0.1 and takes $\sqrt{s + \epsilon}$, so its first steps are shorter.

    Args:
      eps: $\epsilon$, a scalar that may be traced.

    Returns:
      A `GradientTransformation`; its state is an `optax.ScaleByRssState` like the parameters in shapes and dtypes.

    Raises:
      ConfigError: for a concrete $\epsilon$ that is not above 0.

    Example:
      >>> t = scale_by_paper_adagrad(1e-7)
      >>> t.update({"w": jnp.array([4.0, 0.0])}, t.init({"w": jnp.zeros(2)}))[0]["w"].round(3).tolist()
      [1.0, 0.0]
    """
    check_number("eps", eps, lambda x: x > 0, "a finite number above 0")

    def init(params: Params) -> OptState:
        return optax.ScaleByRssState(sum_of_squares=optax.tree.zeros_like(params))

    def update(updates: Updates, state: OptState, params: Params | None = None) -> tuple[Updates, OptState]:
        del params
        sums = jax.tree.map(lambda g, s: s + jnp.square(g), updates, state.sum_of_squares)
        updates = jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + eps), updates, sums)
        return updates, optax.ScaleByRssState(sum_of_squares=sums)

    return optax.GradientTransformation(init, update)


def scale_by_adam(
    b1: Number, b2: Number, eps: Number, *, bias_correction: bool = True
) -> optax.GradientTransformation:
    r"""Adam's direction, $u = \frac{m / c_1}{\sqrt{v / c_2} + \epsilon}$.

    The moments are $m \leftarrow b_1 m + (1 - b_1) g$ and $v \leftarrow b_2 v + (1 - b_2) g^2$, from 0, and
    $c_i = 1 - b_i^t$ at step $t = 1, 2, \dots$

    Kingma and Ba, 2015, Adam, Algorithm 1, computed in the order that they give at the end of section 2:
    $u = \frac{\sqrt{c_2}}{c_1} \frac{m}{\sqrt{v} + \sqrt{c_2} \epsilon}$, one division for each element in
    place of the three of `optax.scale_by_adam`, to which it is equal but for rounding.

    Without bias correction, as the source articles write Adam, $c_1 = c_2 = 1$: the first step is
    $(1 - b_1) / \sqrt{1 - b_2}$ times as long, 3.16 times with the default numbers.

    Args:
      b1: $b_1$, a scalar that may be traced.
      b2: $b_2$, may be traced too.
      eps: $\epsilon$, may be traced too.
      bias_correction: whether the moments are divided by $c_1$ and $c_2$.

    Returns:
      A `GradientTransformation`; its state is an `optax.ScaleByAdamState`, whose moments are like the parameters.

    Raises:
      ConfigError: for a concrete number out of range: $b_1$ and $b_2$ lie in [0, 1), $\epsilon$ above 0.

    Example:
      >>> for corrected in (True, False):
      ...     t = scale_by_adam(0.9, 0.999, 1e-8, bias_correction=corrected)
      ...     print(f"{t.update({'w': jnp.array(2.0)}, t.init({'w': jnp.array(0.0)}))[0]['w']:.2f}")
      1.00
      3.16
    """
    for name, beta in (("b1", b1), ("b2", b2)):
        check_number(name, beta, lambda x: (x >= 0) & (x < 1), "a number in [0, 1)")
    check_number("eps", eps, lambda x: x > 0, "a finite number above 0")

    def init(params: Params) -> OptState:
        zeros = optax.tree.zeros_like
        return optax.ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=zeros(params), nu=zeros(params))

    def update(updates: Updates, state: OptState, params: Params | None = None) -> tuple[Updates, OptState]:
        del params
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        count = optax.safe_increment(state.count)
        if bias_correction:
            # The corrections are scalars, so they are folded into one
            # factor and one floor: a division an entry, not three.
            root = jnp.sqrt(1 - b2**count)
            # With a tiny eps the floor could round to 0, and a zero gradient would give 0 / 0 where Optax gives 0.
            scale, floor = root / (1 - b1**count), jnp.maximum(root * eps, jnp.finfo(root.dtype).tiny)
            updates = jax.tree.map(lambda m, v: scale * (m / (jnp.sqrt(v) + floor)), mu, nu)
        else:
            updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


class ScaleByMuonState(NamedTuple):
    """State of `scale_by_muon`.

    Plain trees of the parameters' structure, unlike `optax.contrib.muon`'s masked ones, so that a mask over the
    parameters maps over every moment with `optax.tree.map_params`.
    """

    count: ArrayLike  # shape (), int32.
    mu: Params  # momentum of the kernels, first moments of the other parameters.
    nu: Params  # second moments; of the kernels unused, and 0.


def orthogonalize(x: Float[Array, "rows columns"], eps: Number) -> Float[Array, "rows columns"]:
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
    # The Gram matrix has as many rows as x: of a tall matrix that of the transpose is the smaller one.
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    # The iteration diverges for large singular values; the
    # Frobenius norm is a bound of the largest that costs one pass.
    x = x / (jnp.sqrt(jnp.sum(jnp.square(x))) + eps)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if tall else x


def scale_by_muon(
    momentum: Number, b1: Number, b2: Number, eps: Number, layers: Layers | None = None
) -> optax.GradientTransformation:
    r"""Muon for the kernels of dense layers, Nesterov's Adam for the other parameters; equals `optax.contrib.muon`
    before its rate.

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

    def init(params: Params) -> OptState:
        zeros = optax.tree.zeros_like
        _matrices(params, layers)  # for its errors, which would otherwise come with the first step
        return ScaleByMuonState(count=jnp.zeros((), jnp.int32), mu=zeros(params), nu=zeros(params))

    def update(updates: Updates, state: OptState, params: Params | None = None) -> tuple[Updates, OptState]:
        del params
        count = optax.safe_increment(state.count)
        matrices = _matrices(updates, layers)

        def beta(matrix: Parameter | None) -> Number:
            return b1 if matrix is None else momentum

        def look_ahead(matrix: Parameter | None, m: jax.Array, g: jax.Array) -> jax.Array:
            # The momentum that the next step will have, if its gradient is this one: so it is corrected by t + 1.
            now, ahead = 1 - beta(matrix) ** count, 1 - beta(matrix) ** (count + 1)
            return beta(matrix) * (m / ahead) + (1 - beta(matrix)) * (g / now)

        def direction(matrix: Parameter | None, m: jax.Array, v: jax.Array) -> jax.Array:
            if matrix is None:
                return m / (jnp.sqrt(v / (1 - b2**count)) + eps)
            # A scanned layer's copies are separate matrices: joined, they would be made orthogonal to each other.
            return over_copies(functools.partial(_muon, within_copy(matrix), eps), matrix.stack)(m)

        def mapped(function: Callable[..., jax.Array], *trees: Updates) -> Updates:
            # By leaves, because a `Parameter` is a tuple, which `jax.tree.map` would take apart.
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


def _matrices(params: Params, layers: Layers | None) -> list[Parameter | None]:
    """For each leaf what is known of it, if it is the kernel of a dense layer; else None."""
    return [
        p.require_layout("Muon") if p.role == "kernel" and not p.window else None
        for p in parameters(params, layers)
    ]


def _muon(kernel: Parameter, eps: Number, m: jax.Array) -> jax.Array:
    """The direction of one kernel, orthogonal as the matrix [inputs, outputs]."""
    # Heads and dim of an attention are one side of the matrix, wherever the layer keeps these axes.
    order = (*kernel.inputs, *kernel.outputs)
    rows, columns = (math.prod(m.shape[a] for a in side) for side in (kernel.inputs, kernel.outputs))
    matrix = m.transpose(order)
    flat = max(1, columns / rows) ** 0.5 * orthogonalize(matrix.reshape(rows, columns), eps)
    return flat.reshape(matrix.shape).transpose([order.index(axis) for axis in range(m.ndim)])
