"""Activation quantization: layers that see their inputs on a grid, with one range for each layer.

`y = layer(fake_quantize(x))`. The ranges are arrays in the model's own trees, under the key 'activation_ranges' of
`params` (those that are trained) and of `model_state` (the others), so they are saved, restored, sharded and
batched like everything else. This file owns the wrapping, which is the same for all methods; a method is a class
that derives from `ActivationMethod` and says what a range is (`jopt.quantize.activation_methods` has ours).
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jopt import intercept, rules
from jopt.config import ConfigError, join_path, require
from jopt.hyper import known, swept
from jopt.method import InputRow, Method
from jopt.quantize.grid import Grid, Range
from jopt.quantize.methods import BitRules, check_rules
from jopt.quantize.ranges import dynamic
from jopt.quantize.spec import ACCEPTED_OR_NONE, BITS, UNTOUCHED, Spec, check_array
from jopt.quantize.tensors import fake_quantize
from jopt.transform import Params, State

if TYPE_CHECKING:
    from jopt.models import Model

KEY = "activation_ranges"
"""The key of `params` and of `model_state` under which the ranges stand."""

STATE_RANGE = Range(-1.0, 1.0)  # type: ignore[arg-type]
"""The range of recurrent states."""

M = TypeVar("M")
Numbers = dict[str, jax.Array]
"""What is stored of one layer's range, by name."""
Ranges = dict[str, Numbers]
"""From a layer's path to its numbers."""


class LayerRange(NamedTuple):
    """What is stored of the range of one layer.

    Attributes:
      trained: in `params`: what the optimizer moves.
      fixed: in `model_state`: the rest.
    """

    trained: Numbers
    fixed: Numbers


class LayerGrid(NamedTuple):
    """How the input of one layer is quantized, for integer execution and export.

    Attributes:
      spec: with the sign that it has.
      grid: of scalars.
      calibrated: bool scalar; where False the input passes as it is.
    """

    spec: Spec
    grid: Grid
    calibrated: jax.Array


