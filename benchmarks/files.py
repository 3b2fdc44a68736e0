"""Suite `codec`: bytes of packed models, and how fast they are written and read, on one core."""

import gc
import io
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Options, Row, Value, alternate, at_least, once, one_core, spread
from jopt import cluster, codec, quantize
from jopt.codec.codebook import distinct, indices
from jopt.codec.positions import Runs, count_runs, from_gaps, to_gaps

JOPT = "jopt.codec"
ZIP = "np.savez_compressed"
ANS = "constriction in place of Huffman"
LAYERS = 4
WRITE_TARGET, READ_TARGET = at_least(50.0), at_least(100.0)

Params = dict[str, dict[str, np.ndarray]]


class Model(NamedTuple):
    """Parameters, and what `jopt.codec.encode` must know of them."""

    params: Params
    specs: dict[str, quantize.Spec]


class Coder(NamedTuple):
    """Writes parameters and reads them again."""

    encode: Callable[[], bytes]
    decode: Callable[[bytes], Params]


def packed(options: Options) -> list[Row]:
    """Suite `codec`: megabytes (1e6) of float32 parameters a second, whatever the file's size.

    Raises:
      RuntimeError: if a contender does not give back every bit.
    """
    rows = []
    for case, make in CASES.items():
        model = make(kernels(options.parameters))
        # Each coder runs in one thread; pinned, it does not move between cores in the middle of a measurement.
        with one_core():
            rows += _rows(case, model, options)
        del model
        gc.collect()
    return rows


def _rows(case: str, model: Model, options: Options) -> list[Row]:
    contenders = coders(model)
    files = {name: coder.encode() for name, coder in contenders.items()}
    for name, coder in contenders.items():
        if not same_bits(model.params, coder.decode(files[name])):
            raise RuntimeError(f"{name} does not give back the bits of {case}")
    writing = alternate({name: once(coder.encode) for name, coder in contenders.items()}, options)
    reading = alternate({name: once(coder.decode, files[name]) for name, coder in contenders.items()}, options)
    count = sum(leaf.size for layer in model.params.values() for leaf in layer.values())
    ledger = codec.decode(files[JOPT]).ledger.entries
    encoding = next(entry.encoding for entry in ledger if entry.path.endswith("kernel"))
    rows = []
    for name, content in files.items():
        targets = (WRITE_TARGET, READ_TARGET) if name == JOPT else (None, None)
        values: dict[str, Value] = {"bytes": len(content), "times_smaller": 4 * count / len(content)}
        for column, times, target in zip(("write", "read"), (writing, reading), targets, strict=True):
            values[f"{column}_mb_per_second"] = spread(4e-6 * count / times[name], target)
        if name != JOPT:
            values |= {
                "write_ratio": spread(writing[name] / writing[JOPT]),
                "read_ratio": spread(reading[name] / reading[JOPT]),
            }
            values["against"] = JOPT
        rows.append(Row(f"{case} ({count:,} parameters): {encoding}", name, values))
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
    return Model(params, {})


def int8(params: Params) -> Model:
    """Kernels fake-quantized to 8 bits with a scale for each output channel."""
    spec = quantize.Spec(8, axis=-1)

    def quantized(kernel: np.ndarray) -> np.ndarray:
        return np.asarray(quantize.fake_quantize(jnp.asarray(kernel), spec))

    return Model(_kernels(params, quantized), {f"{name}/kernel": spec for name in params})


def shared(params: Params) -> Model:
    """Each kernel's entries are the 16 centroids of its k-means."""
    return Model(_kernels(params, lambda kernel: _nearest(kernel, kernel)), {})


