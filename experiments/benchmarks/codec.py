"""Suite `codec`: bytes of packed models, and how fast they are written and read, on one core."""

import contextlib
import gc
import io
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import ans
from experiments.benchmarks.timing import Ratio, Spread, alternate, ratio, spread
from jopt import cluster, codec, quantize

JOPT = "jopt.codec"
ZIP = "np.savez_compressed"
ANS = "constriction in place of Huffman"
PARAMETERS = 25_000_000
LAYERS = 4
ENCODE, DECODE = "encode", "decode"
TARGETS = {ENCODE: 50.0, DECODE: 100.0}

Params = dict[str, dict[str, np.ndarray]]


class Model(NamedTuple):
    """Parameters, and what `jopt.codec.encode` is told of them."""

    params: Params
    specs: dict[str, Any]
    ranges: dict[str, Any]


class Coder(NamedTuple):
    """Writes parameters and reads them again."""

    encode: Callable[[], bytes]
    decode: Callable[[bytes], Params]


class CodecRow(NamedTuple):
    """One kind of parameters.

    Attributes:
      case: what they are.
      parameters: their number.
      encoding: that jopt chose for the kernels.
      bytes: of each contender's file.
      times_smaller: the float32 parameters' bytes over those.
      megabytes_per_second: 'encode' and 'decode' to contender to megabytes (1e6) of float32 parameters a second.
      ratios: 'encode' and 'decode' to how many times as long as jopt each alternative took.
      met: 'encode' and 'decode' to whether the median of jopt's rate reaches `TARGETS`.
    """

    case: str
    parameters: int
    encoding: str
    bytes: dict[str, int]
    times_smaller: dict[str, float]
    megabytes_per_second: dict[str, dict[str, Spread]]
    ratios: dict[str, list[Ratio]]
    met: dict[str, bool]


def packed(parameters: int, rounds: int, seconds: float) -> list[CodecRow]:
    """Times the contenders on each kind of parameters, in turn, on one core.

    Args:
      parameters: about how many, in four square kernels and their biases.
      rounds: how often each contender is timed.
      seconds: for how long each time, about.

    Raises:
      RuntimeError: if a contender does not give back every bit.
    """
    rows = []
    for case, make in CASES.items():
        model = make(kernels(parameters))
        with one_core():
            rows.append(_row(case, model, rounds, seconds))
        del model
        gc.collect()
    return rows