@dataclasses.dataclass(frozen=True)
class ActivationMethod(Method):
    """The base class of methods that quantize the inputs of layers. Override `fresh`, `choose` and `see`.

    A rule is a pair of a regular expression, which must match a layer's whole path such as `Dense_0` or
    `Block_1/Conv_0`, and that layer's bits, None leaving it alone; the first match wins, and a rule that changes
    nothing is an error (`jopt.rules`). Leaving out the first and the last layer of `mlp` is
    `rules=(("Dense_0", None), ("Dense_2", None))`.

    Attributes:
      bits: of a layer that no rule matches: 1 to 8, or 16; may be traced. None: the layer is left alone. 32: it has
        a range as at any width, so that the program is the same, and its inputs pass as they are: the control of a
        sweep.
      symmetric: whether codes are centred on 0. Inputs behind a ReLU are not, and lose half of their codes by it.
      examples: the number of examples that `calibrate` looks at.
      rules: pairs of a pattern and bits.
      state: whether recurrent layers see their own state quantized too: to the layer's bits, symmetric on [-1, 1],
        where the states of all cells lie, so that nothing is calibrated.
      products: whether the operands of products of two activations are quantized too: in attention the queries and
        the keys, the weights and the values. They are layers then, 'block/attention/product0/left' and '.../right'.
        In simulation only: integer execution and quantized ONNX refuse them.
    """

    name: ClassVar[str] = "activations"
    rank: ClassVar[int] = 60
    key: ClassVar[str] = KEY
    moves: ClassVar[bool] = False
    """Whether `fixed` numbers follow the inputs in training, by `moved`."""

    bits: int | None = swept(8)
    symmetric: bool = False
    examples: int = dataclasses.field(default=512, kw_only=True)
    rules: BitRules = dataclasses.field(default=(), kw_only=True)
    state: bool = dataclasses.field(default=False, kw_only=True)
    products: bool = dataclasses.field(default=False, kw_only=True)

    # What a variant says of one layer: five small functions of scalars.

    def fresh(self) -> LayerRange:
        """The numbers of a layer that is not calibrated; `see` must then give the input as it is."""
        raise NotImplementedError

    def choose(self, values: jax.Array, spec: Spec) -> LayerRange:
        """The numbers that calibration chooses.

        Args:
          values: float32 [n], the layer's inputs over examples, positions and calls.
          spec: of the layer.
        """
        raise NotImplementedError

    def see(self, x: jax.Array, spec: Spec, layer: LayerRange) -> jax.Array:
        """What the layer computes with, of the shape and dtype of `x`; differentiable in `x` and `layer.trained`.

        Args:
          x: the layer's input.
          spec: of the layer, its bits not None.
          layer: its numbers.
        """
        raise NotImplementedError

    def moved(self, fixed: Numbers, seen: Range) -> Numbers:
        """The fixed numbers after a training step whose inputs had the range `seen`; read where `moves`."""
        del seen
        return fixed

    def layer_grid(self, spec: Spec, layer: LayerRange, path: str) -> LayerGrid:
        """The grid of a layer's input, which integer execution and export need.

        Raises:
          ValueError: if the method has no integers, or whether it is signed is traced.
        """
        del spec, layer
        raise ValueError(f"{type(self).__name__} has no integer grid for the input of layer {path!r}")

    def describe(self) -> str:
        """Where the range comes from, for the plan."""
        return type(self).__name__

    # The protocol of `jopt.method.Method`.

    def validate(self, path: str = "") -> None:
        """Checks the fields; `Method.validate` says more. `plan_inputs` checks rules, which need the model."""
        path = path or self.name
        super().validate(path)
        fits = self.bits is None or self.bits in (*BITS, UNTOUCHED)
        require(fits, join_path(path, "bits"), self.bits, ACCEPTED_OR_NONE)
        require(self.examples >= 1, join_path(path, "examples"), self.examples, "at least 1")
        check_rules(join_path(path, "rules"), self.rules)
        quantizes = not (self.state and self.is_identity)
        require(quantizes, join_path(path, "state"), self.state, "False without bits")

    def wrap(self, model: "Model", *, frozen: bool = False) -> "Model":
        """The model whose layers see their inputs quantized; see `activations`.

        Args:
          model: the network, not yet wrapped.
          frozen: whether no range moves any more: neither by training inputs nor by gradients.
        """
        known(self).validate()
        return _wrapped(model, self, frozen)

    def calibration_examples(self) -> int:
        """`examples`."""
        return self.examples

    def calibrate(
        self, model: "Model", params: Params, model_state: State, inputs: PyTree, *, seen: Params = None
    ) -> tuple[Params, State]:
        """Chooses the range of each layer's input from what the model, not quantized, makes of some examples.

        Args:
          model: the model as it was before `wrap`.
          params: the parameters; ranges in them are replaced.
          model_state: the state; ranges in it are replaced too.
          inputs: examples as the model takes them, one array or a pytree; the first `examples` are looked at.
          seen: what the model sees of `params`, such as masked and quantized ones; None: `params`.

        Returns:
          `(params, model_state)` for the wrapped model, with ranges.

        Raises:
          RuleError: if a rule matches no layer.
          ValueError: as `activations`, and if (unless traced) a layer's input is not finite.
        """
        plain, _ = split("params", params if seen is None else seen)
        params, _ = split("params", params)
        model_state, _ = split("model_state", model_state)
        # With rules that leave every layer alone, the rules still have to match: `bits_of` checks them.
        if self.is_identity and not self.rules:
            return params, model_state
        forward = functools.partial(model.apply, train=False)
        first = jax.tree.map(lambda x: x[: self.examples], inputs)
        _, calls = intercept.capture(forward, products=self.products)(plain, model_state, first)
        chosen = {}
        for path, bits in self.bits_of(calls).items():
            if bits is not None:
                # A layer that is called several times has one range, so its calls are calibrated together.
                shape = copies_of(path, calls[path])
                flat = [call.input.astype(jnp.float32).reshape(*shape, -1) for call in calls[path]]
                values = jnp.concatenate(flat, axis=-1)
                check_array(values, f"the input of layer {path!r}")
                spec = Spec(bits, symmetric=self.symmetric)
                chosen[path] = _by_copy(lambda v, spec=spec: self.choose(v, spec), values, len(shape))
        return _joined(params, model_state, chosen)

    def plan_inputs(self, model: "Model", x: jax.ShapeDtypeStruct | jax.Array) -> list[InputRow]:
        """What the input of each layer gets, in call order. Nothing is computed.

        Args:
          model: a `jopt.models.Model` made of modules, not yet wrapped.
          x: a batch, or its shape.

        Raises:
          RuleError: if a rule matches no layer, or is hidden behind those before it.
          ValueError: if the model is not made of modules; for a state that no layer has (a `ConfigError`).

        Example:
          >>> from jopt import models
          >>> from jopt.quantize import Activations
          >>> model = models.model(models.ModelConfig("mlp", features=(3,)))
          >>> for row in Activations(bits=4, rules=(("Dense_1", None),)).plan_inputs(model, jnp.ones((1, 2, 2, 1))):
          ...     print(*row)
          Dense_0 (4,) 4 bits, asymmetric, percentile
          Dense_1 (3,) as it is
        """
        params, model_state = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), x)
        layers = intercept.names(model.apply, params, model_state, x, train=False, products=self.products)
        # Said even where they are left alone, since nobody sees them in the list of layers.
        others = {} if self.products else intercept.operands(model.apply, params, model_state, x, train=False)
        bits = self.bits_of(layers)
        states = self.recurrent_layers(bits, model.apply, params, model_state, x)
        sign = "symmetric" if self.symmetric else "asymmetric"

        def what(path: str) -> str:
            if bits[path] in (None, UNTOUCHED):
                return "as it is"
            return f"{bits[path]} bits, {sign}, {self.describe()}{', and its state' if path in states else ''}"

        rows = [InputRow(path, tuple(calls[0].input.shape[1:]), what(path)) for path, calls in layers.items()]
        note = "as it is: an operand of a product of two activations (products=True quantizes it)"
        return rows + [InputRow(path, shape, note) for path, shape in others.items()]

    # What follows from the fields.

    @property
    def is_identity(self) -> bool:
        """Whether nothing is quantized, whatever the model."""
        return self.bits is None and all(bits is None for _, bits in self.rules)

    def bits_of(self, layers: Iterable[str]) -> dict[str, Any]:
        """The bits of each of a model's layers, None for one that is left alone, in the order of `layers`.

        Raises:
          RuleError: if a rule matches no layer, or is hidden behind those before it.
          ValueError: if there are no layers.

        Example:
          >>> ActivationMethod(rules=((".*_0", 4),)).bits_of(["Dense_0", "Dense_1"])
          {'Dense_0': 4, 'Dense_1': 8}
        """
        layers = list(layers)
        if not layers:
            raise ValueError(
                "the model has no layer to quantize: no module of Linen, NNX or Equinox with a kernel ran"
            )
        try:
            assigned = {a.path: a.value for a in rules.plan(self.rules, dict.fromkeys(layers, 0), self.bits)}
        except rules.RuleError as error:
            # The rules of parameters are reused for layers; only their message speaks of parameters.
            message = str(error).replace("no parameter; the parameters are", "no layer; the layers are")
            raise rules.RuleError(f"rules of activations: {message}") from error
        return {path: assigned[path] for path in layers}

    def layer_spec(self, path: str) -> Spec:
        """The Spec of the input of the layer at `path`; the identity for one that is left alone.

        Example:
          >>> ActivationMethod(bits=4).layer_spec("Dense_0").bits
          4
        """
        matching = (bits for pattern, bits in self.rules if re.fullmatch(pattern, path))
        return Spec(next(matching, self.bits), symmetric=self.symmetric)

    def state_spec(self, path: str) -> Spec:
        """The Spec of the state of the layer at `path`, on [-1, 1]; the identity where it is left alone.

        Example:
          >>> ActivationMethod(bits=4, state=True).state_spec("Recurrent_0")
          Spec(bits=4, symmetric=True, axis=None, narrow=True, group=None)
        """
        return Spec(self.layer_spec(path).bits) if self.state else Spec.identity()

    def quantized_state(self, path: str, h: jax.Array) -> jax.Array:
        """What the recurrent layer at `path` sees of its state.

        Example:
          >>> method = ActivationMethod(bits=2, state=True)
          >>> method.quantized_state("Recurrent_0", jnp.array([0.4, -0.6])).tolist()
          [0.0, -1.0]
        """
        return fake_quantize(h, self.state_spec(path), STATE_RANGE)

    def quantized_input(self, path: str, x: jax.Array, trained: Ranges, fixed: Ranges) -> jax.Array:
        """What the layer at `path` sees of its input in evaluation, given the ranges that `split` took out.

        Example:
          >>> from jopt.quantize import Activations
          >>> fixed = {"Dense_0": {"low": jnp.float32(0), "high": jnp.float32(3)}}
          >>> Activations(bits=2).quantized_input("Dense_0", jnp.array([0.6, 9.0]), {}, fixed).tolist()
          [1.0, 3.0]
        """
        spec = self.layer_spec(path)
        return x if spec.bits is None else self.see(x, spec, self.layer_range(path, trained, fixed))

    def input_grid(self, path: str, trained: Ranges, fixed: Ranges) -> LayerGrid:
        """The grid on which the input of a layer, which the method quantizes, is quantized in evaluation.

        Args:
          path: the layer's.
          trained: the ranges in `params`, as `split` gives them.
          fixed: those in `model_state`.

        Raises:
          ValueError: if the layer has no range, or the method no integers; if whether it is signed is traced.

        Example:
          >>> from jopt.quantize import Activations
          >>> fixed = {"Dense_0": {"low": jnp.float32(0), "high": jnp.float32(51)}}
          >>> spec, grid, calibrated = Activations().input_grid("Dense_0", {}, fixed)
          >>> spec.symmetric, float(grid.scale), bool(calibrated)
          (False, 0.20000000298023224, True)
        """
        if self.products:
            raise ValueError(
                "products=True quantizes products of two activations in simulation only: integer execution and "
                "quantized ONNX have none of them"
            )
        return self.layer_grid(self.layer_spec(path), self.layer_range(path, trained, fixed), path)

    def layer_range(self, path: str, trained: Ranges, fixed: Ranges) -> LayerRange:
        """The numbers of the layer at `path`; the method's `fresh` says in which trees it has some.

        Raises:
          ValueError: if they are missing.
        """
        # The structure of `fresh` says in which trees the method stores something.
        numbers = []
        for name, ranges, expected in zip(("params", "model_state"), (trained, fixed), self.fresh(), strict=True):
            # Only the trees that `fresh` fills must have an entry: a symmetric LSQ has none in the state.
            if expected and path not in ranges:
                have = ", ".join(ranges) or "none"
                raise ValueError(
                    f"{name}[{KEY!r}] has no range for layer {path!r}, which the config quantizes "
                    f"(it has: {have}); `init` and `calibrate` make them"
                )
            numbers.append(ranges[path] if expected else {})
            for number, value in numbers[-1].items():
                if jnp.ndim(value) > jnp.ndim(expected[number]):
                    raise ValueError(
                        f"layer {path!r} runs in {'x'.join(map(str, jnp.shape(value)))} copies (nn.scan, nn.vmap), "
                        "each with a range of its own: it is quantized in simulation only, and has no one grid for "
                        "integer execution or export; a rule that gives it None leaves it alone"
                    )
        return LayerRange(*numbers)

    def recurrent_layers(self, bits: Mapping[str, object], apply: Callable[..., Any], *args: object) -> list[str]:
        """The layers whose state is quantized, for a model that has such layers where `state` asks for them.

        Args:
          bits: what `bits_of` gave.
          apply: the model's function; it is called with `train=False`. Nothing is computed.
          *args: its arguments, or their shapes.

        Returns:
          Paths, in the order of the first call; none unless `state`.

        Raises:
          ConfigError: if `state` and no layer that is quantized has a state.
        """
        has_states: dict[str, bool] = {}
        if not self.state:
            return []

        def look(module: Any, call: Callable[..., Any], x: jax.Array) -> Any:
            has_states[intercept.path_of(module)] = has_state(module)
            return call(x)

        jax.eval_shape(functools.partial(intercept.replace_layers(apply, look), train=False), *args)
        return self.quantized_states(bits, has_states)

    def quantized_states(self, bits: Mapping[str, object], has_states: Mapping[str, bool]) -> list[str]:
        """`recurrent_layers`, where it is known which layers are recurrent.

        Example:
          >>> method = ActivationMethod(state=True)
          >>> method.quantized_states({"Recurrent_0": 8, "Dense_0": 8}, {"Recurrent_0": True, "Dense_0": False})
          ['Recurrent_0']
        """
        paths = [path for path, has in has_states.items() if self.state and has and bits[path] is not None]
        if self.state and not paths:
            raise ConfigError("activations.state", True, "False where no layer that is quantized is recurrent")
        return paths


