"""FLOPs of a function, counted in its jaxpr: by kind of operation and by the module that does it."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from jopt.measure import primitives
from jopt.rules import named_leaves


class Operations(NamedTuple):
    """Floating-point operations by kind; a multiply-add is 2.

    Attributes:
      matmul: of every `dot_general`, 2 M N K (times the batch); of integers too.
      convolution: of every `conv_general_dilated`, 2 output elements x window x input channels per group.
      elementwise: 1 for each output element of an arithmetic function or a comparison, `exp` like `add`.
      reduction: 1 for each input element; pooling, 1 for each element of each window.
    """

    matmul: int = 0
    convolution: int = 0
    elementwise: int = 0
    reduction: int = 0

    @property
    def flops(self) -> int:
        """What `flops` reports: matrix products and convolutions."""
        return self.matmul + self.convolution

    def plus(self, other: "Operations", times: int = 1) -> "Operations":
        """The sum of both kinds by kind, `other` counted `times` times."""
        return Operations(*(a + times * b for a, b in zip(self, other, strict=True)))


def flops(fn: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations of the matrix products and convolutions in one call of `fn(*args)`.

    This is the number that papers report: twice the multiply-accumulates of dense, convolutional and recurrent
    layers; biases, activations, normalization, pooling and data movement count 0 (`operations` has them).
    Zero weights count like any other: it is the dense, theoretical cost.

    `scan` counts its length times and `shard_map` once for each device that it maps over. Of a `cond` the
    costliest branch counts; of a `platform_dependent` the default branch, so that the number does not depend on
    the machine. Random bits, sorting, FFTs and matrix decompositions count 0.

    Args:
      fn: a function of arrays; it is traced, not run.
      *args: its arguments: pytrees of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
      The count, an exact Python integer.

    Raises:
      ValueError: for a matrix product or convolution inside a `while` loop, whose number of rounds the program
        does not tell, and for an opaque primitive such as a callback or a foreign function.

    Example:
      >>> x, w = jax.ShapeDtypeStruct((32, 300), "float32"), jax.ShapeDtypeStruct((300, 100), "float32")
      >>> flops(lambda x, w: jax.nn.relu(x @ w), x, w)
      1920000
    """
    return operations(fn, *args).flops


def flops_by_scope(fn: Callable[..., Any], *args: Any) -> dict[str, int]:
    """The count of `flops` by named scope, which for a Flax Linen model is the path of the module.

    The first part of a Linen path is the name of the model's class; `flops_by_layer` maps scopes to the paths
    of parameters. What runs in no scope, as all of an NNX model does, is under `''`.

    Returns:
      Scope to FLOPs, in order of first use, scopes of 0 left out; the values add up to `flops(fn, *args)`.

    Example:
      >>> def model(x):
      ...     with jax.named_scope("Dense_0"):
      ...         return x @ x
      >>> flops_by_scope(model, jax.ShapeDtypeStruct((10, 10), "float32"))
      {'Dense_0': 2000}
    """
    return {k: v.flops for k, v in operations_by_scope(fn, *args).items() if v.flops}


def flops_by_layer(scopes: Mapping[str, int], params: Any) -> dict[str, int]:
    """Sums the counts of `flops_by_scope` over the layers that own parameters.

    A layer is the path of a parameter without its last part: `Dense_0` owns `Dense_0/kernel`. A scope belongs
    to the layer whose whole path occurs in it last, the longest of those: `LeNet/Dense_0` to `Dense_0`.

    Args:
      scopes: what `flops_by_scope` gave.
      params: the parameters; only the structure is read.

    Returns:
      Layer to FLOPs, for every layer, in leaf order; what belongs to none is under `''`, if there is any.

    Example:
      >>> params = {"Dense_0": {"bias": 0, "kernel": 0}, "Dense_1": {"kernel": 0}}
      >>> flops_by_layer({"MLP/Dense_0": 60, "MLP/Dense_1": 8, "MLP": 5}, params)
      {'Dense_0': 60, 'Dense_1': 8, '': 5}
    """
    out = dict.fromkeys((path.rpartition("/")[0] for path, _ in named_leaves(params)), 0)
    for scope, count in scopes.items():
        owner = _owner(scope.split("/"), out)
        out[owner] = out.get(owner, 0) + count
    return out


def _owner(scope: list[str], layers: Mapping[str, int]) -> str:
    for stop in range(len(scope), 0, -1):
        for start in range(stop):
            if (name := "/".join(scope[start:stop])) in layers:
                return name
    return ""


