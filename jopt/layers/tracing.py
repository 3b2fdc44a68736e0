"""One abstract trace of a model: the layer, the role and the axes of each of its parameters."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import PyTree

from jopt.layers import flow, parameter
from jopt.layers.parameter import WEIGHTS, Axes, Layers, Parameter, one_copy
from jopt.rules import named_leaves
from jopt.typing import ModelState, Params

if TYPE_CHECKING:
    from jopt.models.functional import Model

_ORDERED = frozenset({"Conv", "ConvTranspose", "Dense", "DenseGeneral", "Embed", "Linear", "LinearGeneral"})
"""Flax's layers whose kernels start with the window or the inputs: outputs before these are copies."""


def trace(
    model: "Model", x: PyTree, params: Params | None = None, model_state: ModelState | None = None
) -> dict[str, Parameter]:
    """What a model says about its parameters. Nothing is computed.

    The layout comes from the contraction that reads a parameter: its `dot_general`, `conv_general_dilated` or
    lookup, wherever it runs (scanned, rematerialized, mapped, jitted). The kind of layer comes from the Linen
    module of that path, or from the contraction. The role comes from the parameter's name; where that says nothing,
    from the contraction: what no contraction reads is no weight. What the model declares (`Model.layers`) comes
    first.

    Args:
      model: a `jopt.models.Model`.
      x: one batch, an array, a `jax.ShapeDtypeStruct` or a pytree of them; only shapes and dtypes matter.
      params: the parameters, or their shapes; None: those of `model.init`.
      model_state: the state, or its shapes; None: that of `model.init`.

    Returns:
      From a parameter's path to its `Parameter`, in leaf order.

    Raises:
      ValueError: if the model declares a parameter that it does not have.
      TypeError: if `x` has no arrays.

    Example:
      >>> from flax import linen as nn
      >>> from jopt import models
      >>> attention = models.from_linen(nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8))
      >>> layers = trace(attention, jnp.ones((1, 5, 6)))
      >>> query, out = layers["query/kernel"], layers["out/kernel"]
      >>> query.layer, query.contract, query.outputs, out.contract, out.outputs
      ('DenseGeneral', (0,), (1, 2), (0, 1), (2,))
      >>> layers["query/bias"].reason
      'bias of DenseGeneral'
    """
    if not jax.tree.leaves(x):
        raise TypeError(f"x must be an array or a pytree of arrays, got {jax.tree.structure(x)}")
    if params is None:
        # The key is made inside, where it is only a shape.
        params, model_state = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), x)
    declared = dict(model.layers or {})
    leaves = list(named_leaves(params))
    if unknown := sorted(set(declared) - {path for path, _ in leaves}):
        raise ValueError(
            f"the model declares {', '.join(unknown)}; its parameters are: {', '.join(p for p, _ in leaves)}"
        )
    kinds = {} if model.kinds is None else dict(model.kinds())

    # `make_jaxpr` runs the model's Python once, so the classes of its modules are noted in the same pass.
    def forward(params: Params, model_state: ModelState, x: jax.Array) -> PyTree:
        return _with_kinds(lambda: model.apply(params, model_state, x, train=False), kinds)

    jaxpr = jax.make_jaxpr(forward)(params, {} if model_state is None else model_state, x).jaxpr
    traced = {
        path: _parameter(path, leaf, read, kinds)
        for (path, leaf), read in zip(leaves, flow.reads(jaxpr, len(leaves), len(jax.tree.leaves(x))), strict=True)
    }
    shapes = {path: jnp.shape(leaf) for path, leaf in leaves}
    traced = {path: _with_copies_of_kernel(p, traced, shapes) for path, p in traced.items()}
    return traced | {path: p._replace(path=path, source="declared") for path, p in declared.items()}


def parameters(params: Params, layers: Layers | None = None) -> list[Parameter]:
    """What is known of each parameter of a tree: from `layers`, else assumed from its name and shape.

    Args:
      params: a pytree of arrays, or of their shapes.
      layers: what `trace` gave; None: everything is assumed.

    Returns:
      A `Parameter` for each leaf, in leaf order.

    Example:
      >>> [p.reason for p in parameters({"bias": jnp.zeros((2, 4)), "kernel": jnp.zeros((3, 2))})]
      ['bias, assumed', 'kernel, assumed']
    """
    layers = layers or {}
    return [layers.get(path) or _assumed(path, leaf) for path, leaf in named_leaves(params)]


def _assumed(path: str, leaf: ArrayLike | jax.ShapeDtypeStruct, stack: Axes = ()) -> Parameter:
    """What is assumed of each copy, on the axes of the whole."""
    shape, floating = jnp.shape(leaf), bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))
    unstacked = parameter.assumed(path, shape, floating=floating)
    if unstacked.stack or not stack:
        return unstacked
    copy = parameter.assumed(path, one_copy(shape, stack), floating=floating)
    others = [axis for axis in range(len(shape)) if axis not in stack]
    contract, outputs, window = (
        tuple(others[axis] for axis in axes) for axes in (copy.contract, copy.outputs, copy.window)
    )
    return copy._replace(contract=contract, outputs=outputs, window=window, stack=stack)


