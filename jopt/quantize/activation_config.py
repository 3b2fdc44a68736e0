"""The config of activation quantization, its check, and the plan that is printed before a run."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax

from jopt import intercept, rules
from jopt.config import ConfigError, check_types, choice, join_path, require
from jopt.hyper import as_traced, swept
from jopt.quantize.spec import ACCEPTED_OR_NONE, BITS, UNTOUCHED, Spec

CALIBRATED = ("absmax", "mse", "percentile")
LEARNED = {"lsq": "step", "pact": "alpha"}  # and the name of what is learned
METHODS = (*CALIBRATED, *LEARNED, "moving_average")


@dataclasses.dataclass
class ActivationConfig:
    """How the inputs of a model's layers are quantized: one range for each layer, chosen or learned.

    A rule is a pair of a regular expression, which must match a layer's whole path such as `Dense_0` or
    `Block_1/Conv_0`, and that layer's bits, None leaving it alone; the first match wins, and a rule that changes
    nothing is an error (`jopt.rules`). Leaving out the first and the last layer of `mlp` is
    `rules=(("Dense_0", None), ("Dense_2", None))`.

    Attributes:
      method: where a range comes from. Calibration, and then it is constant: 'absmax' (all of the inputs),
        'percentile', 'mse' (the least squared error). Training: 'moving_average' of the batches' extremes,
        'lsq' (a step size) or 'pact' (a clipping level), both parameters with gradients.
      bits: of a layer that no rule matches: 1 to 8, or 16; may be traced. None: the layer is left alone. 32: it has
        a range as at any width, so that the program is the same, and its inputs pass as they are: the control of a
        sweep.
      symmetric: whether codes are centred on 0. Inputs behind a ReLU are not, and lose half of their codes by it.
      percentile: of 'percentile', and of the level that 'pact' starts from; in (50, 100].
      momentum: of 'moving_average': what is left of the old range at each step, in [0, 1).
      examples: number of examples that `calibrate` looks at.
      rules: pairs of a pattern and bits.
      state: whether recurrent layers see their own state quantized too: to the layer's bits, symmetric on [-1, 1],
        in which the states of all cells lie, so that nothing is calibrated.

    Example:
      >>> validate_activations(ActivationConfig("lsq", bits=4, rules=(("Dense_0", None),)))
    """

    method: str = "percentile"
    bits: int | None = swept(8)
    symmetric: bool = False
    percentile: float = 99.9
    momentum: float = 0.9
    examples: int = 512
    rules: tuple[tuple[str, int | None], ...] = ()
    state: bool = False

    @property
    def is_identity(self) -> bool:
        """Whether nothing is quantized, whatever the model."""
        return self.bits is None and all(bits is None for _, bits in self.rules)


def validate_activations(config: ActivationConfig, path: str = "activations") -> None:
    """Checks a config of plain Python values, once, before anything compiles.

    Whether the rules match layers is known only with the model: `plan_activations` raises `RuleError` for that.

    Args:
      config: the config.
      path: its place in the experiment, for the message.

    Raises:
      ConfigError: names the field, the value and what would be accepted.

    Example:
      >>> validate_activations(ActivationConfig(bits=9))
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: activations.bits must be 1 to 8, 16, 32 (which changes nothing) or None, got 9
    """
    check_types(config, path)
    choice(join_path(path, "method"), config.method, METHODS)
    _require_bits(join_path(path, "bits"), config.bits)
    for name, fits, accepted in (
        ("percentile", lambda q: 50 < q <= 100, "a percentage in (50, 100]"),
        ("momentum", lambda m: 0 <= m < 1, "a number in [0, 1)"),
    ):
        value = getattr(config, name)
        require(math.isfinite(value) and fits(as_traced(value)), join_path(path, name), value, accepted)
    require(config.examples >= 1, join_path(path, "examples"), config.examples, "at least 1")
    for i, (pattern, bits) in enumerate(config.rules):
        field = join_path(path, f"rules[{i}]")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(field, pattern, f"a regular expression ({error})") from error
        _require_bits(field, bits)
    require(not (config.state and config.is_identity), join_path(path, "state"), config.state, "False without bits")


def _require_bits(field: str, bits: int | None) -> None:
    require(bits is None or bits in (*BITS, UNTOUCHED), field, bits, ACCEPTED_OR_NONE)


class ActivationRow(NamedTuple):
    """What the input of one layer gets."""

    path: str
    shape: tuple[int, ...]  # of one example's input.
    what: str


def plan_activations(config: ActivationConfig, model: Any, x: Any) -> list[ActivationRow]:
    """What the input of each layer gets, in call order. Nothing is computed.

    Args:
      config: the config.
      model: a `jopt.models.Model` made of Linen modules, not yet wrapped.
      x: a batch, or its shape as `jax.ShapeDtypeStruct`.

    Returns:
      An `ActivationRow` for each layer.

    Raises:
      RuleError: if a rule matches no layer, or is hidden behind those before it.
      ValueError: if the model is not made of Linen modules; for a state that no layer has (a `ConfigError`).

    Example:
      >>> import jax.numpy as jnp
      >>> from jopt import models
      >>> model = models.model(models.Config("mlp", features=(3,)))
      >>> config = ActivationConfig(bits=4, rules=(("Dense_1", None),))
      >>> for row in plan_activations(config, model, jnp.ones((1, 2, 2, 1))):
      ...     print(*row)
      Dense_0 (4,) 4 bits, asymmetric, percentile
      Dense_1 (3,) as it is
    """
    params, model_state = jax.eval_shape(model.init, jax.random.key(0), x)
    layers = intercept.names(model.apply, params, model_state, x, train=False)
    bits = layer_bits(config, layers)
    states = checked_states(config, bits, model.apply, params, model_state, x)
    sign = "symmetric" if config.symmetric else "asymmetric"

    def what(path: str) -> str:
        if bits[path] in (None, UNTOUCHED):
            return "as it is"
        state = ", and its state" if path in states else ""
        return f"{bits[path]} bits, {sign}, {config.method}{state}"

    return [ActivationRow(path, tuple(calls[0].input.shape[1:]), what(path)) for path, calls in layers.items()]


def checked_states(config: ActivationConfig, bits: Mapping[str, Any], apply: Any, *args: Any) -> list[str]:
    """The layers whose state is quantized, for a config that quantizes states and a model that has them.

    Args:
      config: the config.
      bits: what `layer_bits` gave.
      apply: the model's function; it is called with `train=False`. Nothing is computed.
      *args: its arguments, or their shapes.

    Returns:
      Paths, in the order of the first call; none unless `config.state`.

    Raises:
      ConfigError: if `config.state` and no layer that is quantized has a state.

    Example:
      >>> checked_states(ActivationConfig(), {"Dense_0": 8}, None)
      []
    """
    found: dict[str, bool] = {}
    if not config.state:
        return []

    def see(module: Any, call: Any, x: Any) -> Any:
        found[intercept.path_of(module)] = has_state(module)
        return call(x)

    jax.eval_shape(functools.partial(intercept.replace_layers(apply, see), train=False), *args)
    return quantized_states(config, bits, found)


def quantized_states(config: ActivationConfig, bits: Mapping[str, Any], recurrent: Mapping[str, bool]) -> list[str]:
    """`checked_states`, where it is known which layers are recurrent.

    Example:
      >>> config = ActivationConfig(state=True)
      >>> quantized_states(config, {"Recurrent_0": 8, "Dense_0": 8}, {"Recurrent_0": True, "Dense_0": False})
      ['Recurrent_0']
    """
    found = [path for path, has in recurrent.items() if config.state and has and bits[path] is not None]
    if config.state and not found:
        raise ConfigError("activations.state", True, "False where no layer that is quantized is recurrent")
    return found


def has_state(module: Any) -> bool:
    """Whether a layer is recurrent: a module that makes all of its products by its attribute `product`.

    Example:
      >>> from jopt.models.rnn import Recurrent
      >>> has_state(Recurrent("rnn", 2))
      True
    """
    return hasattr(module, "product")


def layer_bits(config: ActivationConfig, layers: Iterable[str]) -> dict[str, Any]:
    """The bits of each layer, None for one that is left alone.

    Args:
      config: the config.
      layers: the paths of all layers of a model.

    Returns:
      From path to bits, in the order of `layers`.

    Raises:
      RuleError: if a rule matches no layer, or is hidden behind those before it.

    Example:
      >>> layer_bits(ActivationConfig(rules=((".*_0", 4),)), ["Dense_0", "Dense_1"])
      {'Dense_0': 4, 'Dense_1': 8}
    """
    layers = list(layers)
    try:
        given = {a.path: a.value for a in rules.plan(config.rules, dict.fromkeys(layers, 0), config.bits)}
    except rules.RuleError as error:
        message = str(error).replace("no parameter; the parameters are", "no layer; the layers are")
        raise rules.RuleError(f"rules of activations: {message}") from error
    return {path: given[path] for path in layers}


def layer_spec(config: ActivationConfig, path: str) -> Spec:
    """The `Spec` of the input of the layer at `path`; the identity for one that is left alone.

    Example:
      >>> layer_spec(ActivationConfig(bits=4), "Dense_0").bits
      4
    """
    matching = (bits for pattern, bits in config.rules if re.fullmatch(pattern, path))
    return Spec(next(matching, config.bits), symmetric=config.symmetric)


def state_spec(config: ActivationConfig, path: str) -> Spec:
    """The `Spec` of the state of the layer at `path`, on [-1, 1]; the identity where it is left alone.

    Example:
      >>> state_spec(ActivationConfig(bits=4, state=True), "Recurrent_0")
      Spec(bits=4, symmetric=True, axis=None, narrow=True, group=None)
    """
    return Spec(layer_spec(config, path).bits) if config.state else Spec.identity()