def operations(fn: Callable[..., Any], *args: Any) -> Operations:
    """Floating-point operations of one call of `fn(*args)`, by kind; conventions and errors as in `flops`.

    Elementwise work and reductions inside a `while` loop count for one round. Fusion and simplification by the
    compiler are not seen: it is the program as traced.

    Example:
      >>> x = jax.ShapeDtypeStruct((2, 3), "float32")
      >>> operations(lambda x: jax.numpy.tanh(x @ x.T).sum(), x)
      Operations(matmul=24, convolution=0, elementwise=4, reduction=4)
    """
    total = Operations()
    for count in operations_by_scope(fn, *args).values():
        total = total.plus(count)
    return total


def operations_by_scope(fn: Callable[..., Any], *args: Any) -> dict[str, Operations]:
    """The count of `operations` by named scope, as in `flops_by_scope`; in order of first use."""
    out: dict[str, Operations] = {}
    for scope, count in _walk(jax.make_jaxpr(fn)(*args).jaxpr, ()):
        name = "/".join(_module_path(scope))
        out[name] = out.get(name, Operations()).plus(count)
    return out


Scope = tuple[str, ...]


def _walk(jaxpr: Any, outer: Scope) -> Iterator[tuple[Scope, Operations]]:
    """Yields the scope and the cost of every equation of `jaxpr`; inner name stacks are relative to the outer."""
    for eqn in jaxpr.eqns:
        scope = outer + _scope_names(eqn.source_info.name_stack)
        name = eqn.primitive.name
        if name == "dot_general":
            yield scope, Operations(matmul=primitives.dot(eqn))
        elif name == "conv_general_dilated":
            yield scope, Operations(convolution=primitives.convolution(eqn))
        elif name in primitives.ELEMENTWISE:
            yield scope, Operations(elementwise=primitives.elementwise(eqn))
        elif name in primitives.REDUCTION | primitives.POOLING | primitives.POOLING_GRADIENT:
            yield scope, Operations(reduction=primitives.reduction(eqn))
        elif name in primitives.UNCOUNTABLE:
            raise ValueError(f"flops cannot see into {name!r}{_where(scope)}")
        elif name == "cond":
            yield from _branch(eqn, scope)
        elif name == "while":
            yield from _one_round(eqn, scope)
        else:
            times = _times(eqn)
            for inner in inner_jaxprs(eqn):
                for path, count in _walk(inner, scope):
                    yield path, Operations().plus(count, times)


def _branch(eqn: Any, scope: Scope) -> list[tuple[Scope, Operations]]:
    branches = [list(_walk(branch, scope)) for branch in _jaxprs(eqn.params["branches"])]
    platforms = eqn.params.get("branches_platforms")
    if platforms is not None and None in platforms:
        return branches[platforms.index(None)]
    return max(branches, key=lambda b: (sum(c.flops for _, c in b), sum(sum(c) for _, c in b)))


def _one_round(eqn: Any, scope: Scope) -> Iterator[tuple[Scope, Operations]]:
    for inner in inner_jaxprs(eqn):
        for path, count in _walk(inner, scope):
            if count.flops:
                raise ValueError(
                    f"flops cannot count a matrix product in a `while` loop{_where(path)}: the number of rounds is "
                    "not in the program; use `lax.scan`, or `lax.fori_loop` with bounds that are Python integers"
                )
            yield path, count


def _times(eqn: Any) -> int:
    """How often an equation runs the jaxprs inside it."""
    name = eqn.primitive.name
    if name == "scan":
        return eqn.params["length"]
    if name == "shard_map":
        return math.prod(eqn.params["mesh"].shape[axis] for axis in eqn.params["newly_manual_axes"])
    if name == "pallas_call":
        return math.prod(eqn.params["grid_mapping"].grid)
    return 1


def inner_jaxprs(eqn: Any) -> Iterator[Any]:
    """The jaxprs that an equation runs."""
    if eqn.primitive.name == "custom_linear_solve":
        yield from _jaxprs([eqn.params["jaxprs"].solve])
    elif not eqn.primitive.name.startswith("scatter"):
        for value in eqn.params.values():
            yield from _jaxprs(value if isinstance(value, tuple | list) else (value,))


def _jaxprs(values: Any) -> Iterator[Any]:
    for value in values:
        jaxpr = getattr(value, "jaxpr", value)
        if hasattr(jaxpr, "eqns"):
            yield jaxpr


def _scope_names(stack: Any) -> Scope:
    """The named scopes of a name stack, without the transformations (`jvp`, `vmap`) between them."""
    return tuple(part.name for part in stack.stack if type(part).__name__ == "Scope")


def _module_path(scope: Scope) -> list[str]:
    """A Flax module's path: `Net/Net.encode/Dense_0`, a method called from another, is `Net/Dense_0`."""
    out: list[str] = []
    in_method = False
    for part in "/".join(scope).split("/"):
        name, _, method = part.partition(".")
        if not (out and out[-1] == name and (method or in_method)):
            out.append(name)
        in_method = bool(method)
    return out


def _where(scope: Scope) -> str:
    return f" in {'/'.join(scope)!r}" if scope else ""
