"""Integer execution against two simulations, layer by layer, with the bounds that docs/integer.md derives.

Everything here but the networks themselves is NumPy in float64: the sums of products of codes are exact in it.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt import intercept
from jopt.models import from_linen
from jopt.quantize import (
    ActivationMethod,
    Activations,
    LSQActivations,
    PACTActivations,
    Spec,
    activations,
    calibrate,
    dequantize,
    dynamic,
    integer,
    quantize,
)
from jopt.quantize.activations import KEY
from jopt.quantize.arithmetic import divide
from jopt.rules import named_leaves

U32, U64 = 2.0**-24, 2.0**-53
TANH = 6 * U32  # of XLA's tanh in float32, as test_tanh_is_as_exact_as_the_bound_says measures it.


def gamma(n: int, u: float) -> float:
    return n * u / (1 - n * u)


class Input(NamedTuple):
    """The grid of what a kernel is multiplied with; codes are counted from the zero point."""

    scale: Any
    lowest: float
    highest: float

    def codes(self, x):
        """Of float32 values and quotients, as a Spec says; each step is monotone."""
        quotients = x.astype(np.float32) / np.float32(self.scale)
        return np.clip(np.rint(quotients), self.lowest, self.highest).astype(np.float64)


class Layer(NamedTuple):
    """One layer, from outside: its codes, grids and geometry."""

    path: str
    kernel: np.ndarray  # codes, counted from the zero point, float64
    scale: np.ndarray  # of the outputs
    bias: np.ndarray
    input: Input
    strides: tuple[int, ...] = ()
    padding: Any = ()
    recurrent: "Layer | None" = None

    def sums(self, codes):
        """Exact sums of products and of their magnitudes in units of their scale, and the number of products."""
        if self.kernel.ndim == 2:
            columns, kernel = codes, self.kernel
        else:
            columns = windows(codes, self.kernel.shape[:2], self.strides, self.padding)
            kernel = self.kernel.reshape(-1, self.kernel.shape[-1])
        unit = self.input.scale * self.scale
        total, most = columns @ kernel, np.abs(columns) @ np.abs(kernel)
        assert most.max() < 2**31
        return total * unit, most * unit, kernel.shape[0]


def windows(x, window, strides, padding):
    x = np.pad(x, ((0, 0), *padding, (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(x, window, (1, 2))[:, :: strides[0], :: strides[1]]
    return view.transpose(0, 1, 2, 4, 5, 3).reshape(*view.shape[:3], -1)


class Exact(NamedTuple):
    """What a layer gives on given codes, if nothing were rounded, and how far from it each side may lie."""

    value: np.ndarray
    bounds: dict[str, np.ndarray]

    @property
    def bound(self):
        return np.maximum.reduce(list(self.bounds.values()))


def exact(layer: Layer, codes, states=None) -> Exact:
    """The layer on the codes of its input (and, recurrent, of its state before each step)."""
    product, most, length = layer.sums(codes)
    bias = np.abs(layer.bias)
    if layer.recurrent is None:
        bounds = {
            "integer": gamma(4, U32) * np.abs(product) + gamma(1, U32) * bias,
            "float32": gamma(length + 3, U32) * most + gamma(1, U32) * bias,
            "float64": gamma(length + 8, U64) * (most + bias),
        }
        return Exact(product + layer.bias, bounds)
    from_state, state_most, size = layer.recurrent.sums(states)
    total = product + layer.bias + from_state
    bounds = {
        "integer": gamma(5, U32) * (np.abs(product) + np.abs(from_state)) + gamma(2, U32) * bias + TANH,
        "float32": gamma(length + 4, U32) * most + gamma(size + 4, U32) * state_most + gamma(2, U32) * bias + TANH,
        "float64": gamma(length + size + 16, U64) * (most + state_most + bias + 1),
    }
    return Exact(np.tanh(total), bounds)  # tanh has slope at most 1


class Run(NamedTuple):
    """One side's run: by call, in order, what each layer was called with and gave, and the logits."""

    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    logits: np.ndarray


@dataclasses.dataclass
class Quantized:
    """A network, quantized, ready to be run on each side."""

    module: Any
    x: np.ndarray
    config: ActivationMethod
    params: Any
    state: Any
    weights: dict[str, Any]
    seen: Any
    layers: list[Layer]  # by call