def activations(model: M, method: ActivationMethod) -> M:
    """The model whose layers' inputs are fake-quantized, with one range for each layer.

    `y = layer(fake_quantize(x))`; `jopt.intercept` says what is a layer. The ranges are part of the trees that the
    model is a function of, under the key 'activation_ranges' and then the layer's path, all scalars:

    | method | in `model_state` | in `params` | moves |
    |---|---|---|---|
    | `Activations` | low, high | | never: `calibrate` chooses them |
    | `MovingAverageActivations` | low, high | | in training, to `m old + (1 - m) batch` |
    | `LSQActivations` | signed | step | by gradient |
    | `PACTActivations` | signed | alpha | by gradient |

    A range, step or alpha of 0 means *not calibrated*: the layer's input passes unchanged. So it is after `init`:
    call `method.calibrate` before training, or let a moving average begin with the first batch's range. `signed`
    says whether negative inputs have codes, as calibration saw them (with `symmetric` they always have, and it is
    absent). A layer that is called several times in a pass has one range for all of its calls, such as the time
    steps of a recurrent cell. Where a scan or a `vmap` gives each round another kernel, each copy of the layer has
    a range of its own: its numbers have a leading axis. With `state` recurrent layers also see their state
    quantized, before each step's product, on [-1, 1].

    Args:
      model: a `jopt.models.Model`, or another NamedTuple with such an `init` and `apply`, made of modules
        (Linen, NNX, Equinox), whose params and state are dictionaries.
      method: what to do; its numbers may be traced.

    Returns:
      A model of the same type. If the method quantizes nothing, the model itself.

    Raises:
      ValueError: (its functions) if no module with a kernel runs; if params or state are no dictionaries, use
        the key themselves, or lack a layer's range.
      RuleError: (`init`) if a rule matches no layer.

    Example:
      >>> from jopt import models
      >>> from jopt.quantize import MovingAverageActivations
      >>> model = activations(models.model(models.ModelConfig("linear")), MovingAverageActivations(bits=2))
      >>> params, state = model.init(jax.random.key(0), jnp.ones((1, 2)))
      >>> _, state = model.apply(params, state, jnp.array([[1.0, 3.0]]), train=True)
      >>> _, state = model.apply(params, state, jnp.array([[1.0, -1.0]]), train=True)
      >>> {name: round(float(v), 3) for name, v in state["activation_ranges"]["Dense_0"].items()}
      {'low': -0.1, 'high': 2.8}
    """
    return method.wrap(model)  # type: ignore[arg-type, return-value]


