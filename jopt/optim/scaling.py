"""What each optimizer makes of the gradient before the learning rate: Optax's transforms and the articles' forms.

All formulas are for one element; g is the gradient, u the direction, and the parameter moves by minus the learning
rate times u.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jopt.hyper import check_number
from jopt.layers import Layers
from jopt.optim.config import Config
from jopt.optim.muon import scale_by_muon


def scale_by_optimizer(config: Config, layers: Layers | None = None) -> optax.GradientTransformation:
    """The transform that `config.name` and `config.variant` stand for.

    Args:
      config: a config whose coefficients are present, as `jopt.optim.config.complete` makes it.
      layers: what the model says about its parameters, which muon reads.

    Returns:
      A `GradientTransformation` whose state is one of Optax's NamedTuples (muon's is its own).

    Example:
      >>> from jopt.optim.config import complete
      >>> t = scale_by_optimizer(complete(Config("momentum", momentum=0.5)))
      >>> updates, state = t.update({"w": jnp.ones(2)}, t.init({"w": jnp.zeros(2)}))
      >>> t.update({"w": jnp.ones(2)}, state)[0]["w"].tolist()
      [1.5, 1.5]
    """
    c: Any = config
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


def scale_by_paper_adagrad(eps: Any) -> optax.GradientTransformation:
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

    def init(params):
        return optax.ScaleByRssState(sum_of_squares=optax.tree.zeros_like(params))

    def update(updates, state, params=None):
        del params
        sums = jax.tree.map(lambda g, s: s + jnp.square(g), updates, state.sum_of_squares)
        updates = jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + eps), updates, sums)
        return updates, optax.ScaleByRssState(sum_of_squares=sums)

    return optax.GradientTransformation(init, update)


def scale_by_adam(b1: Any, b2: Any, eps: Any, *, bias_correction: bool = True) -> optax.GradientTransformation:
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
      b2: $b_2$, likewise.
      eps: $\epsilon$, likewise.
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

    def init(params):
        zeros = optax.tree.zeros_like
        return optax.ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=zeros(params), nu=zeros(params))

    def update(updates, state, params=None):
        del params
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        count = optax.safe_increment(state.count)
        if bias_correction:
            root = jnp.sqrt(1 - b2**count)
            # Kept from vanishing, so that 0 / 0 is never met where Optax has 0.
            scale, floor = root / (1 - b1**count), jnp.maximum(root * eps, jnp.finfo(root.dtype).tiny)
            updates = jax.tree.map(lambda m, v: scale * (m / (jnp.sqrt(v) + floor)), mu, nu)
        else:
            updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)