def _parameter(
    path: str, leaf: ArrayLike | jax.ShapeDtypeStruct, read: flow.Reads, kinds: Mapping[str, str]
) -> Parameter:
    """The parameter of a path, given how the program reads it and the kinds of the modules that ran."""
    shape, kind = jnp.shape(leaf), kinds.get(path.rpartition("/")[0])
    # The name decides the role; what reads the parameter decides
    # the axes, and the role of a name that says nothing.
    role, uses = parameter.role(path), read.uses
    # Equinox calls the scale of a normalization its weight, and its place in a list says no more.
    if role == "kernel" and kind is not None and kind.endswith("Norm"):
        role = "scale"
    if not uses and role == "kernel" and kind in _ORDERED and all(map(_in_order, read.others)):
        uses = read.others
    if not uses:
        # Its name may still say that it is a kernel, read by something that the trace cannot follow.
        stack = tuple(sorted(read.stack))
        if role in WEIGHTS:
            assumed = _assumed(path, leaf, stack)._replace(layer=kind or "unknown")
            # The model was asked, and did not say: only Flax's layers still have the axes that names stand for.
            return assumed if kind in _ORDERED else assumed._replace(contract=(), outputs=(), window=())
        outputs = (
            tuple(axis for axis in range(len(shape)) if axis not in stack) if role in ("bias", "scale") else ()
        )
        return Parameter(path, kind or "unknown", role or "other", (), outputs, stack=stack, source="traced")
    if role in (None, "kernel") and all(use.kind == "Embed" and len(use.outputs) > 1 for use in uses):
        # A table of matrices: experts that each example picks, whose product with the data is not followed.
        return Parameter(path, kind or "unknown", "kernel", source="traced")
    if role == "scale" and parameter.is_kernel(path) and any(use.kind != "Embed" and use.outputs for use in uses):
        role = "kernel"  # of a layer inside something that is called a norm: a scale makes no new outputs.
    if role not in ("bias", "scale"):
        role = "embedding" if any(use.kind == "Embed" for use in uses) else "kernel"
    layout = _layout(uses, shape)
    if kind in _ORDERED:
        layout = _with_mapped_copies(layout)
    return Parameter(path, kind or uses[0].kind, role, source="traced", **layout)


def _with_copies_of_kernel(
    p: Parameter, traced: Mapping[str, Parameter], shapes: Mapping[str, Sequence[int]]
) -> Parameter:
    """A bias with the copies of its layer's kernel: `nn.vmap` adds all copies of a bias at once."""
    kernel = traced.get(f"{p.path.rpartition('/')[0]}/kernel".lstrip("/"))
    if p.role != "bias" or p.stack or kernel is None or not kernel.outputs:
        return p
    # Only copies in front, with a bias that has one more axis for each: anything else is a bias of several axes.
    copies = tuple(range(len(kernel.stack)))
    leading = kernel.stack == copies and shapes[p.path][: len(copies)] == shapes[kernel.path][: len(copies)]
    if not leading or len(shapes[p.path]) != len(copies) + len(kernel.outputs):
        return p
    outputs = tuple(axis for axis in range(len(shapes[p.path])) if axis not in copies)
    return p._replace(stack=copies, outputs=outputs)


def _in_order(use: flow.Use) -> bool:
    """Whether it sums over axes before those of outputs, as a layer does to its input."""
    return bool(use.contract) and bool(use.outputs) and max(use.contract) < max(use.outputs)


def _with_mapped_copies(layout: dict[str, Any]) -> dict[str, Any]:
    """The layout with outputs that come before the inputs as copies.

    Where all copies read the same input, as in an ensemble, `vmap` makes one product of them, with more outputs.
    """
    copies = tuple(axis for axis in layout.get("outputs", ()) if axis < min(layout["contract"]))
    if not copies or copies == layout["outputs"]:
        return layout
    outputs = tuple(axis for axis in layout["outputs"] if axis not in copies)
    return {**layout, "outputs": outputs, "stack": tuple(sorted({*layout["stack"], *copies}))}


def _layout(uses: Sequence[flow.Use], shape: Sequence[int]) -> dict[str, Any]:
    """The one layout of all uses, empty where they differ; a lookup decides for a table that is multiplied too."""
    uses = [use for use in uses if use.kind == "Embed"] or uses
    # Uses may disagree on axes of size 1, of which a reshape leaves no trace.
    wide = frozenset(axis for axis, n in enumerate(shape) if n != 1)
    first = next((use for use in uses if use.direct), uses[0])
    ways = {(use.contract & wide, use.outputs & wide, use.stack & wide) for use in uses}
    if len(ways) > 1 or not first.contract:
        return {}
    # An axis of size 1 that a reshape lost is summed over like any other.
    contract = frozenset(range(len(shape))) - first.outputs - first.stack
    window = frozenset().union(*(use.window for use in uses)) & contract
    return {
        "contract": tuple(sorted(contract)),
        "outputs": tuple(sorted(first.outputs)),
        "window": tuple(sorted(window)),
        "stack": tuple(sorted(first.stack)),
        "groups": max(use.groups for use in uses),
        "dilation": max(use.dilation for use in uses),
    }


def _with_kinds(run: Callable[[], Any], kinds: dict[str, str]) -> Any:
    """What `run` gives; the class of every Linen module that runs goes into `kinds`, by path."""
    from flax import linen as nn  # its import takes a third of a second.

    def note(
        call: Callable[..., Any], args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext
    ) -> Any:
        # A lifted module (nn.remat, nn.scan) runs a second time inside, without its path.
        kinds.setdefault("/".join(context.module.path), type(context.module).__name__)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        return run()
