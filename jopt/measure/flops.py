"""FLOPs of a function, counted in its jaxpr: by kind of operation, by module, and without zero weights."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import jax

from jopt.layers import Layers, parameters
from jopt.measure import jaxprs
from jopt.measure.jaxprs import inner_jaxprs, open_jaxprs, repetitions
from jopt.measure.size import layers as parameter_sizes
from jopt.rules import named_leaves
from jopt.typing import Jaxpr, JaxprEqn, NameStack, Params


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

    # Not `__add__`: NamedTuples are tuples, whose sum is a longer tuple.
    def plus(self, other: "Operations", times: int = 1) -> "Operations":
        """The sum of both kinds by kind, `other` counted `times` times."""
        return Operations(*(a + times * b for a, b in zip(self, other, strict=True)))


def flops(fn: Callable[..., Any], *args: object) -> int:
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


def flops_by_scope(fn: Callable[..., Any], *args: object) -> dict[str, int]:
    """The count of `flops` by named scope, which for a Flax Linen model is the path of the module.

    The first part of a Linen path is the name of the model's class; `flops_by_layer` maps scopes to the paths
    of parameters. Modules of NNX and Equinox have such scopes too. What runs in no scope is under `''`.

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


def flops_by_layer(scopes: Mapping[str, int], params: Params) -> dict[str, int]:
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
    counts = dict.fromkeys((path.rpartition("/")[0] for path, _ in named_leaves(params)), 0)
    for scope, count in scopes.items():
        owner = _owner(scope.split("/"), counts)
        counts[owner] = counts.get(owner, 0) + count
    return counts


def _owner(scope: list[str], layers: Mapping[str, int]) -> str:
    # From the right, because the innermost module does the work; the longest path first, because `Block_0/Dense_0`
    # is not the `Dense_0` of the whole model.
    for stop in range(len(scope), 0, -1):
        for start in range(stop):
            if (name := "/".join(scope[start:stop])) in layers:
                return name
    return ""


def effective_flops(
    flops: Mapping[str, int], params: Params, layers: Layers | None = None
) -> dict[str, int] | None:
    """FLOPs of each layer times the density of its kernel.

    A dense layer uses each kernel entry once an example, a convolution once an output position (products with
    padding count, as in `flops`), a recurrence once a time step: so FLOPs times the share of nonzero kernel
    entries is exact. The zeros counted are those of the kernel itself: what a dead input or output neuron would
    save in the layers beside it shows only once the model is shrunk.

    Args:
      flops: FLOPs by layer, as `jopt.measure.flops_by_layer` gives them.
      params: the parameters as the model sees them. The kernels of a layer are taken as one if there are several; a
        layer without any, and `''`, count in full.
      layers: what the model says about its parameters, which are kernels above all; None: what their names and
        shapes say.

    Returns:
      Layer to FLOPs, rounded where several kernels share a layer; the values add up to the model's. None where the
      layers of a model cannot be seen (of plain functions all FLOPs are under `''`): how many of
      them a zero weight saves is not known then.

    Example:
      >>> import numpy as np
      >>> params = {"Dense_0": {"bias": np.zeros(4), "kernel": np.eye(4)}, "Dense_1": {"kernel": np.ones((4, 2))}}
      >>> effective_flops({"Dense_0": 32, "Dense_1": 16, "": 5}, params)
      {'Dense_0': 8, 'Dense_1': 16, '': 5}
      >>> print(effective_flops({"": 48, "Dense_0": 0, "Dense_1": 0}, params))
      None
    """
    counts: dict[str, tuple[int, int]] = {}
    for row, parameter in zip(parameter_sizes(params), parameters(params, layers), strict=True):
        if parameter.role == "kernel":
            owner = row.path.rpartition("/")[0]
            size, nonzero = counts.get(owner, (0, 0))
            counts[owner] = size + row.parameters, nonzero + row.nonzero_parameters
    # A kernel whose layer has no FLOPs means that its work was counted under '': as where no scopes are named.
    if flops.get("") and any(not flops.get(owner) for owner in counts if owner):
        return None
    effective = {}
    for layer, count in flops.items():
        size, nonzero = counts.get(layer, (0, 0)) if layer else (0, 0)
        # In fractions, because a product of two large integers in float64 would be off by some FLOPs.
        effective[layer] = round(Fraction(count * nonzero, size)) if size else count
    return effective