def sparse(params: Params) -> Model:
    """The largest tenth of each kernel, at the 16 centroids of its k-means; zeros elsewhere."""

    def pruned(kernel: np.ndarray) -> np.ndarray:
        # A quantile of a sample: the entries are identically distributed, and sorting all takes longer than coding.
        threshold = np.quantile(np.abs(kernel[: 1 + 100_000 // len(kernel)]), 0.9)
        mask = np.abs(kernel) > threshold
        return np.where(mask, _nearest(kernel, kernel[mask]), np.float32(0))

    return Model(_kernels(params, pruned), {})


CASES: dict[str, Callable[[Params], Model]] = {
    "dense float32": dense,
    "int8, a scale for each channel": int8,
    "4-bit codebook": shared,
    "90 % sparse, 4-bit codebook": sparse,
}


def _kernels(params: Params, change: Callable[[np.ndarray], np.ndarray]) -> Params:
    return {name: layer | {"kernel": change(layer["kernel"])} for name, layer in params.items()}


def _nearest(kernel: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The kernel's entries at the nearest of the 16 centroids of a sample of the values."""
    sample = values.reshape(-1)[:100_000]
    centroids = np.asarray(cluster.kmeans(sample, 16, start="density").centroids)
    return centroids[np.searchsorted((centroids[1:] + centroids[:-1]) / 2, kernel)]


def coders(model: Model) -> dict[str, Coder]:
    """The contenders by name; jopt's first. All give back every bit."""
    params, specs = model
    flat = {f"{a}/{b}": leaf for a, layer in params.items() for b, leaf in layer.items()}
    shapes = [leaf.shape for leaf in flat.values()]

    def rebuild(leaves: dict[str, np.ndarray]) -> Params:
        return {a: {b: leaves[f"{a}/{b}"] for b in layer} for a, layer in params.items()}

    def zipped() -> bytes:
        file = io.BytesIO()
        np.savez_compressed(file, **flat)  # pyright: ignore[reportArgumentType]
        return file.getvalue()

    def unzipped(content: bytes) -> Params:
        with np.load(io.BytesIO(content)) as file:
            return rebuild({path: file[path] for path in flat})

    contenders = {
        JOPT: Coder(lambda: codec.encode(params, specs=specs).data, lambda content: codec.decode(content).params),
        ZIP: Coder(zipped, unzipped),
    }
    constriction = ans_package()
    # Two rows of a kernel show whether it has a codebook, without a sort of 25 million entries.
    if constriction is not None and all(np.unique(leaf[:2]).size <= 17 for leaf in flat.values() if leaf.ndim == 2):
        contenders[ANS] = Coder(
            lambda: ans_encode(constriction, flat.values()),
            lambda content: rebuild(dict(zip(flat, ans_decode(constriction, content, shapes), strict=True))),
        )
    return contenders


def same_bits(a: Params, b: Params) -> bool:
    """Whether all arrays have the same shapes and bits (0 and -0 differ, a NaN equals itself)."""
    return all(
        leaf.shape == b[name][kind].shape and np.array_equal(leaf.view(np.uint32), b[name][kind].view(np.uint32))
        for name, layer in a.items()
        for kind, leaf in layer.items()
    )


def ans_package() -> Any | None:
    """The module constriction, or None where it is not installed."""
    try:
        import constriction  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return constriction


def ans_encode(constriction: Any, arrays: Iterable[np.ndarray]) -> bytes:
    """The codebooks and gaps of jopt's files with constriction's ANS coder in place of Huffman codes.

    Float32 arrays of at most 65536 values each, sparse ones with gaps; vectors as they are. The model of each
    stream is the frequencies of its symbols, which are stored as int32.
    """
    parts: list[bytes] = []
    for array in arrays:
        flat = array.reshape(-1)
        if array.ndim < 2:
            parts.append(flat.tobytes())
            continue
        positions = np.flatnonzero(flat)
        is_sparse = 2 * positions.size < flat.size
        values = flat[positions] if is_sparse else flat
        codebook = distinct(values)
        if codebook is None:
            raise ValueError("this coder holds arrays of at most 65536 values")
        parts.append(codebook.tobytes())
        parts += _ans_write(constriction, indices(values, codebook), codebook.size)
        if is_sparse:
            width = _gap_width(count_runs(positions))
            codes = to_gaps(positions, flat.size, width)
            parts += _ans_write(constriction, codes, 1 << width)
    sizes = np.array([len(parts), *map(len, parts)], "<u4")
    return sizes.tobytes() + b"".join(parts)


def ans_decode(constriction: Any, content: bytes, shapes: Iterable[tuple[int, ...]]) -> list[np.ndarray]:
    """The arrays that `ans_encode` was given."""
    (count,) = np.frombuffer(content, "<u4", 1)
    sizes = np.frombuffer(content, "<u4", int(count), 4)
    ends = 4 + 4 * int(count) + np.cumsum(sizes)
    parts = iter([content[end - size : end] for size, end in zip(sizes.tolist(), ends.tolist(), strict=True)])
    arrays = []
    for shape in shapes:
        flat = np.frombuffer(next(parts), np.float32)
        if len(shape) < 2:
            arrays.append(flat.copy())
            continue
        size, codebook = int(np.prod(shape)), flat
        chosen, _ = _ans_read(constriction, parts)
        array = codebook[chosen]
        # Fewer symbols than entries: the array is sparse, and a stream of gaps follows.
        if chosen.size < size:
            codes, alphabet = _ans_read(constriction, parts)
            array = np.zeros(size, np.float32)
            array[from_gaps(codes, alphabet.bit_length() - 1, size, chosen.size)] = codebook[chosen]
        arrays.append(array.reshape(shape))
    return arrays


def _gap_width(runs: Runs) -> int:
    """The width of a gap that takes the fewest bits: the entropy, and 32 for each frequency."""
    return min(range(1, 9), key=lambda width: entropy(runs.codes(width)) + 32 * 2**width)


def entropy(counts: np.ndarray) -> float:
    """Bits of symbols with these counts, of zero order: sum of n log2(N / n).

    Example:
      >>> entropy(np.array([2, 1, 1, 0]))
      6.0
    """
    used = counts[counts > 0]
    return float(used @ np.log2(used.sum() / used))


def _ans_write(constriction: Any, symbols: np.ndarray, alphabet: int) -> Iterator[bytes]:
    counts = np.bincount(symbols, minlength=alphabet)
    yield counts.astype("<i4").tobytes()
    stack = constriction.stream.stack.AnsCoder()
    # constriction's models need at least two symbols; one symbol takes no bits.
    if np.count_nonzero(counts) > 1:
        stack.encode_reverse(symbols.astype(np.int32), _ans_model(constriction, counts))
    yield stack.get_compressed().tobytes()


def _ans_read(constriction: Any, parts: Iterator[bytes]) -> tuple[np.ndarray, int]:
    """The symbols, and the size of their alphabet."""
    counts = np.frombuffer(next(parts), "<i4")
    words = np.frombuffer(next(parts), np.uint32)
    if np.count_nonzero(counts) < 2:
        return np.full(int(counts.sum()), int(counts.argmax()), np.int32), counts.size
    stack = constriction.stream.stack.AnsCoder(words)
    return stack.decode(_ans_model(constriction, counts), int(counts.sum())), counts.size


def _ans_model(constriction: Any, counts: np.ndarray) -> Any:
    return constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)
