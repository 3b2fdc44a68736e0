"""A whole network in integers: the model's own code, with every quantized layer's contraction on codes."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from jopt import intercept
from jopt.quantize.activation_config import (
    ActivationConfig,
    has_state,
    layer_bits,
    layer_spec,
    quantized_states,
    state_spec,
)
from jopt.quantize.activations import STATE_RANGE, quantized_input, quantized_state, split
from jopt.quantize.grid import Grid, grid
from jopt.quantize.integer.binary import BinaryKernel, binary_conv, binary_dense, binary_kernel, is_signs
from jopt.quantize.integer.grids import layer_grid
from jopt.quantize.integer.operands import Codes, encode_input, operand, with_columns
from jopt.quantize.integer.ops import Sums, conv, dense, rescale
from jopt.quantize.spec import Spec
from jopt.quantize.tensors import QTensor, dequantize, fit_range
from jopt.rules import named_leaves

PRODUCTS = ("conv_general_dilated", "dot_general", "product")
"""The attributes that are a layer's contraction: of Linen's Conv, of its Dense, of jopt's recurrent layers."""


class _Product(NamedTuple):
    """One kernel, and how what it is multiplied with is quantized."""

    spec: Spec
    grid: Grid
    kernel: Codes
    words: BinaryKernel | None  # the kernel's signs, where both operands have no more than three codes.


def network(
    model: Any,
    params: Any,
    model_state: Any,
    weights: Mapping[str, QTensor],
    activations: ActivationConfig,
) -> Callable[[jax.Array], jax.Array]:
    """The function of a quantized model in evaluation mode, its contractions in integers.

    A layer whose input and kernel are both quantized computes `sum * (s_x s_w) + bias` with an int32 sum of
    products of codes, by XOR and population count where an input of one bit meets a kernel of signs (with 0); all
    between the layers is the model's own. Any other layer runs in floats as it is simulated: one that a rule leaves
    alone (None, or 32 bits), one that is not calibrated, one whose kernel is not in `weights`; likewise a recurrent
    layer's state unless `activations.state`.

    Args:
      model: the model before `jopt.quantize.activations`: a `jopt.models.Model` of Linen modules; its batch
        normalizations folded (`jopt.quantize.fold`), or they stay as they are, in float32.
      params: its parameters, with the ranges that are learned; what the kernels in `weights` hold is not read.
      model_state: its state, with the other ranges. Values that decide what is computed (whether a range is 0, or
        signed) must not be traced: jit the function that comes back.
      weights: from a kernel's path, such as 'Dense_0/kernel' or 'Recurrent_0/recurrent_kernel', to its codes.
      activations: the config with which the model was quantized.

    Returns:
      `x -> logits`, float32 [batch, classes], to be called under `jax.jit`.

    Raises:
      ValueError: for a path that is no parameter; codes of more than 8 bits; scales by group, or along an axis that
        is contracted; contractions too long for int32; ranges that are missing or traced; (the function) a layer
        whose contraction has no attribute of `PRODUCTS`.
      RuleError: (the function) if a rule matches no layer.

    Jacob et al., 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", section 2.

    Example:
      >>> from jopt import models
      >>> from jopt.quantize import calibrate, quantize
      >>> model, config = models.model(models.Config("linear", num_classes=1)), ActivationConfig("absmax", bits=2)
      >>> params = {"Dense_0": {"kernel": jnp.ones((2, 1)), "bias": jnp.array([0.5])}}
      >>> params, state = calibrate(model, config, params, {}, jnp.array([[0.0, 1.0], [2.0, 3.0]]))
      >>> weights = {"Dense_0/kernel": quantize(params["Dense_0"]["kernel"], Spec(2))}
      >>> run = jax.jit(network(model, params, state, weights, config))
      >>> run(jnp.array([[0.6, 9.0]])).tolist()                                    # 1 + 3 + 0.5
      [[4.5]]
    """
    params, learned = split("params", params)
    model_state, held = split("model_state", model_state)
    known = dict(named_leaves(params))
    for path, q in weights.items():
        if path not in known or jnp.shape(known[path]) != q.codes.shape:
            shapes = ", ".join(f"{p} {jnp.shape(leaf)}" for p, leaf in known.items())
            raise ValueError(f"weights[{path!r}] {q.codes.shape} is no parameter; the parameters are: {shapes}")
    with jax.ensure_compile_time_eval():  # what is known stays known where the caller is being traced.
        products = _products(activations, learned, held, weights)
        values = {path: dequantize(q) for path, q in weights.items() if path not in products}

    def forward(x: jax.Array) -> jax.Array:
        blank = {}

        def leaf(path: str, value: Any) -> Any:
            if path in products:  # nobody reads it, and made here it is no constant of the program.
                blank[path] = jnp.zeros(jnp.shape(value), jnp.result_type(value))
                return blank[path]
            return values[path].astype(jnp.result_type(value)) if path in values else value

        seen = jax.tree.unflatten(jax.tree.structure(params), [leaf(*item) for item in named_leaves(params)])
        ran: dict[str, bool] = {}

        def around(module: Any, call: Callable[..., Any], x: jax.Array) -> Any:
            path = intercept.path_of(module)
            ran[path] = has_state(module)
            own = {p.rpartition("/")[2]: made for p, made in products.items() if p.rpartition("/")[0] == path}
            if "kernel" not in own:
                x = quantized_input(activations, path, x, learned, held)
            state = functools.partial(quantized_state, activations, path)
            return _layer(path, own, state, module, call, x, blank.get(f"{path}/kernel".lstrip("/")))

        logits, _ = intercept.replace_layers(model.apply, around)(seen, model_state, x, train=False)
        quantized_states(activations, layer_bits(activations, ran), ran)
        return logits

    return forward


