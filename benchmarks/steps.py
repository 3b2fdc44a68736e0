"""Training steps (suites `train`, `matmul`, `compress`) and what is chosen between them (suite `masks`)."""

import gc
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contenders import (
    CASES,
    JOPT,
    PLAIN_CONV,
    PYTHON_LOOP,
    PYTORCH,
    PYTORCH_CHANNELS_LAST,
    PYTORCH_CHANNELS_LAST_ONE_THREAD,
    PYTORCH_FUSED,
    PYTORCH_ONE_THREAD,
    Case,
    Contender,
    Job,
    experiment,
    job,
    plain_convolution,
    python_loop,
    pytorch,
    scanned,
)
from benchmarks.timing import (
    MissingPackageError,
    Options,
    Row,
    alternate,
    at_least,
    at_most,
    compared,
    once,
    spread,
)
from benchmarks.torch_networks import channels_last
from jopt import measure, models, prune, quantize
from jopt.method import Method
from jopt.train import Experiment, Stage

TOP_K = "jopt.prune.top_k_mask"
SORT = "threshold by jnp.sort"
SPARSITY = 0.9
MASK_TARGETS = {1_000_000: 20.0, 25_000_000: 10.0}

PLAIN = "plain"
MASKS = "masks, 90 % sparse"
INT8 = "int8 weights"
BOTH = "masks and int8 weights"
BOTH_SIDES = "int8 weights and activations"
QWIX = "qwix, int8 weights"
QWIX_BOTH_SIDES = "qwix, int8 weights and activations"

# Methods may cost little over the plain step; qwix's step should take at least as long as jopt's of the same codes.
REFERENCES = {MASKS: PLAIN, INT8: PLAIN, BOTH: PLAIN, BOTH_SIDES: PLAIN, QWIX: INT8, QWIX_BOTH_SIDES: BOTH_SIDES}
COMPRESS_TARGETS = {
    MASKS: at_most(1.05),
    INT8: at_most(1.12),
    BOTH: at_most(1.2),
    QWIX: at_least(1.0),
    QWIX_BOTH_SIDES: at_least(1.0),
}


def chosen_cases(options: Options) -> list[Case]:
    """The cases whose name contains `options.cases`."""
    return [case for case in CASES if options.cases in case.name]


def training_contenders(work: Job, torch: bool) -> dict[str, Contender]:
    """The contenders of suite `train`, by name; jopt's first."""
    contenders = {JOPT: scanned(work), PYTHON_LOOP: python_loop(work)}
    if work.prepared.config.model.name == "cnn":
        contenders[PLAIN_CONV] = plain_convolution(work)
    if torch:
        contenders[PYTORCH] = pytorch(work)
        contenders[PYTORCH_FUSED] = pytorch(work, fused=True)
        contenders[PYTORCH_ONE_THREAD] = pytorch(work, threads=1)
        if work.prepared.config.model.name != "mlp":
            contenders[PYTORCH_CHANNELS_LAST] = pytorch(work, wrap=channels_last)
            contenders[PYTORCH_CHANNELS_LAST_ONE_THREAD] = pytorch(work, threads=1, wrap=channels_last)
    return contenders


def train(options: Options) -> list[Row]:
    """Suite `train`: an optimizer step; the ratio is the alternative's time over jopt's.

    Raises:
      MissingPackageError: if PyTorch should run and is not installed.
    """
    rows = []
    for case in chosen_cases(options):
        contenders = training_contenders(job(case.experiment), options.torch)
        times = alternate({name: contender.run for name, contender in contenders.items()}, options)
        rows += compared(case.name, times, "seconds_per_step", JOPT, case.targets)
        # A contender's closures hold its state in a cycle: 28x28 images of all cases at once would fill the caches.
        del contenders
        gc.collect()
    return rows


def matmul(options: Options) -> list[Row]:
    """Suite `matmul`: the share of the machine's float32 rate that a step reaches; 100 % cannot be reached."""
    size = options.matmul_size
    jobs = {case.name: job(case.experiment, epochs=1) for case in chosen_cases(options)}
    flops = {name: flops_per_step(work) for name, work in jobs.items()}
    product = f"one product of {size}²"
    times = alternate(
        {product: matrix_product(size), **{name: scanned(work).run for name, work in jobs.items()}}, options
    )
    rates = {name: flops.get(name, 2 * size**3) / seconds / 1e9 for name, seconds in times.items()}
    return [
        Row(
            "float32 rate",
            name,
            {
                "flops": int(flops.get(name, 2 * size**3)),
                "gflops_per_second": spread(rate),
                "share": spread(rate / rates[product]),
            },
        )
        for name, rate in rates.items()
    ]


def flops_per_step(work: Job) -> float:
    """Floating-point operations of the products and convolutions of one step, counted in the segment's jaxpr."""
    prepared = work.prepared
    state: Any = jax.eval_shape(work.program.init, prepared.key, prepared.values)
    return measure.flops(work.program.segment, state, prepared.values, prepared.arrays["train"]) / work.steps