def quantized(
    module, params, x, bits, axis, *, method="percentile", kernels=dynamic, state=False, symmetric=True
) -> Quantized:
    """Calibrated on the examples themselves; `module` has its normalizations folded, `kernels` chooses ranges."""
    model, spec = from_linen(module), Spec(bits, symmetric, axis)
    config = {"lsq": LSQActivations, "pact": PACTActivations}.get(
        method, functools.partial(Activations, calibration=method)
    )(bits, state=state)
    leaves = dict(named_leaves(params))
    codes = {path: quantize(leaf, spec, kernels(leaf, spec)) for path, leaf in leaves.items() if leaf.ndim > 1}
    seen = [dequantize(codes[path]) if path in codes else leaf for path, leaf in leaves.items()]
    seen = jax.tree.unflatten(jax.tree.structure(params), seen)
    params, model_state = calibrate(model, config, params, {}, jnp.asarray(x), seen=seen)
    if KEY in params:
        seen = {**seen, KEY: params[KEY]}
    calls = []

    def see(module, call, x):
        calls.append((intercept.path_of(module), module))
        return call(x)

    jax.eval_shape(lambda x: intercept.replace_layers(module.apply, see)({"params": params}, x), x)
    layers = [_layer(path, called, params, model_state, codes, config) for path, called in calls]
    return Quantized(module, x, config, params, model_state, codes, seen, layers)


