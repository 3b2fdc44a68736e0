"""A whole network in integers: the model's own code, with every quantized layer's contraction on codes."""

import functools
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from jopt import intercept
from jopt.quantize.activations import STATE_RANGE, ActivationMethod, LayerGrid, Ranges, has_state, split
from jopt.quantize.grid import Grid, fit_range, grid
from jopt.quantize.integer.ops import Codes, Sums, conv, dense, encode_input, operand, rescale, with_columns
from jopt.quantize.integer.signs import BinaryKernel, binary_conv, binary_dense, binary_kernel, is_signs
from jopt.quantize.spec import Spec
from jopt.quantize.tensors import QTensor, dequantize
from jopt.rules import named_leaves
from jopt.transform import Params, State

PRODUCTS = ("conv_general_dilated", "dot_general", "product")
"""The attributes that are a layer's contraction: of a Conv, of a Dense or Linear, of jopt's recurrent layers."""


class _Product(NamedTuple):
    """One product in integers.

    Attributes:
      spec: of the input that the kernel is multiplied with.
      grid: of that input.
      kernel: the kernel's codes.
      words: the kernel's signs, where both operands have no more than three codes.
    """

    spec: Spec
    grid: Grid
    kernel: Codes
    words: BinaryKernel | None


def network(
    model: Any,
    params: Params,
    model_state: State,
    weights: Mapping[str, QTensor],
    activations: ActivationMethod,
) -> Callable[[jax.Array], jax.Array]:
    """The function of a quantized model in evaluation mode, its contractions in integers.

    A layer whose input and kernel are both quantized computes `sum * (s_x s_w) + bias` with an int32 sum of
    products of codes, by XOR and population count where an input of one bit meets a kernel of signs (with 0);
    everything between the layers is the model's code. Any other layer runs in floats as it is simulated: one that a
    rule leaves alone (None, or 32 bits), one that is not calibrated, one whose kernel is not in `weights`, and the
    product with a recurrent layer's state unless `activations.state`.

    Args:
      model: the model before `jopt.quantize.activations`: a `jopt.models.Model` of Linen or NNX modules; its batch
        normalizations folded (`jopt.quantize.fold`), or they stay as they are, in float32.
      params: its parameters, with the ranges that are learned; what the kernels in `weights` hold is not read.
      model_state: its state, with the other ranges. Values that decide what is computed (whether a range is 0, or
        signed) must not be traced: jit the function that comes back.
      weights: from a kernel's path, such as 'Dense_0/kernel' or 'Recurrent_0/recurrent_kernel', to its codes.
      activations: the method with which the model was quantized; it must have a `layer_grid`.

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
      >>> from jopt.quantize import Activations, calibrate, quantize
      >>> model = models.model(models.ModelConfig("linear", num_classes=1))
      >>> method = Activations(2, calibration="absmax")
      >>> params = {"Dense_0": {"kernel": jnp.ones((2, 1)), "bias": jnp.array([0.5])}}
      >>> params, state = calibrate(model, method, params, {}, jnp.array([[0.0, 1.0], [2.0, 3.0]]))
      >>> weights = {"Dense_0/kernel": quantize(params["Dense_0"]["kernel"], Spec(2))}
      >>> run = jax.jit(network(model, params, state, weights, method))
      >>> run(jnp.array([[0.6, 9.0]])).tolist()                                    # 1 + 3 + 0.5
      [[4.5]]
    """
    params, trained = split("params", params)
    model_state, fixed = split("model_state", model_state)
    leaves = dict(named_leaves(params))
    for path, q in weights.items():
        if path not in leaves or jnp.shape(leaves[path]) != q.codes.shape:
            shapes = ", ".join(f"{p} {jnp.shape(leaf)}" for p, leaf in leaves.items())
            raise ValueError(f"weights[{path!r}] {q.codes.shape} is no parameter; the parameters are: {shapes}")
    # Evaluated now, so that concrete ranges stay concrete where the caller is being traced.
    with jax.ensure_compile_time_eval():
        products = _products(activations, trained, fixed, weights)
        values = {path: dequantize(q) for path, q in weights.items() if path not in products}

    def forward(x: jax.Array) -> jax.Array:
        blanks: dict[str, jax.Array] = {}

        def leaf(path: str, value: jax.Array) -> jax.Array:
            if path in products:
                # Its values are not read; made here, it is not a constant of the program.
                blanks[path] = jnp.zeros(jnp.shape(value), jnp.result_type(value))
                return blanks[path]
            return values[path].astype(jnp.result_type(value)) if path in values else value

        # The model's own code runs on these; only the contractions inside its layers are replaced.
        seen = jax.tree.unflatten(jax.tree.structure(params), [leaf(*item) for item in named_leaves(params)])
        has_states: dict[str, bool] = {}

        def around(module: Any, call: Callable[..., Any], x: jax.Array) -> Any:
            path = intercept.path_of(module)
            has_states[path] = has_state(module)
            by_name = {p.rpartition("/")[2]: q for p, q in products.items() if p.rpartition("/")[0] == path}
            if "kernel" not in by_name:
                x = activations.quantized_input(path, x, trained, fixed)
            state = functools.partial(activations.quantized_state, path)
            return _layer(path, by_name, state, module, call, x, blanks.get(f"{path}/kernel".lstrip("/")))

        logits, _ = intercept.replace_layers(model.apply, around)(seen, model_state, x, train=False)
        # Checked when all layers have run: only then are the recurrent ones known.
        activations.quantized_states(activations.bits_of(has_states), has_states)
        return logits

    return forward


