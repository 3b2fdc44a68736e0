"""What a name and a shape say about a parameter where no trace and no declaration does."""

import re
from collections.abc import Sequence

from jopt.layers.parameter import Layers, Parameter

_KERNEL = re.compile(r"(.+_)?kernel|[wW]|weights?")
_EMBEDDING = re.compile(r"embeddings?")
_BIAS = re.compile(r"(.+_)?bias|b|beta|offset")
_SCALE = re.compile(r"(.+_)?scale|gamma|mean|var")
_OTHER = re.compile(r"(.+_)?pos(ition(al)?)?(_?emb(ed(dings?)?)?)?|cls(_?token)?|(.+_)?tokens?")
_NORM = re.compile(r"(.*_|[a-z]*)?norm([_\d].*)?", re.IGNORECASE)
_LIFTED = re.compile(r"(Scan|Vmap)[A-Z]\w*")  # Flax's names of scanned and mapped modules: `ScanBlock_0`
_ATTENTION = re.compile(r".*(attention|attn).*", re.IGNORECASE)
_CONV = re.compile(r"(.*[a-z_])?conv(?!.*transpose)([_\d].*)?", re.IGNORECASE)


def role(path: str) -> str | None:
    """The role that a parameter's name gives it, or None for a name that says nothing.

    The last part of the path counts ('value', which ends the paths of an NNX state, aside), and whether the part
    before it is called a norm.

    Example:
      >>> [role(p) for p in ("Dense_0/kernel", "query/bias", "LayerNorm_0/scale", "pos_embedding", "shared/a")]
      ['kernel', 'bias', 'scale', 'other', None]
    """
    parts = _parts(path)
    name, layer = parts[-1], parts[-2] if len(parts) > 1 else ""
    if _BIAS.fullmatch(name):
        return "bias"
    if _SCALE.fullmatch(name) or (_KERNEL.fullmatch(name) and _NORM.fullmatch(layer)):
        return "scale"
    if _KERNEL.fullmatch(name):
        return "kernel"
    if _EMBEDDING.fullmatch(name):
        return "embedding"
    return "other" if _OTHER.fullmatch(name) else None


def is_kernel(path: str) -> bool:
    """Whether a parameter is called a kernel, whatever its layer is called.

    Example:
      >>> is_kernel("norm_out/kernel"), role("norm_out/kernel")
      (True, 'scale')
    """
    return bool(_KERNEL.fullmatch(_parts(path)[-1]))


def assumed(path: str, shape: Sequence[int], *, floating: bool = True) -> Parameter:
    """What is assumed of a parameter from its name and shape.

    A name that says nothing makes a kernel of a floating array of two or more axes. Two axes of a kernel are [in,
    out], as Flax has them, but for one called 'weight', which PyTorch and Equinox hold as [out, in]: that layout is
    left unknown. So is that of three or more axes, unless the names are those that Flax gives: of a convolution,
    [*window, in, out], of an attention's 'query', 'key' and 'value', [in, heads, dim], and its 'out', [heads, dim,
    out]. In a module that Flax names as scanned or mapped, such as 'ScanBlock_0', the first axis is over copies.

    Args:
      path: the parameter's path.
      shape: its shape.
      floating: whether its dtype is.

    Returns:
      A `Parameter` whose source is 'assumed'.

    Example:
      >>> assumed("Dense_0/kernel", (3, 4)).outputs, assumed("Conv_1/kernel", (3, 3, 8, 16)).window
      ((1,), (0, 1))
      >>> assumed("attention/query/bias", (2, 4)).reason, assumed("mix/kernel", (8, 2, 4)).contract
      ('bias, assumed', ())
      >>> assumed("ScanBlock_0/Dense_0/kernel", (3, 8, 16)).stack
      (0,)
    """
    parts = _parts(path)
    if len(shape) > 1 and any(_LIFTED.fullmatch(part) for part in parts[:-1]):
        one = _of_one(path, parts, shape[1:], floating)
        moved = {name: tuple(axis + 1 for axis in getattr(one, name)) for name in ("contract", "outputs", "window")}
        return one._replace(**moved, stack=(0,))
    return _of_one(path, parts, shape, floating)


def _of_one(path: str, parts: Sequence[str], shape: Sequence[int], floating: bool) -> Parameter:
    """As `assumed`, of one copy of a layer."""
    given, rank = role(path), len(shape)
    if given is None:
        given = "kernel" if floating and rank >= 2 else "other"
    if (given == "kernel" and rank < 2) or (given in ("kernel", "embedding") and not floating):
        given = "other"
    parameter = Parameter(path, role=given)
    if given in ("bias", "scale"):
        return parameter._replace(outputs=tuple(range(rank)))
    if given == "embedding" and rank == 2:
        return parameter._replace(layer="Embed", contract=(0,), outputs=(1,))
    if given != "kernel":
        return parameter
    if rank == 2 and not re.fullmatch(r"weights?", parts[-1]):
        return parameter._replace(contract=(0,), outputs=(1,))
    if rank == 3 and len(parts) > 2 and _ATTENTION.fullmatch(parts[-3]):
        if parts[-2] in ("query", "key", "value"):
            return parameter._replace(layer="DenseGeneral", contract=(0,), outputs=(1, 2))
        if parts[-2] == "out":
            return parameter._replace(layer="DenseGeneral", contract=(0, 1), outputs=(2,))
    if rank >= 3 and any(_CONV.fullmatch(part) for part in parts[-2:]):
        contract = tuple(range(rank - 1))
        return parameter._replace(layer="Conv", contract=contract, outputs=(rank - 1,), window=contract[:-1])
    return parameter


def is_weight(path: str, shape: Sequence[int], layers: Layers | None = None) -> bool:
    """Whether a floating array is a weight, by what the model says about it or, where that is not at hand, its
    name.

    Example:
      >>> is_weight("Dense_0/kernel", (3, 4)), is_weight("query/bias", (2, 4))
      (True, False)
    """
    known = (layers or {}).get(path)
    return (assumed(path, shape) if known is None else known).is_weight


def _parts(path: str) -> list[str]:
    parts = path.split("/")
    return parts[:-1] if len(parts) > 1 and parts[-1] == "value" else parts