def calibrate(
    model: Any, method: ActivationMethod, params: Params, model_state: State, x: jax.Array, *, seen: Params = None
) -> tuple[Params, State]:
    """`method.calibrate`: parameters and state for the model that `activations` gives, with ranges.

    Example:
      >>> from jopt import models
      >>> from jopt.quantize import Activations
      >>> plain = models.model(models.ModelConfig("linear", num_classes=1))
      >>> method = Activations(2, calibration="absmax")
      >>> params = {"Dense_0": {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}}
      >>> params, state = calibrate(plain, method, params, {}, jnp.array([[0.0, 1.0], [2.0, 3.0]]))
      >>> {name: float(value) for name, value in state["activation_ranges"]["Dense_0"].items()}
      {'low': 0.0, 'high': 3.0}
      >>> x = jnp.array([[0.6, 9.0]])                                 # quantized to 1 and 3
      >>> activations(plain, method).apply(params, state, x, train=False)[0].tolist()
      [[4.0]]
    """
    return method.calibrate(model, params, model_state, x, seen=seen)


def _wrapped(model: "Model", method: ActivationMethod, frozen: bool) -> "Model":
    if method.is_identity and not method.rules:
        return model

    def init(key: jax.Array, x: jax.Array) -> tuple[Params, State]:
        params, model_state = model.init(key, x)
        layers = intercept.names(model.apply, params, model_state, x, train=False, products=method.products)
        bits = method.bits_of(layers)
        method.recurrent_layers(bits, model.apply, params, model_state, x)
        fresh = {
            path: jax.tree.map(lambda n, path=path: _repeated(n, copies_of(path, layers[path])), method.fresh())
            for path in layers
            if bits[path] is not None
        }
        return _joined(params, model_state, fresh)

    def apply(params: Params, model_state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None):
        params, trained = split("params", params)
        model_state, fixed = split("model_state", model_state)
        # A later stage keeps the ranges as they ended, whatever its optimizer moves.
        trained = jax.lax.stop_gradient(trained) if frozen else trained
        moving = method.moves and train and not frozen

        def direct(check: Callable[[str], None], *args: Any, **kwargs: Any) -> tuple[Any, State, Ranges]:
            """The common case, in which every layer has one range and is reached without a second trace."""
            batch: dict[str, Range] = {}

            def see(path: str, value: jax.Array) -> jax.Array:
                check(path)
                spec = method.layer_spec(path)
                if not moving or spec.bits is None:
                    return method.quantized_input(path, value, trained, fixed)
                extremes = dynamic(jax.lax.stop_gradient(value), spec)
                # A second call in the same pass widens the batch's range, and is quantized by it.
                batch[path] = extremes if path not in batch else _union(batch[path], extremes)
                layer = method.layer_range(path, trained, fixed)
                # The range is moved first and then used, so that an evaluation after the step quantizes the same.
                return method.see(value, spec, layer._replace(fixed=method.moved(layer.fixed, batch[path])))

            run = _around_layers(model.apply, method, see)
            logits, model_state = run(*args, **kwargs)
            return logits, model_state, {p: method.moved(fixed[p], extremes) for p, extremes in batch.items()}

        def threaded() -> tuple[Any, State, Ranges]:
            return _threaded(model.apply, method, trained, fixed, moving)(
                params, model_state, x, train=train, key=key
            )

        if method.products:
            logits, model_state, moved = threaded()
        else:
            logits, model_state, moved = intercept.unless_nested(
                direct, threaded, params, model_state, x, train=train, key=key
            )
        return logits, join("model_state", model_state, {**fixed, **moved})

    return model._replace(init=init, apply=apply)


