"""Activation quantization: a model whose layers see their inputs quantized, with its ranges in plain sight."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jopt import intercept
from jopt.hyper import known
from jopt.quantize.activation_config import (
    LEARNED,
    ActivationConfig,
    checked_states,
    has_state,
    layer_bits,
    layer_spec,
    state_spec,
    validate_activations,
)
from jopt.quantize.fake import fake_quantize
from jopt.quantize.grid import Range
from jopt.quantize.learned import lsq, pact
from jopt.quantize.ranges import dynamic
from jopt.quantize.spec import Spec

KEY = "activation_ranges"
"""Under this key of `params` and `model_state` the ranges are held."""

STATE_RANGE = Range(-1.0, 1.0)  # type: ignore[arg-type]
"""Of recurrent states."""

M = TypeVar("M")
Ranges = dict[str, dict[str, jax.Array]]  # From a layer's path to what is held of its range.


def activations(model: M, config: ActivationConfig) -> M:
    """The model whose layers' inputs are fake-quantized, with one range for each layer.

    `y = layer(fake_quantize(x))`; `jopt.intercept` says what is a layer. The ranges are part of the trees that the
    model is a function of, under the key 'activation_ranges' and then the layer's path, all scalars:

    | method | in `model_state` | in `params` | moves |
    |---|---|---|---|
    | absmax, percentile, mse | low, high | | never: `calibrate` chooses them |
    | moving_average | low, high | | in training, to `m old + (1 - m) batch` (Jacob et al. 2018, section 3.1) |
    | lsq | signed | step | by gradient (Esser et al. 2020) |
    | pact | signed | alpha | by gradient (Choi et al. 2018) |

    A range, step or alpha of 0 means *not calibrated*: the layer's input passes unchanged. So it is after `init`:
    call `calibrate` before training, or let `moving_average` begin with the first batch's range. `signed` says
    whether negative inputs have codes, as `calibrate` found out (with `config.symmetric` they always have, and it
    is absent). Step and alpha count by their magnitude, so that no step of an optimizer turns them into nonsense. A
    layer that is called several times in a pass has one range for all of its calls. With `config.state` recurrent
    layers also see their state quantized, before each step's product, on [-1, 1].

    Args:
      model: a `jopt.models.Model`, or another NamedTuple with such an `init` and `apply`, made of Linen modules,
        whose params and state are dictionaries.
      config: what to do; `bits`, `percentile` and `momentum` may be traced.

    Returns:
      A model of the same type. If the config quantizes nothing, the model itself.

    Raises:
      ValueError: (its functions) if no Linen module with a kernel runs; if params or state are no dictionaries, use
        the key themselves, or lack a layer's range.
      RuleError: (`init`) if a rule matches no layer.

    Example:
      >>> from jopt import models
      >>> model = activations(models.model(models.Config("linear")), ActivationConfig("moving_average", bits=2))
      >>> params, state = model.init(jax.random.key(0), jnp.ones((1, 2)))
      >>> _, state = model.apply(params, state, jnp.array([[1.0, 3.0]]), train=True)
      >>> _, state = model.apply(params, state, jnp.array([[1.0, -1.0]]), train=True)
      >>> {name: round(float(v), 3) for name, v in state["activation_ranges"]["Dense_0"].items()}
      {'low': -0.1, 'high': 2.8}
    """
    validate_activations(known(config), "")
    inner: Any = model
    if config.is_identity and not config.rules:
        return model

    def init(key: jax.Array, x: jax.Array) -> tuple[Any, Any]:
        params, model_state = inner.init(key, x)
        layers = intercept.names(inner.apply, params, model_state, x, train=False)
        found = checked_bits(config, layers)
        checked_states(config, found, inner.apply, params, model_state, x)
        fresh = {path: fresh_range(config) for path, bits in found.items() if bits is not None}
        learned, held = ({path: both[i] for path, both in fresh.items() if both[i]} for i in range(2))
        return join("params", params, learned), join("model_state", model_state, held)

    def apply(params: Any, model_state: Any, x: jax.Array, *, train: bool, key: jax.Array | None = None):
        params, learned = split("params", params)
        model_state, held = split("model_state", model_state)
        moving = config.method == "moving_average" and train
        batch: dict[str, Range] = {}

        def change(path: str, value: jax.Array) -> jax.Array:
            spec = layer_spec(config, path)
            if not moving or spec.bits is None:
                return quantized_input(config, path, value, learned, held)
            own = dynamic(jax.lax.stop_gradient(value), spec)
            batch[path] = own if path not in batch else _union(batch[path], own)
            return _in_range(
                value, spec, _average(Range(**range_of(held, path, "model_state")), batch[path], config.momentum)
            )

        def around(module: Any, call: Any, value: jax.Array) -> Any:
            path = intercept.path_of(module)
            seen = change(path, value)
            if not config.state or not has_state(module):
                return call(seen)

            def product(name: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
                return module.product(name, x if name == "kernel" else quantized_state(config, path, x), kernel)

            return call(seen, product=product)

        run = intercept.replace_layers(inner.apply, around)
        if not moving:
            logits, model_state = run(params, model_state, x, train=train, key=key)
            return logits, join("model_state", model_state, held)
        # A range inside a trace of its own (nn.scan) could not be brought out: `capture` says so.
        (logits, model_state), _ = intercept.capture(run)(params, model_state, x, train=train, key=key)
        moved = {path: _average(Range(**held[path]), own, config.momentum)._asdict() for path, own in batch.items()}
        return logits, join("model_state", model_state, {**held, **moved})

    return inner._replace(init=init, apply=apply)


def checked_bits(config: ActivationConfig, layers: Mapping[str, Any]) -> dict[str, Any]:
    """`layer_bits`, for a model that has layers.

    Example:
      >>> checked_bits(ActivationConfig(), {"Dense_0": ()})
      {'Dense_0': 8}
    """
    if not layers:
        raise ValueError("the model has no layer to quantize: no Linen module with a parameter named kernel ran")
    return layer_bits(config, layers)


def fresh_range(config: ActivationConfig) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """What a layer that is not calibrated has in `params` and in `model_state`.

    Example:
      >>> fresh_range(ActivationConfig("lsq"))
      ({'step': Array(0., dtype=float32)}, {'signed': Array(False, dtype=bool)})
    """
    if config.method in LEARNED:
        return {LEARNED[config.method]: jnp.float32(0)}, {} if config.symmetric else {"signed": jnp.bool_(False)}
    return {}, {"low": jnp.float32(0), "high": jnp.float32(0)}


def split(name: str, tree: Any) -> tuple[dict[str, Any], Ranges]:
    """Takes the ranges out of `params` or `model_state`, whichever `name` says it is.

    Example:
      >>> split("params", {"Dense_0": 1, "activation_ranges": {"Dense_0": {"step": 2}}})
      ({'Dense_0': 1}, {'Dense_0': {'step': 2}})
    """
    if not isinstance(tree, Mapping):
        raise ValueError(f"{name} must be a dictionary, so that it can hold ranges, got {type(tree).__name__}")
    return {key: value for key, value in tree.items() if key != KEY}, dict(tree.get(KEY, {}))


def join(name: str, tree: Any, ranges: Ranges) -> dict[str, Any]:
    """Puts ranges into what `split` gave; no ranges leave no trace.

    Example:
      >>> join("params", {"Dense_0": 1}, {})
      {'Dense_0': 1}
    """
    if not isinstance(tree, Mapping):
        raise ValueError(f"{name} must be a dictionary, so that it can hold ranges, got {type(tree).__name__}")
    if KEY in tree:
        raise ValueError(
            f"{name} has a {KEY!r} of its own: the model is quantized already, or uses a reserved name"
        )
    return {**tree, KEY: ranges} if ranges else dict(tree)


def range_of(ranges: Ranges, path: str, name: str) -> dict[str, jax.Array]:
    """What is held of the range of the layer at `path`; `name` says whether that is in params or in model_state.

    Example:
      >>> range_of({"Dense_0": {"step": 2}}, "Dense_0", "params")
      {'step': 2}
    """
    if path not in ranges:
        have = ", ".join(ranges) or "none"
        raise ValueError(
            f"{name}[{KEY!r}] has no range for layer {path!r}, which the config quantizes (it has: {have}); "
            "`init` and `calibrate` make them"
        )
    return ranges[path]


def _learned(x: jax.Array, spec: Spec, method: str, own: dict[str, jax.Array], signed: Any) -> jax.Array:
    number = jnp.abs(own[LEARNED[method]])
    absent = number == 0
    safe = jnp.where(absent, jnp.float32(1), number)

    def quantize(spec: Spec) -> jax.Array:
        # The gradient of a step is scaled by the number of features, the batch left out (Esser et al. 2020).
        return lsq(x, safe, spec, count=x.size // x.shape[0]) if method == "lsq" else pact(x, safe, spec)

    y = quantize(spec)
    if signed is not None:
        y = jnp.where(signed, quantize(Spec(spec.bits, symmetric=True)), y)
    return jnp.where(absent, x, y)


def quantized_input(config: ActivationConfig, path: str, x: jax.Array, learned: Ranges, held: Ranges) -> jax.Array:
    """What the layer at `path` sees of its input in evaluation, given the ranges that `split` took out.

    Example:
      >>> held = {"Dense_0": {"low": jnp.float32(0), "high": jnp.float32(3)}}
      >>> quantized_input(ActivationConfig(bits=2), "Dense_0", jnp.array([0.6, 9.0]), {}, held).tolist()
      [1.0, 3.0]
    """
    spec = layer_spec(config, path)
    if spec.bits is None:
        return x
    if config.method in LEARNED:
        signed = None if config.symmetric else range_of(held, path, "model_state")["signed"]
        return _learned(x, spec, config.method, range_of(learned, path, "params"), signed)
    return _in_range(x, spec, Range(**range_of(held, path, "model_state")))


def quantized_state(config: ActivationConfig, path: str, h: jax.Array) -> jax.Array:
    """What the recurrent layer at `path` sees of its state.

    Example:
      >>> quantized_state(ActivationConfig(bits=2, state=True), "Recurrent_0", jnp.array([0.4, -0.6])).tolist()
      [0.0, -1.0]
    """
    return fake_quantize(h, state_spec(config, path), STATE_RANGE)


def _in_range(x: jax.Array, spec: Spec, range: Range) -> jax.Array:
    return jnp.where(range.low == range.high, x, fake_quantize(x, spec, range))


def _average(old: Range, batch: Range, momentum: Any) -> Range:
    """The moving average's next range; the batch's own where there is none yet."""
    absent = old.low == old.high
    kept = jnp.asarray(momentum, jnp.float32)
    return Range(*(jnp.where(absent, b, kept * o + (1 - kept) * b) for o, b in zip(old, batch, strict=True)))


def _union(a: Range, b: Range) -> Range:
    return Range(jnp.minimum(a.low, b.low), jnp.maximum(a.high, b.high))