def _products(
    activations: ActivationMethod, trained: Ranges, fixed: Ranges, weights: Mapping[str, QTensor]
) -> dict[str, _Product]:
    """From the path of each kernel that is multiplied in integers to its product."""
    products = {}
    check_layers(weights, {*trained, *fixed})
    for kernel, q in weights.items():
        path, _, name = kernel.rpartition("/")
        operand_grid = _operand_grid(activations, path, name, trained, fixed)
        if operand_grid is None:
            continue
        spec, g, calibrated = operand_grid
        if isinstance(calibrated, Tracer):
            raise ValueError(f"the range of layer {path!r} must not be traced: one of 0 leaves the input as it is")
        if not bool(calibrated):
            continue
        try:
            signs = spec.bits == 1 and is_signs(q.spec) and len(q.spec.kept_axes(q.codes.ndim)) < 2
            # XOR and population count need two signs; a kernel with scales along two axes has no single alpha.
            words = binary_kernel(q) if signs else None
            products[kernel] = _Product(spec, g, with_columns(operand(q)), words)
            encode_input(jnp.zeros(1), spec, g)  # Raises here for a Spec that the layer would refuse.
        except ValueError as error:
            raise ValueError(f"{kernel}: {error}; a rule that gives it None leaves it in float32") from error
    return products


def check_layers(kernels: Iterable[str], quantized: Container[str]) -> None:
    """Raises unless the layers whose inputs are quantized can be computed on codes.

    Args:
      kernels: the paths of quantized kernels.
      quantized: the paths of layers whose inputs are quantized.

    Raises:
      ValueError: for a layer of Equinox.
    """
    for kernel in kernels:
        path, _, name = kernel.rpartition("/")
        # Flax calls it a kernel.
        if name == "weight" and path in quantized:
            raise ValueError(
                f"{kernel}: a layer of Equinox has no contraction that can be replaced, so only layers of Linen "
                "and NNX are computed in integers; a rule that gives it None leaves it in float32"
            )


def _operand_grid(
    activations: ActivationMethod, path: str, name: str, trained: Ranges, fixed: Ranges
) -> LayerGrid | None:
    """The grid of what a kernel is multiplied with: its layer's input or state; None where that is left alone."""
    if name == "kernel":
        untouched = activations.layer_spec(path).is_identity
        return None if untouched else activations.input_grid(path, trained, fixed)
    spec = activations.state_spec(path)
    if name != "recurrent_kernel" or spec.is_identity:
        return None
    return LayerGrid(spec, grid(spec, fit_range(STATE_RANGE, (), spec)), jnp.bool_(True))