def _products(
    config: ActivationConfig, learned: Any, held: Any, weights: Mapping[str, QTensor]
) -> dict[str, _Product]:
    """From the paths of the kernels that are multiplied in integers to how."""
    products = {}
    for kernel, q in weights.items():
        path, _, name = kernel.rpartition("/")
        spec, g, calibrated = _input(config, path, name, learned, held)
        if spec.is_identity:
            continue
        if isinstance(calibrated, Tracer):
            raise ValueError(f"the range of layer {path!r} must not be traced: one of 0 leaves the input as it is")
        if not bool(calibrated):
            continue
        try:
            signs = spec.bits == 1 and is_signs(q.spec) and len(q.spec.kept_axes(q.codes.ndim)) < 2
            words = binary_kernel(q) if signs else None
            products[kernel] = _Product(spec, g, with_columns(operand(q)), words)
            encode_input(jnp.zeros(1), spec, g)
        except ValueError as error:
            raise ValueError(f"{kernel}: {error}; a rule that gives it None leaves it in float32") from error
    return products


def _input(config: ActivationConfig, path: str, name: str, learned: Any, held: Any) -> tuple[Any, ...]:
    """The Spec and the grid of what a kernel is multiplied with, and whether there is one; an identity if not."""
    nothing = Spec.identity(), None, False
    if name == "kernel":
        identity = layer_spec(config, path).is_identity
        return nothing if identity else tuple(layer_grid(config, path, learned, held))
    spec = state_spec(config, path)
    if name != "recurrent_kernel" or spec.is_identity:
        return nothing
    return spec, grid(spec, fit_range(STATE_RANGE, (), spec)), True