def operations(fn: Callable[..., Any], *args: object) -> Operations:
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


def operations_by_scope(fn: Callable[..., Any], *args: object) -> dict[str, Operations]:
    """The count of `operations` by named scope, as in `flops_by_scope`; in order of first use."""
    counts: dict[str, Operations] = {}
    for scope, count in _walk(jax.make_jaxpr(fn)(*args).jaxpr, ()):
        name = "/".join(_module_path(scope))
        counts[name] = counts.get(name, Operations()).plus(count)
    return counts


Scope = tuple[str, ...]


def _walk(jaxpr: Jaxpr, outer: Scope) -> Iterator[tuple[Scope, Operations]]:
    """Yields the scope and the cost of every equation of `jaxpr`; inner name stacks are relative to the outer."""
    for eqn in jaxpr.eqns:
        scope = outer + _scope_names(eqn.source_info.name_stack)
        name = eqn.primitive.name
        if name == "dot_general":
            yield scope, Operations(matmul=jaxprs.dot(eqn))
        elif name == "conv_general_dilated":
            yield scope, Operations(convolution=jaxprs.convolution(eqn))
        elif name in jaxprs.ELEMENTWISE:
            yield scope, Operations(elementwise=jaxprs.elementwise(eqn))
        elif name in jaxprs.REDUCTION | jaxprs.POOLING | jaxprs.POOLING_GRADIENT:
            yield scope, Operations(reduction=jaxprs.reduction(eqn))
        elif name in jaxprs.UNCOUNTABLE:
            raise ValueError(f"flops cannot see into {name!r}{_where(scope)}")
        elif name == "cond":
            yield from _branch(eqn, scope)
        elif name == "while":
            yield from _one_round(eqn, scope)
        else:
            # A call of any kind (jit, remat, custom gradients, a scan), or something that costs no arithmetic.
            times = repetitions(eqn)
            for inner in inner_jaxprs(eqn):
                for path, count in _walk(inner, scope):
                    yield path, Operations().plus(count, times)


def _branch(eqn: JaxprEqn, scope: Scope) -> list[tuple[Scope, Operations]]:
    branches = [list(_walk(branch, scope)) for branch in open_jaxprs(eqn.params["branches"])]
    # `platform_dependent` has a branch for each platform. The default one is taken on every machine, so that a FLOP
    # count in a report does not change with where it was made.
    platforms = eqn.params.get("branches_platforms")
    if platforms is not None and None in platforms:
        return branches[platforms.index(None)]
    return max(branches, key=lambda b: (sum(c.flops for _, c in b), sum(sum(c) for _, c in b)))


def _one_round(eqn: JaxprEqn, scope: Scope) -> Iterator[tuple[Scope, Operations]]:
    for inner in inner_jaxprs(eqn):
        for path, count in _walk(inner, scope):
            if count.flops:
                raise ValueError(
                    f"flops cannot count a matrix product in a `while` loop{_where(path)}: the number of rounds is "
                    "not in the program; use `lax.scan`, or `lax.fori_loop` with bounds that are Python integers"
                )
            yield path, count


def _scope_names(stack: NameStack) -> Scope:
    """The named scopes of a name stack, without the transformations (`jvp`, `vmap`) between them."""
    # By the name of the class, which JAX has in a private module.
    return tuple(part.name for part in stack.stack if type(part).__name__ == "Scope")


def _module_path(scope: Scope) -> list[str]:
    """A Flax module's path: `Net/Net.encode/Dense_0`, a method called from another, is `Net/Dense_0`."""
    names: list[str] = []
    in_method = False
    for part in "/".join(scope).split("/"):
        if part.startswith("eqx."):  # Equinox names its own layers by their classes, inside the module's name.
            continue
        name, _, method = part.partition(".")
        # Linen opens a scope for the module and another one for its method, both under the module's name.
        if not (names and names[-1] == name and (method or in_method)):
            names.append(name)
        in_method = bool(method)
    return names


def _where(scope: Scope) -> str:
    return f" in {'/'.join(scope)!r}" if scope else ""
