"""Training steps (suites `train`, `matmul`, `compress`) and what is chosen between them (suite `masks`)."""

import gc
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import peers
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
from benchmarks.peers import (
    JAXPRUNER,
    TORCH_AO,
    TORCH_AO_BOTH_SIDES,
    TORCH_AO_BOTH_SIDES_ONE_THREAD,
    TORCH_AO_ONE_THREAD,
    TORCH_PRUNE,
)
from benchmarks.timing import (
    Options,
    Row,
    Value,
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
REFERENCES = dict.fromkeys((MASKS, INT8, BOTH, BOTH_SIDES), PLAIN) | {
    QWIX: INT8,
    QWIX_BOTH_SIDES: BOTH_SIDES,
    TORCH_AO: INT8,
    TORCH_AO_BOTH_SIDES: BOTH_SIDES,
    TORCH_AO_ONE_THREAD: INT8,
    TORCH_AO_BOTH_SIDES_ONE_THREAD: BOTH_SIDES,
}
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
    if work.prepared.config.model.label == "cnn":
        contenders[PLAIN_CONV] = plain_convolution(work)
    if torch:
        contenders[PYTORCH] = pytorch(work)
        contenders[PYTORCH_FUSED] = pytorch(work, fused=True)
        contenders[PYTORCH_ONE_THREAD] = pytorch(work, threads=1)
        if work.prepared.config.model.label != "mlp":
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
        rows += train_rows(case, times)
        # A contender's closures hold its state in a cycle: 28x28 images of all cases at once would fill the caches.
        del contenders
        gc.collect()
    return rows


def train_rows(case: Case, times: Mapping[str, np.ndarray]) -> list[Row]:
    """The rows of suite `train` from the seconds of each contender, and what a segment saves of the Python loop."""
    rows = compared(case.name, times, "seconds_per_step", JOPT, case.targets)
    # Launching a program costs about as much for any step: a ratio would only tell how long the step is.
    saved: dict[str, Value] = {"saved_seconds_per_step": spread(times[PYTHON_LOOP] - times[JOPT])}
    return [row._replace(values=row.values | saved) if row.contender == PYTHON_LOOP else row for row in rows]


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
    """Suite `masks`: choosing which weights are kept; the ratio is the alternative's time over jopt's.

    Raises:
      RuntimeError: if the contenders' masks differ.
      MissingPackageError: if PyTorch should run and is not installed.
    """
    rows = []
    for size in options.weights:
        choices = mask_contenders(distinct_scores(size), SPARSITY, options.torch)
        # Not all keep the exact count when scores tie, so a fair comparison needs scores that do not.
        kept = [np.asarray(choose()) for choose in choices.values()]
        if not all(np.array_equal(kept[0], mask) for mask in kept):
            raise RuntimeError(f"the masks of {size} weights differ: {[int(mask.sum()) for mask in kept]} are kept")
        work = {name: once(lambda c=choose: jax.block_until_ready(c())) for name, choose in choices.items()}
        # Sorting this many takes seconds.
        times = alternate(work, options if size < 10_000_000 else options.fewer(4))
        case = f"{size:,} weights, {100 * SPARSITY:g} % pruned"
        rows += compared(case, times, "seconds_per_mask", TOP_K, {SORT: at_least(MASK_TARGETS.get(size))})
        del choices, kept, work
        gc.collect()
    return rows


def mask_contenders(scores: jax.Array, sparsity: float, torch: bool) -> dict[str, Callable[[], Any]]:
    """The contenders by name; jopt's first. Those in JAX are one XLA program each, with a traced sparsity."""
    share = jnp.float32(sparsity)
    selections = {TOP_K: prune.top_k_mask, SORT: mask_by_sort, JAXPRUNER: peers.mask_by_argsort}
    programs = {name: jax.jit(select) for name, select in selections.items()}
    contenders: dict[str, Callable[[], Any]] = {}
    for name, program in programs.items():
        contenders[name] = lambda p=program: p(scores, share)
    if torch:
        contenders[TORCH_PRUNE] = peers.torch_selection(np.asarray(scores), sparsity)
    return contenders


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
    """Suite `compress`: what masks and fake quantization add to a training step, and qwix's and torch.ao's steps.

    All but torch.ao's run in jopt's segments on the same batches, so what differs is the method alone.

    Raises:
      MissingPackageError: if qwix or PyTorch should run and is not installed.
    """
    jobs = {name: job(compressed_experiment(*fields)) for name, fields in methods().items()}
    if options.qwix:
        plain = compressed_experiment()
        assert isinstance(plain.model, models.ModelConfig)
        for name, inputs in ((QWIX, None), (QWIX_BOTH_SIDES, "int8")):
            jobs[name] = job(plain, model=peers.qwix_model(models.build(plain.model), inputs))
    contenders = {name: scanned(work, update=True) for name, work in jobs.items()}
    if options.torch:
        for name, inputs, threads in (
            (TORCH_AO, False, 2),
            (TORCH_AO_ONE_THREAD, False, 1),
            (TORCH_AO_BOTH_SIDES, True, 2),
            (TORCH_AO_BOTH_SIDES_ONE_THREAD, True, 1),
        ):
            contenders[name] = peers.torch_ao(jobs[PLAIN], inputs=inputs, threads=threads)
    return compress_rows(alternate({name: contender.run for name, contender in contenders.items()}, options))


def compress_rows(times: Mapping[str, np.ndarray]) -> list[Row]:
    """The rows of suite `compress` from the seconds of each contender."""
    return compared(CASES[0].name, times, "seconds_per_step", REFERENCES, COMPRESS_TARGETS)