def _layer(
    path: str,
    own: Mapping[str, _Product],
    state: Callable[[jax.Array], jax.Array],
    module: Any,
    call: Callable[..., Any],
    x: jax.Array,
    blank: jax.Array | None,
) -> Any:
    """What a layer gives for `x`, those of its products in integers that `own` has by their kernels' names.

    `blank` stands in the place of the kernel.
    """
    if has_state(module):

        def product(name: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
            if name not in own:
                return module.product(name, x if name == "kernel" else state(x), kernel)
            made, codes = own[name], _encode(x, own[name])
            return _values(dense(codes, made.kernel) if made.words is None else binary_dense(codes, made.words), x)

        return call(x, product=product)
    if not own:
        return call(x)
    made = own["kernel"]
    if hasattr(module, "conv_general_dilated"):

        def convolution(lhs: jax.Array, rhs: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
            keywords = {name: options.get(name) for name in ("lhs_dilation", "rhs_dilation")}
            groups = options.get("feature_group_count", 1)
            layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, options.get("dimension_numbers"))
            last = lhs.ndim - 1
            if layout.lhs_spec[:2] != (0, last) or layout.rhs_spec[:2] != (last, last - 1):
                raise ValueError(f"layer {path!r} must have its channels last for integer execution, got {layout}")
            _check_axes(path, made, range(last))
            codes = _encode(lhs, made)
            if made.words is not None and groups == 1 and not any(d != 1 for d in keywords["lhs_dilation"] or ()):
                sums = binary_conv(codes, made.words, strides, padding, keywords["rhs_dilation"])
            else:
                sums = conv(codes, made.kernel, strides, padding, **keywords, feature_group_count=groups)
            return _values(sums, lhs)

        return _replaced(path, module, call, x, blank, "conv_general_dilated", convolution)
    if hasattr(module, "dot_general"):

        def product_of(lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any, **options: Any) -> jax.Array:
            del options
            rank = rhs.ndim
            _check_axes(path, made, dimension_numbers[0][1])
            codes = _encode(lhs, made)
            if made.words is not None and dimension_numbers == (((lhs.ndim - 1,), (0,)), ((), ())) and rank == 2:
                return _values(binary_dense(codes, made.words), lhs)
            return _values(dense(codes, made.kernel, dimension_numbers), lhs)

        return _replaced(path, module, call, x, blank, "dot_general", product_of)
    raise ValueError(_cannot(path, module, f"it has none of the attributes {', '.join(PRODUCTS)}"))


def _replaced(
    path: str, module: Any, call: Callable[..., Any], x: jax.Array, kernel: Any, name: str, product: Any
) -> Any:
    """What the layer gives with another contraction, which it must call, once, with its own kernel."""
    if getattr(module, "mask", None) is not None:
        raise ValueError(_cannot(path, module, "its kernel has a mask"))
    kernels = []

    def once(lhs: jax.Array, rhs: jax.Array, *args: Any, **options: Any) -> jax.Array:
        kernels.append(rhs)
        return product(lhs, rhs, *args, **options)

    # What makes the contraction from a class of its own comes before it.
    made = {f"{name}_cls": None} if hasattr(module, f"{name}_cls") else {}
    y = call(x, **{name: once}, **made)
    if len(kernels) != 1:
        raise ValueError(_cannot(path, module, f"it calls its {name} {len(kernels)} times, not once"))
    # Of another dtype it is a cast of the kernel.
    if kernels[0].shape != kernel.shape or (kernels[0] is not kernel and kernels[0].dtype == kernel.dtype):
        raise ValueError(_cannot(path, module, "what it multiplies with is made of its kernel"))
    return y


def _check_axes(path: str, made: _Product, contracted: Iterable[int]) -> None:
    """Refuses scales that differ along an axis that is summed over."""
    shape = made.kernel.scale.shape
    if axes := [i for i in contracted if shape and shape[i] != 1]:
        outputs = tuple(i for i in range(len(shape)) if i not in contracted)
        raise ValueError(
            f"the scales of {path}/kernel must differ along its output axes {outputs} only for integer execution, "
            f"got scales of shape {shape}, which differ along {tuple(axes)}; a rule that gives it None leaves it "
            "in float32"
        )


def _cannot(path: str, module: Any, why: str) -> str:
    layer = f"layer {path!r} ({type(module).__name__})"
    return f"{layer} cannot be computed in integers: {why}; a rule that gives it None leaves it in float32"


def _encode(x: jax.Array, made: _Product) -> Codes:
    return encode_input(x, made.spec, made.grid)


def _values(sums: Sums, like: jax.Array) -> jax.Array:
    return rescale(sums).astype(like.dtype)