def kernels(parameters: int) -> Params:
    """Normal float32 kernels of standard deviation 0.02, square, and biases."""
    side, rng = max(1, math.isqrt(parameters // LAYERS)), np.random.default_rng(0)
    return {
        f"Dense_{i}": {
            "kernel": rng.standard_normal((side, side), np.float32) * np.float32(0.02),
            "bias": rng.standard_normal(side, np.float32) * np.float32(0.02),
        }
        for i in range(LAYERS)
    }


def dense(params: Params) -> Model:
    """As they are."""
    return Model(params, {}, {})


def int8(params: Params) -> Model:
    """Kernels fake-quantized to 8 bits with a scale for each output channel."""
    spec = quantize.Spec(8, axis=-1)

    def quantized(kernel: np.ndarray) -> np.ndarray:
        return np.asarray(quantize.fake_quantize(jnp.asarray(kernel), spec))

    return Model(_kernels(params, quantized), {f"{name}/kernel": spec for name in params}, {})


def shared(params: Params) -> Model:
    """Each kernel's entries are the 16 centroids of its k-means."""
    return Model(_kernels(params, lambda kernel: _nearest(kernel, kernel)), {}, {})


def sparse(params: Params) -> Model:
    """The largest tenth of each kernel, at the 16 centroids of its k-means; zeros elsewhere."""

    def pruned(kernel: np.ndarray) -> np.ndarray:
        threshold = np.quantile(np.abs(kernel[: 1 + 100_000 // len(kernel)]), 0.9)
        kept = np.abs(kernel) > threshold
        return np.where(kept, _nearest(kernel, kernel[kept]), np.float32(0))

    return Model(_kernels(params, pruned), {}, {})


CASES: dict[str, Callable[[Params], Model]] = {
    "dense float32": dense,
    "int8, a scale for each channel": int8,
    "4-bit codebook": shared,
    "90 % sparse, 4-bit codebook": sparse,
}


def enter(model: Model) -> dict[str, Coder]:
    """The contenders by name; jopt's first. All give back every bit."""
    params, specs, ranges = model
    flat = {f"{a}/{b}": leaf for a, layer in params.items() for b, leaf in layer.items()}
    shapes = [leaf.shape for leaf in flat.values()]

    def rebuild(leaves: dict[str, np.ndarray]) -> Params:
        return {a: {b: leaves[f"{a}/{b}"] for b in layer} for a, layer in params.items()}

    def zipped() -> bytes:
        file = io.BytesIO()
        np.savez_compressed(file, **flat)  # pyright: ignore[reportArgumentType]
        return file.getvalue()

    def unzipped(data: bytes) -> Params:
        with np.load(io.BytesIO(data)) as file:
            return rebuild({path: file[path] for path in flat})

    coders = {
        JOPT: Coder(
            lambda: codec.encode(params, specs=specs, ranges=ranges).data, lambda data: codec.decode(data).params
        ),
        ZIP: Coder(zipped, unzipped),
    }
    constriction = ans.coder()
    if constriction is not None and all(np.unique(leaf[:2]).size <= 17 for leaf in flat.values() if leaf.ndim == 2):
        coders[ANS] = Coder(
            lambda: ans.encode(constriction, flat.values()),
            lambda data: rebuild(dict(zip(flat, ans.decode(constriction, data, shapes), strict=True))),
        )
    return coders


@contextlib.contextmanager
def one_core() -> Iterator[int | None]:
    """Pins this thread to one processor and yields which, or None where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield max(before)
    finally:
        os.sched_setaffinity(0, before)


def _row(case: str, model: Model, rounds: int, seconds: float) -> CodecRow:
    coders = enter(model)
    files = {name: coder.encode() for name, coder in coders.items()}
    for name, coder in coders.items():
        if not _same(model.params, coder.decode(files[name])):
            raise RuntimeError(f"{name} does not give back the bits of {case}")
    work = {
        ENCODE: {name: _working(coder.encode) for name, coder in coders.items()},
        DECODE: {name: _working(coder.decode, files[name]) for name, coder in coders.items()},
    }
    times = {way: alternate(contenders, rounds, seconds) for way, contenders in work.items()}
    count = sum(leaf.size for layer in model.params.values() for leaf in layer.values())
    rates = {way: {n: spread(4e-6 * count / t) for n, t in found.items()} for way, found in times.items()}
    kernel = next(e for e in codec.decode(files[JOPT]).ledger.entries if e.path.endswith("kernel"))
    return CodecRow(
        case=case,
        parameters=count,
        encoding=kernel.encoding,
        bytes={name: len(data) for name, data in files.items()},
        times_smaller={name: 4 * count / len(data) for name, data in files.items()},
        megabytes_per_second=rates,
        ratios={
            way: [ratio(name, found[name], found[JOPT]) for name in coders if name != JOPT]
            for way, found in times.items()
        },
        met={way: rates[way][JOPT].median >= target for way, target in TARGETS.items()},
    )


def _working(work: Callable[..., Any], *args: Any) -> Callable[[], int]:
    def run() -> int:
        work(*args)
        return 1

    return run


def _same(a: Params, b: Params) -> bool:
    return all(
        np.array_equal(leaf.view(np.uint32), b[name][kind].view(np.uint32)) and leaf.shape == b[name][kind].shape
        for name, layer in a.items()
        for kind, leaf in layer.items()
    )


def _kernels(params: Params, change: Callable[[np.ndarray], np.ndarray]) -> Params:
    return {name: layer | {"kernel": change(layer["kernel"])} for name, layer in params.items()}


def _nearest(kernel: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The kernel's entries at the nearest of the 16 centroids of a sample of the values."""
    sample = values.reshape(-1)[:100_000]
    centroids = np.asarray(cluster.kmeans(sample, 16, start="density").centroids)
    return centroids[np.searchsorted((centroids[1:] + centroids[:-1]) / 2, kernel)]