def _around_layers(
    fn: Callable[..., Any], method: ActivationMethod, see: Callable[[str, jax.Array], jax.Array]
) -> Callable[..., Any]:
    """The function whose layers see `see(path, input)`, and recurrent ones their state quantized if asked to."""

    def around(module: Any, call: Callable[..., Any], value: jax.Array) -> Any:
        path = intercept.path_of(module)
        value = see(path, value)
        if not method.state or not has_state(module):
            return call(value)

        # The layer's input is quantized already; only the state comes in at each step.
        def product(name: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
            return module.product(name, x if name == "kernel" else method.quantized_state(path, x), kernel)

        return call(value, product=product)

    return intercept.replace_layers(fn, around)


def _threaded(
    fn: Callable[..., Any], method: ActivationMethod, trained: Ranges, fixed: Ranges, moving: bool
) -> Callable[..., tuple[Any, State, Ranges]]:
    """The network of a model some of whose layers run inside transformations, and the ranges that it moved."""
    fresh = method.fresh()
    paths = {path: LayerRange(trained.get(path, {}), fixed.get(path, {})) for path in {**trained, **fixed}}
    extremes = {}
    if moving:
        # The identity of `_union`, for each copy: the first call gives its own range.
        number = next(iter(fresh.fixed))
        empty = Range(jnp.float32(jnp.inf), jnp.float32(-jnp.inf))
        extremes = {
            path: jax.tree.map(lambda end, n=n: jnp.broadcast_to(end, n.fixed[number].shape), empty)
            for path, n in paths.items()
        }

    def step(path: str, value: jax.Array, layer: LayerRange | None, batch: Range | None) -> tuple[jax.Array, Any]:
        spec = method.layer_spec(path)
        if spec.bits is None:
            return value, batch
        if layer is None:  # raises the error of a range that is missing.
            layer = method.layer_range(path, trained, fixed)
        if batch is not None:
            batch = _union(batch, dynamic(jax.lax.stop_gradient(value), spec))
            layer = layer._replace(fixed=method.moved(layer.fixed, batch))
        return method.see(value, spec, layer), batch

    run = intercept.thread(_around_layers(fn, method, lambda path, value: value), step, products=method.products)

    def apply(*args: Any, **kwargs: Any) -> tuple[Any, State, Ranges]:
        (logits, model_state), batch, _ = run(paths, extremes, *args, **kwargs)
        moved = {}
        for path, seen in batch.items():
            move = method.moved
            for _ in range(seen.low.ndim):
                move = jax.vmap(move)
            moved[path] = move(fixed[path], seen)
        return logits, model_state, moved

    return apply


def copies_of(path: str, calls: Sequence[intercept.LayerCall]) -> tuple[int, ...]:
    """How many copies of a layer there are, for each transformation that makes some; () for an ordinary layer.

    Raises:
      ValueError: if the layer is called in several ways, with other copies.
    """
    shapes = {tuple(call.input.shape[: call.copies]) for call in calls}
    if len(shapes) > 1:
        raise ValueError(f"layer {path!r} is called in different transformations, with copies {sorted(shapes)}")
    return shapes.pop()


def _repeated(number: jax.Array, copies: tuple[int, ...]) -> jax.Array:
    return jnp.broadcast_to(number, (*copies, *number.shape)) if copies else number


def _by_copy(choose: Callable[[jax.Array], LayerRange], values: jax.Array, copies: int) -> LayerRange:
    """`choose` for each copy by itself: what calibrates need not be a function that `vmap` can map."""
    if not copies:
        return choose(values)
    layers = [_by_copy(choose, v, copies - 1) for v in values]
    return jax.tree.map(lambda *numbers: jnp.stack(numbers), *layers)


def has_state(module: object) -> bool:
    """Whether a layer is recurrent: a module that makes all of its products by its attribute `product`.

    Example:
      >>> from jopt.models.rnn import Recurrent
      >>> has_state(Recurrent("rnn", 2))
      True
    """
    return hasattr(module, "product")


def split(name: str, tree: Params) -> tuple[dict[str, Any], Ranges]:
    """Takes the ranges out of `params` or `model_state`, whichever `name` says it is.

    Example:
      >>> split("params", {"Dense_0": 1, "activation_ranges": {"Dense_0": {"step": 2}}})
      ({'Dense_0': 1}, {'Dense_0': {'step': 2}})
    """
    _require_dictionary(name, tree)
    return {key: value for key, value in tree.items() if key != KEY}, dict(tree.get(KEY, {}))


def join(name: str, tree: Params, ranges: Ranges) -> dict[str, Any]:
    """Puts ranges into what `split` gave; no ranges leave no key.

    Example:
      >>> join("params", {"Dense_0": 1}, {})
      {'Dense_0': 1}
    """
    _require_dictionary(name, tree)
    if KEY in tree:
        raise ValueError(f"{name} has a {KEY!r} already: the model is quantized, or uses a reserved name")
    return {**tree, KEY: ranges} if ranges else dict(tree)


def _joined(
    params: Params, model_state: State, layers: Mapping[str, LayerRange]
) -> tuple[dict[str, Any], dict[str, Any]]:
    trained = {path: layer.trained for path, layer in layers.items() if layer.trained}
    fixed = {path: layer.fixed for path, layer in layers.items() if layer.fixed}
    return join("params", params, trained), join("model_state", model_state, fixed)


def _require_dictionary(name: str, tree: Params) -> None:
    if not isinstance(tree, Mapping):
        raise ValueError(f"{name} must be a dictionary, so that it can hold ranges, got {type(tree).__name__}")


def _union(a: Range, b: Range) -> Range:
    return Range(jnp.minimum(a.low, b.low), jnp.maximum(a.high, b.high))