def _layer(
    path: str,
    products: Mapping[str, _Product],
    state: Callable[[jax.Array], jax.Array],
    module: Any,
    call: Callable[..., Any],
    x: jax.Array,
    blank: jax.Array | None,
) -> Any:
    """What a layer gives for `x`, with its `products` (by the kernel's name) in integers.

    `blank` stands in the place of the kernel.
    """
    if has_state(module):

        def product(name: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
            if name not in products:
                return module.product(name, x if name == "kernel" else state(x), kernel)
            p = products[name]
            codes = _encode(x, p)
            return _values(dense(codes, p.kernel) if p.words is None else binary_dense(codes, p.words), x)

        return call(x, product=product)
    if not products:
        return call(x)
    if hasattr(module, "conv_general_dilated"):
        convolution = functools.partial(_convolution, path, products["kernel"])
        return _replaced(path, module, call, x, blank, "conv_general_dilated", convolution)
    if hasattr(module, "dot_general"):
        product_of = functools.partial(_dot_general, path, products["kernel"])
        return _replaced(path, module, call, x, blank, "dot_general", product_of)
    raise ValueError(_cannot(path, module, f"it has none of the attributes {', '.join(PRODUCTS)}"))


def _convolution(
    path: str, product: _Product, lhs: jax.Array, rhs: jax.Array, strides: Any, padding: Any, **options: Any
) -> jax.Array:
    """`lax.conv_general_dilated` on codes."""
    dilations = {name: options.get(name) for name in ("lhs_dilation", "rhs_dilation")}
    groups = options.get("feature_group_count", 1)
    layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, options.get("dimension_numbers"))
    last = lhs.ndim - 1
    if layout.lhs_spec[:2] != (0, last) or layout.rhs_spec[:2] != (last, last - 1):
        raise ValueError(f"layer {path!r} must have its channels last for integer execution, got {layout}")
    _check_axes(path, product, range(last))
    codes = _encode(lhs, product)
    # Words have no groups, and nothing to put between the pixels of a transposed convolution.
    if product.words is not None and groups == 1 and not any(d != 1 for d in dilations["lhs_dilation"] or ()):
        sums = binary_conv(codes, product.words, strides, padding, dilations["rhs_dilation"])
    else:
        sums = conv(codes, product.kernel, strides, padding, **dilations, feature_group_count=groups)
    return _values(sums, lhs)


def _dot_general(
    path: str, product: _Product, lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any, **options: object
) -> jax.Array:
    """`lax.dot_general` on codes."""
    del options
    _check_axes(path, product, dimension_numbers[0][1])
    codes = _encode(lhs, product)
    is_matrix_product = dimension_numbers == (((lhs.ndim - 1,), (0,)), ((), ())) and rhs.ndim == 2
    if product.words is not None and is_matrix_product:
        return _values(binary_dense(codes, product.words), lhs)
    return _values(dense(codes, product.kernel, dimension_numbers), lhs)


def _replaced(
    path: str,
    module: object,
    call: Callable[..., Any],
    x: jax.Array,
    kernel: jax.Array | None,
    name: str,
    product: Callable[..., jax.Array],
) -> Any:
    """What the layer gives with another contraction, which it must call, once, with its own kernel."""
    assert kernel is not None
    # Linen multiplies the kernel by its mask before the contraction, so it would not be the stored one.
    if getattr(module, "mask", None) is not None:
        raise ValueError(_cannot(path, module, "its kernel has a mask"))
    kernels = []

    def once(lhs: jax.Array, rhs: jax.Array, *args: object, **options: object) -> jax.Array:
        kernels.append(rhs)
        return product(lhs, rhs, *args, **options)

    # Linen takes a contraction from `dot_general_cls` where one is given, and only then from `dot_general`.
    overrides = {f"{name}_cls": None} if hasattr(module, f"{name}_cls") else {}
    y = call(x, **{name: once}, **overrides)
    if len(kernels) != 1:
        raise ValueError(_cannot(path, module, f"it calls its {name} {len(kernels)} times, not once"))
    # An array of another dtype is a cast of the kernel, which is fine.
    if kernels[0].shape != kernel.shape or (kernels[0] is not kernel and kernels[0].dtype == kernel.dtype):
        raise ValueError(_cannot(path, module, "what it multiplies with is made of its kernel"))
    return y


def _check_axes(path: str, product: _Product, contracted: Iterable[int]) -> None:
    """Refuses scales that differ along an axis that is summed over."""
    shape = product.kernel.scale.shape
    if axes := [i for i in contracted if shape and shape[i] != 1]:
        outputs = tuple(i for i in range(len(shape)) if i not in contracted)
        raise ValueError(
            f"the scales of {path}/kernel must differ along its output axes {outputs} only for integer execution, "
            f"got scales of shape {shape}, which differ along {tuple(axes)}; a rule that gives it None leaves it "
            "in float32"
        )


def _cannot(path: str, module: object, why: str) -> str:
    layer = f"layer {path!r} ({type(module).__name__})"
    return f"{layer} cannot be computed in integers: {why}; a rule that gives it None leaves it in float32"


def _encode(x: jax.Array, product: _Product) -> Codes:
    return encode_input(x, product.spec, product.grid)


def _values(sums: Sums, like: jax.Array) -> jax.Array:
    return rescale(sums).astype(like.dtype)