def _layer(path, module, params, state, weights, config) -> Layer:
    _, grid, calibrated = config.input_grid(path, params.get(KEY, {}), state.get(KEY, {}))
    assert calibrated
    own = params
    for part in path.split("/"):
        own = own[part]
    input = Input(float(grid.scale), float(grid.lowest), float(grid.highest))
    strides, padding = (1, 1), ((0, 0), (0, 0))
    if hasattr(module, "conv_general_dilated"):
        strides = (module.strides,) * 2 if isinstance(module.strides, int) else tuple(module.strides or (1, 1))
        if isinstance(module.padding, int):
            padding = ((module.padding,) * 2,) * 2
        elif module.padding == "SAME":
            assert strides == (1, 1)
            padding = tuple(((k - 1) // 2, k // 2) for k in module.kernel_size)
        else:
            assert module.padding == "VALID"
    recurrent = None
    if hasattr(module, "product"):
        top = 2 ** (config.bits - 1) - 1
        state_input = Input(float(np.float32(1) / np.float32(top)), -top, top)
        recurrent = Layer(path, *_codes(weights[f"{path}/recurrent_kernel"]), np.zeros(1), state_input)
    kernel, scale = _codes(weights[f"{path}/kernel"])
    return Layer(path, kernel, scale, np.float64(own["bias"]), input, strides, padding, recurrent)


def _codes(q):
    zero = np.float64(q.zero_point)
    return np.float64(q.codes) - zero, np.float64(q.scale).reshape(-1)


def run_integer(net: Quantized) -> Run:
    run = integer.network(from_linen(net.module), net.params, net.state, net.weights, net.config)
    return _run(jax.jit(_calls(run)), net.x)


def run_float32(net: Quantized, forced: list[np.ndarray] | None = None) -> Run:
    """The simulation; with `forced`, every layer gets what those codes stand for, whatever came before it."""
    model = from_linen(net.module)
    if forced is None:
        apply = functools.partial(activations(model, net.config).apply, train=False)
        return _run(jax.jit(lambda x: _calls(apply, pick=True)(net.seen, net.state, x)), net.x)

    def again(x, values):
        left = list(values)
        apply = intercept.replace_inputs(model.apply, lambda path, x: left.pop(0))
        bare = {name: leaf for name, leaf in net.seen.items() if name != KEY}
        return _calls(functools.partial(apply, train=False), pick=True)(bare, {}, x)

    values = [np.float32(codes * layer.input.scale) for codes, layer in zip(forced, net.layers, strict=True)]
    return _run(jax.jit(again), net.x, values)


def run_float64(net: Quantized) -> Run:
    """The same network in float64, on exactly what the codes stand for."""
    inputs = {layer.path: layer for layer in net.layers}

    def fake(x, input):
        codes = jnp.round(divide(x.astype(jnp.float32), jnp.float32(input.scale))).astype(jnp.float64)
        return jnp.clip(codes, input.lowest, input.highest) * input.scale

    def around(module, call, x):
        layer = inputs[intercept.path_of(module)]
        x = fake(x, layer.input)
        if layer.recurrent is None:
            return call(x)
        state = layer.recurrent.input
        return call(x, product=lambda name, x, w: (x if name == "kernel" else fake(x, state)) @ w)

    with jax.enable_x64(True):
        params = {}
        for path, leaf in named_leaves({k: v for k, v in net.params.items() if k != KEY}):
            q = net.weights.get(path)
            value = np.float64(leaf)
            if q is not None:
                value = (np.float64(q.codes) - np.float64(q.zero_point)) * np.float64(q.scale)
            inner = params
            for part in path.split("/")[:-1]:
                inner = inner.setdefault(part, {})
            inner[path.split("/")[-1]] = jnp.asarray(value)
        module = net.module.clone(dtype=jnp.float64)
        apply = intercept.replace_layers(module.apply, around)
        return _run(jax.jit(lambda x: _calls(apply)({"params": params}, x)), np.float64(net.x))


def _calls(fn, pick=False):
    """The result, and by call, in order, inputs and outputs."""

    def run(*args):
        order = []
        result, calls = intercept.capture(_logged(fn, order))(*args)
        left = {path: list(own) for path, own in calls.items()}
        own = [left[path].pop(0) for path in order]
        return (result[0] if pick else result), [c.input for c in own], [c.output for c in own]

    return run


def _logged(fn, order):
    def log(module, call, x):
        order.append(intercept.path_of(module))
        return call(x)

    return intercept.replace_layers(fn, log)


def _run(program, *args) -> Run:
    logits, inputs, outputs = program(*args)
    return Run([np.asarray(v) for v in inputs], [np.asarray(v) for v in outputs], np.asarray(logits))


@functools.partial(jax.jit, static_argnums=0)
def _between_layers(module, params, x, outputs):
    left, inputs = list(outputs), []

    def around(module, call, x):
        inputs.append(x)
        return left.pop(0)

    intercept.replace_layers(module.apply, around)({"params": params}, x)
    return inputs


def between_layers(net: Quantized, outputs: list[np.ndarray]) -> list[np.ndarray]:
    """What layers are called with, if they give `outputs`, in float64: all that the model does between layers."""
    with jax.enable_x64(True):
        module, params = net.module.clone(dtype=jnp.float64), {k: v for k, v in net.params.items() if k != KEY}
        return [np.asarray(v) for v in _between_layers(module, params, np.float64(net.x), outputs)]


@dataclasses.dataclass
class Counted:
    """How far two sides agree, over all layers and examples."""

    codes: int = 0
    differ: int = 0
    undetermined: int = 0  # codes that the bounds leave open.
    predictions: int = 0
    equal: int = 0
    certain: int = 0  # predictions that the bounds leave no choice.
    same: int = 0  # examples whose codes are all equal.


def states_before(layer: Layer, run: Run, i: int):
    """The codes of the state before each step."""
    if layer.recurrent is None:
        return None
    h = run.outputs[i][:, :-1]
    return layer.recurrent.input.codes(np.concatenate([np.zeros_like(h[:, :1]), h], axis=1))


def check_layers(net: Quantized, run: Run, side: str, forced: list[np.ndarray] | None = None) -> None:
    """Every layer, on the codes of what it was called with, gives what it should to within its side's bound."""
    for i, layer in enumerate(net.layers):
        codes = layer.input.codes(run.inputs[i]) if forced is None else forced[i]
        right = exact(layer, codes, states_before(layer, run, i))
        off = np.abs(run.outputs[i].astype(np.float64) - right.value)
        assert np.all(off <= right.bounds[side]), (layer.path, side, (off / right.bounds[side]).max())


def compare(net: Quantized, one: Run, other: Run, side: str, *, forced=False, glue: int = 0) -> Counted:
    """Codes and predictions of integer execution (`one`) and of a simulation.

    While all earlier codes of an example are equal, both sides lie within the bounds of one exact value, and so,
    what stands between the layers being monotone, the inputs of the next layer between two numbers. Where those
    have the same code both sides must.

    Args:
      net: the network.
      one: its run in integers.
      other: its run in `side`, which with `forced` got the codes of `one` at every layer.
      side: 'float32' or 'float64'.
      forced: see there.
      glue: how often a float is rounded between layers, at most.
    """
    counted, examples = Counted(), len(net.x)
    rights = []
    for i, layer in enumerate(net.layers):
        right = exact(layer, layer.input.codes(one.inputs[i]), states_before(layer, one, i))
        rights.append((right.value, np.maximum(right.bounds["integer"], right.bounds[side])))
    low = between_layers(net, [value - bound for value, bound in rights])
    high = between_layers(net, [value + bound for value, bound in rights])
    most = between_layers(net, [np.abs(value) + bound for value, bound in rights])
    clean = np.ones(examples, bool)

    def count(ours, theirs, fixed) -> None:
        nonlocal clean
        differ = ours != theirs
        wide = clean.reshape(-1, *[1] * (differ.ndim - 1))
        assert not np.any(differ & fixed & wide)
        counted.codes += differ.size
        counted.differ += int(differ.sum())
        counted.undetermined += int((~fixed & wide).sum())
        clean = clean & (forced | ~differ.reshape(examples, -1).any(1))

    for i, layer in enumerate(net.layers):
        slack = np.where(low[i] == high[i], 0, gamma(glue, U32) * np.abs(most[i]))
        least, greatest = low[i] - slack, high[i] + slack
        ours, theirs = layer.input.codes(one.inputs[i]), layer.input.codes(other.inputs[i])
        for x in (one.inputs[i], other.inputs[i]):
            assert np.all(((x >= least) & (x <= greatest))[clean]), (layer.path, side)
        count(ours, theirs, _fixed(layer.input, least, greatest))
        if layer.recurrent is not None:
            # Step by step: a state is compared where those before it have the same codes.
            value, bound = rights[i]
            mine, yours = states_before(layer, one, i), states_before(layer, other, i)
            for t in range(1, mine.shape[1]):
                before = slice(t - 1, t)
                fixed = _fixed(layer.recurrent.input, (value - bound)[:, before], (value + bound)[:, before])
                count(mine[:, t : t + 1], yours[:, t : t + 1], fixed)
    value, bound = rights[-1]
    assert np.all((np.abs(one.logits.astype(np.float64) - other.logits) <= 2 * bound)[clean])
    ordered = np.sort(value, axis=-1)
    certain = clean & (ordered[:, -1] - ordered[:, -2] > 2 * bound.max(-1))
    equal = one.logits.argmax(-1) == other.logits.argmax(-1)
    assert np.all(equal[certain])
    counted.predictions, counted.equal = examples, int(equal.sum())
    counted.certain, counted.same = int(certain.sum()), int(clean.sum())
    return counted


def _fixed(input: Input, least, greatest):
    """Where all between has one code; also where nothing is between, as in the network's own input."""
    below = np.nextafter(least.astype(np.float32), np.float32(-np.inf))
    above = np.nextafter(greatest.astype(np.float32), np.float32(np.inf))
    return (input.codes(below) == input.codes(above)) | (least == greatest)


def check_agreement(net: Quantized, *, glue: int = 0) -> dict[str, Counted]:
    """All of it: both simulations, and the one in float32 with integer execution's codes at every layer."""
    ours, float32, float64 = run_integer(net), run_float32(net), run_float64(net)
    codes = [layer.input.codes(x) for layer, x in zip(net.layers, ours.inputs, strict=True)]
    forced = run_float32(net, codes)
    check_layers(net, ours, "integer")
    check_layers(net, float32, "float32")
    check_layers(net, float64, "float64")
    counted = {
        "float32": compare(net, ours, float32, "float32", glue=glue),
        "float64": compare(net, ours, float64, "float64", glue=glue),
    }
    if all(layer.recurrent is None for layer in net.layers):
        check_layers(net, forced, "float32", codes)
        counted["forced"] = compare(net, ours, forced, "float32", forced=True, glue=glue)
    return counted
