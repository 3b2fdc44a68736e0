"""Suite `compress`: what masks and fake quantization add to a training step, and qwix's step beside ours."""

import gc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from experiments.benchmarks.timing import Ratio, Spread, alternate, ratio, spread
from jopt import data, models, optim, prune, quantize
from jopt.train import Compiler, Experiment, Stage, prepare

PLAIN = "plain"
MASKS = "masks, 90 % sparse"
INT8 = "int8 weights"
BOTH = "masks and int8 weights"
BOTH_SIDES = "int8 weights and activations"
QWIX = "qwix, int8 weights"
QWIX_BOTH_SIDES = "qwix, int8 weights and activations"

# How many times the plain step's time each may take at most.
COSTS = {MASKS: 1.05, INT8: 1.12, BOTH: 1.2}
# qwix's step against ours of the same codes: at least as slow.
RIVALS = {QWIX: INT8, QWIX_BOTH_SIDES: BOTH_SIDES}


class MissingQwixError(ImportError):
    """qwix is not installed."""


class CompressRow(NamedTuple):
    """Suite `compress`.

    Attributes:
      case: the network and the batch.
      seconds_per_step: of each contender.
      costs: of jopt's own, against the plain step.
      rivals: of qwix's steps, against jopt's with the same codes.
    """

    case: str
    seconds_per_step: dict[str, Spread]
    costs: list[Ratio]
    rivals: list[Ratio]


def experiment(**methods: Any) -> Experiment:
    """LeNet-300-100 on the digits, batches of 64, with these methods from the first step on."""
    return Experiment(
        name="compress",
        model=models.Config(name="mlp", features=(300, 100)),
        data=data.Config(name="digits"),
        optimizer=optim.Config(name="adam", learning_rate=1e-3, clip_by_global_norm=1.0),
        batch_size=64,
        stages=[Stage("train", epochs=10, **methods)],
    )


def methods() -> dict[str, dict[str, Any]]:
    """The fields of Stage of each of jopt's contenders."""
    masks = prune.OneShot(sparsity=0.9)
    weights = quantize.Weights(bits=8, granularity="channel")
    inputs = quantize.MovingAverageActivations(bits=8)
    return {
        PLAIN: {},
        MASKS: {"prune": masks},
        INT8: {"quantize": weights},
        BOTH: {"prune": masks, "quantize": weights},
        BOTH_SIDES: {"quantize": weights, "activations": inputs},
    }


def compress(rounds: int, seconds: float, qwix: bool = True) -> CompressRow:
    """Times the contenders in turn. All run in jopt's segments, on the same batches: what differs is the method.

    Args:
      rounds: how often each contender is timed.
      seconds: for how long each time, about.
      qwix: whether qwix takes part.

    Raises:
      MissingQwixError: if it should and is not installed.
    """
    entered = {name: segments(experiment(**fields)) for name, fields in methods().items()}
    if qwix:
        entered[QWIX] = segments(experiment(), with_qwix(None))
        entered[QWIX_BOTH_SIDES] = segments(experiment(), with_qwix("int8"))
    times = alternate(entered, rounds, seconds)
    row = CompressRow(
        "MLP 300-100, digits, batch 64",
        {name: spread(t) for name, t in times.items()},
        [_cost(name, times) for name in methods() if name != PLAIN],
        [ratio(name, times[name], times[ours], 1.0) for name, ours in RIVALS.items() if name in times],
    )
    del entered
    gc.collect()
    return row


def segments(config: Experiment, model: models.Model | None = None) -> Callable[[], int]:
    """What trains for an epoch, as a run does: its masks chosen once, its state donated."""
    p = prepare(config, model=model)
    steps = p.segments[0].steps
    program, arrays, compiler = p.program_of(0, steps), p.arrays["train"], Compiler()
    state = compiler.call("init", 0, program.init, p.key, p.values)
    state = compiler.call("update", 0, program.update, state, p.values, arrays)
    segment = compiler.get("segment", 0, program.segment, state, p.values, arrays, donate=(0,))

    def run() -> int:
        nonlocal state
        state, _ = jax.block_until_ready(segment(state, p.values, arrays))
        return steps

    return run


def with_qwix(activations: str | None) -> models.Model:
    """The same network, its kernels quantized to int8 by qwix as it trains; its inputs too, where a type is given.

    Raises:
      MissingQwixError: if qwix is not installed.
    """
    try:
        import qwix  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingQwixError(
            "qwix is not installed: pip install '.[bench]', or leave it out by --noqwix"
        ) from error
    module = models.build(experiment().model)
    rule = qwix.QtRule(module_path=".*", weight_qtype="int8", act_qtype=activations)
    return _widened(models.from_linen(qwix.quantize_model(module, qwix.QtProvider([rule]))))


def _widened(model: models.Model) -> models.Model:
    """The model where types that differ may meet: qwix counts on it, jopt's tests forbid it."""

    def wide(fn: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
                return fn(*args, **kwargs)

        return called

    return models.Model(wide(model.init), wide(model.apply))


def _cost(name: str, times: Mapping[str, Any]) -> Ratio:
    measured = ratio(name, times[name], times[PLAIN], COSTS.get(name))
    return measured._replace(met=None if measured.target is None else measured.median <= measured.target)