def matrix_product(size: int) -> Callable[[], int]:
    """Multiplies two square float32 matrices."""
    a, b = (jnp.asarray(np.random.RandomState(i).standard_normal((size, size)), jnp.float32) for i in range(2))
    product = jax.jit(jnp.matmul)
    return once(lambda: product(a, b).block_until_ready())


def masks(options: Options) -> list[Row]:
    """Suite `masks`: choosing which weights are kept; the ratio is the sort's time over jopt's.

    Raises:
      RuntimeError: if the contenders' masks differ.
    """
    rows = []
    for size in options.weights:
        choices = mask_contenders(distinct_scores(size), jnp.float32(SPARSITY))
        # Only jopt's keeps the exact count when scores tie, so a fair comparison needs scores that do not.
        kept = [np.asarray(choose()) for choose in choices.values()]
        if not all(np.array_equal(kept[0], mask) for mask in kept):
            raise RuntimeError(f"the masks of {size} weights differ: {[int(mask.sum()) for mask in kept]} are kept")
        work = {name: once(lambda c=choose: c().block_until_ready()) for name, choose in choices.items()}
        times = alternate(work, options)
        case = f"{size:,} weights, {100 * SPARSITY:g} % pruned"
        rows += compared(case, times, "seconds_per_mask", TOP_K, {SORT: at_least(MASK_TARGETS.get(size))})
        del choices, kept, work
        gc.collect()
    return rows


def mask_contenders(scores: jax.Array, sparsity: jax.Array) -> dict[str, Callable[[], jax.Array]]:
    """The contenders by name; jopt's first. Both are one XLA program, with a traced sparsity."""
    search, sort = jax.jit(prune.top_k_mask), jax.jit(mask_by_sort)
    return {TOP_K: lambda: search(scores, sparsity), SORT: lambda: sort(scores, sparsity)}


def mask_by_sort(scores: jax.Array, sparsity: jax.Array) -> jax.Array:
    """Keeps what reaches the k-th largest score: the same mask where no two scores are equal."""
    count = prune.keep_count(scores.size, sparsity)
    return scores >= jnp.sort(scores)[scores.size - count]


def distinct_scores(size: int) -> jax.Array:
    """float32 [size], magnitudes of normal numbers, no two of them equal, in random order."""
    random = np.random.default_rng(0)
    bits = np.sort(np.abs(random.standard_normal(size, np.float32))).view(np.int32)
    step = np.arange(size, dtype=np.int32)
    # Of positive floats the order of the bits is the order of the numbers: equal neighbours move apart by one unit
    # in the last place.
    bits = np.maximum.accumulate(bits - step) + step
    random.shuffle(bits)
    return jnp.asarray(bits.view(np.float32))


def compressed_experiment(*methods: Method) -> Experiment:
    """LeNet-300-100 on the digits, batches of 64, with these methods from the first step on."""
    return experiment("mlp", 64, 300, 100, stages=[Stage("train", epochs=10, methods=methods)])


def methods() -> dict[str, tuple[Method, ...]]:
    """The methods of each of jopt's contenders in suite `compress`."""
    masks = prune.OneShot(sparsity=SPARSITY)
    weights = quantize.Weights(bits=8, granularity="channel")
    inputs = quantize.MovingAverageActivations(bits=8)
    return {
        PLAIN: (),
        MASKS: (masks,),
        INT8: (weights,),
        BOTH: (masks, weights),
        BOTH_SIDES: (weights, inputs),
    }


def compress(options: Options) -> list[Row]:
    """Suite `compress`: what masks and fake quantization add to a training step, and qwix's step of the same codes.

    All run in jopt's segments on the same batches, so what differs is the method alone.

    Raises:
      MissingPackageError: if qwix should run and is not installed.
    """
    jobs = {name: job(compressed_experiment(*fields)) for name, fields in methods().items()}
    if options.qwix:
        for name, inputs in ((QWIX, None), (QWIX_BOTH_SIDES, "int8")):
            jobs[name] = job(compressed_experiment(), model=qwix_model(inputs))
    times = alternate({name: scanned(work, update=True).run for name, work in jobs.items()}, options)
    return compress_rows(times)


def compress_rows(times: Mapping[str, np.ndarray]) -> list[Row]:
    """The rows of suite `compress` from the seconds of each contender."""
    return compared(CASES[0].name, times, "seconds_per_step", REFERENCES, COMPRESS_TARGETS)


def qwix_model(inputs: str | None) -> models.Model:
    """The same network, its kernels quantized to int8 by qwix as it trains; its inputs too, where a type is given.

    Raises:
      MissingPackageError: if qwix is not installed.
    """
    try:
        import qwix  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        message = "suite compress needs qwix: pip install 'jopt[bench]', or leave it out with --noqwix"
        raise MissingPackageError(message) from error
    rule = qwix.QtRule(module_path=".*", weight_qtype="int8", act_qtype=inputs)
    module = models.build(compressed_experiment().model)
    model = models.from_linen(qwix.quantize_model(module, qwix.QtProvider([rule])))
    return models.Model(_lenient(model.init), _lenient(model.apply))


def _lenient(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with NumPy's promotion: qwix counts on it, jopt's tests forbid it."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return function(*args, **kwargs)

    return call
