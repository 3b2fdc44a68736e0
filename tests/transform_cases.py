"""Every ParamTransform and every optimizer, on one small tree, for the contract that all of them keep."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from prune import outside

from jopt import clip, cluster, optim, prune
from jopt.quantize import Spec, binary, ternary, weights
from jopt.transform import LayerStatistics, ParamTransform, chain, hold, identity

BEGIN, MIDDLE, END = 0, 10, 20
"""Steps: pruning begins, the first update is made, the second is made and the schedules have ended."""


class Case(NamedTuple):
    """A transform, made from numbers that may be traced, and what it does not promise.

    Attributes:
      make: `(sparsity, bits) -> ParamTransform`.
      keeps_zero: an exact zero is seen as an exact zero.
      idempotent: what is seen is seen as it is; if not, to float32 rounding only.
      means: `project` takes means, which are linear to rounding only.
      repeatable: what is seen is seen as it is, to rounding at least.
    """

    make: Callable[[Any, Any], ParamTransform]
    keeps_zero: bool = True
    idempotent: bool = True
    means: bool = False
    repeatable: bool = True


PATTERNS = {
    "unstructured": prune.Unstructured(),
    "nm": prune.NM(2, 4, axis=-2),
    "block": prune.Block((2, 4)),
    "channel": prune.Channel(),
}
METHODS = ("one_shot", "gradual", "iterative")
BUDGETS = ("layer", "global", "erk")


def pruning(method: str, score: str, pattern: str, budget: str) -> Case:
    how: dict[str, Any] = {"score": score, "pattern": PATTERNS[pattern], "budget": budget}
    if method == "one_shot":
        return Case(lambda sparsity, bits: prune.one_shot(None if pattern == "nm" else sparsity, **how))
    how |= {"rounds": 3} if method == "iterative" else {"initial_sparsity": 0.1}
    return Case(lambda sparsity, bits: getattr(prune, method)(sparsity, begin=BEGIN, end=END, **how))


def fitting(method: str, pattern: str, budget: str) -> bool:
    """N:M has a sparsity of its own, that neither grows nor is shared out."""
    return pattern != "nm" or (method == "one_shot" and budget == "layer")


# Every method, score, pattern and budget, and every method with every pattern.
COVERING = (
    "one_shot-magnitude-unstructured-erk",
    "one_shot-snip-nm-layer",
    "one_shot-wanda-block-global",
    "one_shot-activation-channel-layer",
    "gradual-movement-unstructured-layer",
    "gradual-l2-block-erk",
    "gradual-saliency-channel-global",
    "iterative-random-unstructured-global",
    "iterative-magnitude-block-layer",
    "iterative-wanda-channel-erk",
)
PRUNING = {
    "-".join(names): pruning(*names)
    for names in itertools.product(METHODS, prune.SCORES, PATTERNS, BUDGETS)
    if fitting(names[0], names[2], names[3])
}


def dynamic(make: Any, budget: str) -> Case:
    return Case(lambda sparsity, bits: make(sparsity, begin=BEGIN, end=2 * END, budget=budget))


DYNAMIC = {
    f"{make.__name__}-{budget}": dynamic(make, budget)
    for make in (prune.rigl, prune.set_evolution)
    for budget in ("layer", "erk")
}

OUTSIDE = {
    "outside-parts": Case(
        lambda sparsity, bits: prune.gradual(
            sparsity,
            begin=BEGIN,
            end=END,
            score=outside.taylor,
            pattern=outside.Rows(2),
            budget=outside.first_dense,
            schedule=outside.late,
        )
    ),
    "outside-pruning": Case(lambda sparsity, bits: outside.Twice(sparsity).build(begin=BEGIN, steps=END)),
    "outside-method": Case(lambda sparsity, bits: outside.Threshold(sparsity).build()),
}

SHARING = {
    "share": Case(lambda sparsity, bits: cluster.share(5), means=True),
    "share-sum": Case(lambda sparsity, bits: cluster.share(5, gradient="sum", start="density"), means=True),
    "share-frozen": Case(lambda sparsity, bits: cluster.share(5, trained=False), means=True),
    "share-drawn": Case(lambda sparsity, bits: cluster.share(5, start="kmeans++"), means=True),
    # Here a zero is a value like any other.
    "share-all": Case(lambda sparsity, bits: cluster.share(4, keep_zero=False), keeps_zero=False, means=True),
    "tie": Case(lambda sparsity, bits: cluster.tie(("(dense|twin)/bias",)), means=True),
}

CALIBRATIONS = ("auto", "absmax", "percentile", "mse")
GRANULARITIES = {"tensor": {}, "channel": {"axis": -1}, "group": {"axis": -1, "group": 4}}


def integers(calibration: str, granularity: str, symmetric: bool) -> Case:
    def make(sparsity: Any, bits: Any) -> ParamTransform:
        spec = Spec(bits, symmetric=symmetric, **GRANULARITIES[granularity])
        return weights(spec, calibration=calibration, percentile=90.0)

    # The range of what was rounded is not the range that it was rounded to, where neither end need be a code.
    idempotent = calibration in ("percentile", "mse") or (symmetric and calibration == "absmax")
    # At 2 to 4 bits the step of 'auto' is the range over n + 1/2, so what was rounded to n steps has a smaller one.
    return Case(make, idempotent=idempotent, repeatable=not (symmetric and calibration == "auto"))


QUANTIZATION = {
    f"weights-{calibration}-{granularity}-{'symmetric' if symmetric else 'asymmetric'}": integers(
        calibration, granularity, symmetric
    )
    for calibration, granularity, symmetric in itertools.product(CALIBRATIONS, GRANULARITIES, (True, False))
}
SIGNS = {
    "weights-identity": Case(lambda sparsity, bits: weights(Spec.identity())),
    "binary": Case(lambda sparsity, bits: binary()),
    "xnor": Case(lambda sparsity, bits: binary(scaled=True)),
    "ternary": Case(lambda sparsity, bits: ternary(threshold=sparsity)),
}


def _chain(*cases: Case) -> Case:
    return Case(
        lambda sparsity, bits: chain(*(case.make(sparsity, bits) for case in cases)),
        idempotent=all(case.idempotent for case in cases),
        repeatable=all(case.repeatable for case in cases),
        means=any(case.means for case in cases),
    )


ALONE = {
    "identity": Case(lambda sparsity, bits: identity()),
    **PRUNING,
    **DYNAMIC,
    **OUTSIDE,
    **SHARING,
    "clip": Case(lambda sparsity, bits: clip.clip(-sparsity, sparsity)),
    **QUANTIZATION,
    **SIGNS,
}
INTEGERS = integers("absmax", "tensor", True)
CHAINS = {
    "prune>share>quantize": _chain(
        pruning("gradual", "magnitude", "unstructured", "global"), SHARING["share"], INTEGERS
    ),
    "tie>prune>share>quantize": _chain(
        SHARING["tie"], pruning("one_shot", "l2", "nm", "layer"), SHARING["share"], INTEGERS
    ),
    "quantize>prune": _chain(integers("mse", "channel", False), pruning("iterative", "magnitude", "block", "erk")),
    "quantize>share>prune": _chain(INTEGERS, SHARING["share"], pruning("one_shot", "saliency", "channel", "layer")),
    "rigl>clip>binary": _chain(DYNAMIC["rigl-erk"], ALONE["clip"], SIGNS["binary"]),
    "movement>ternary": _chain(pruning("gradual", "movement", "unstructured", "erk"), SIGNS["ternary"]),
    "hold": Case(
        lambda sparsity, bits: hold(chain(prune.one_shot(sparsity), weights(Spec(bits), calibration="absmax")))
    ),
}
CASES = ALONE | CHAINS
# What runs always: every function, score, pattern, budget, calibration and granularity, and chains.
DEFAULT = [
    *("identity", *COVERING, "rigl-erk", "set_evolution-layer", *OUTSIDE),
    *("share", "share-frozen", "tie", "clip"),
    *(f"weights-{names}" for names in ("absmax-tensor-asymmetric", "absmax-group-symmetric")),
    *(f"weights-{names}" for names in ("percentile-channel-symmetric", "mse-channel-asymmetric")),
    *("weights-identity", "binary", "xnor", "ternary"),
    *("prune>share>quantize", "quantize>prune", "quantize>share>prune", "rigl>clip>binary", "hold"),
]
# Operation by operation, each of which is compiled for itself: one of each kind and a chain.
EAGER = [
    *("identity", "one_shot-magnitude-unstructured-erk", "one_shot-snip-nm-layer"),
    *("gradual-movement-unstructured-layer", "iterative-wanda-channel-erk", "rigl-erk", "share", "tie", "clip"),
    *("weights-absmax-group-symmetric", "weights-percentile-channel-symmetric", "binary", "ternary", "hold"),
]
# Side by side: one of each kind, as a program over trials takes long to compile.
LIFTED = [
    *("identity", "one_shot-magnitude-unstructured-erk", "one_shot-snip-nm-layer"),
    *("iterative-magnitude-block-layer", "one_shot-activation-channel-layer", "share", "tie", "clip"),
    *("weights-absmax-group-symmetric", "weights-percentile-channel-symmetric"),
    *("binary", "xnor", "ternary", "prune>share>quantize", "hold"),
]
# Compiled quickly where no bits of one program are compared with another's: all of their parts are in those lists.
QUICK = {name for name in DEFAULT if name not in EAGER + LIFTED and not name.startswith("weights-")}

SPARSITIES, BITS = (0.5, 0.7, 0.25), (4, 2, 8)
"""Of three trials."""


def tree(seed: int, zeros: bool = True) -> dict[str, Any]:
    """Parameters with ties and exact zeros. One kernel is bfloat16; a third layer can be tied to the second."""
    rng = np.random.default_rng(seed)
    shapes = {"conv": (2, 1, 4, 8), "dense": (12, 8), "twin": (8,)}
    out: dict[str, Any] = {"scale": jnp.float32(rng.normal())}
    for layer, shape in shapes.items():
        out[layer] = {}
        for kind, size in (("kernel", shape), ("bias", shape[-1:])):
            values = np.asarray(rng.normal(size=size)).astype(np.float32)
            values = np.where(rng.random(size) < 0.2, np.float32(0.5), values)
            if zeros:
                values = np.where(rng.random(size) < 0.1, np.float32(0), values)
            out[layer][kind] = jnp.asarray(values, jnp.bfloat16 if layer == "conv" else jnp.float32)
    return out


def statistics(seed: int) -> dict[str, LayerStatistics]:
    """What 'wanda' and 'activation' read."""
    rng = np.random.default_rng(seed)
    sizes = {"conv": (4, 8), "dense": (12, 8)}
    return {
        name: LayerStatistics(*(jnp.asarray(rng.random(n), jnp.float32) for n in pair))
        for name, pair in sizes.items()
    }


def _optimizers() -> dict[str, optim.Config]:
    """Every optimizer and variant, with clipping, decay, L1 and accumulation, each in its turn."""
    more: list[dict[str, Any]] = [
        {"clip_by_global_norm": 1.0, "weight_decay": 0.1, "accumulate_steps": 2},
        {"adaptive_clip": 0.1, "l1": 0.05, "schedule": "cosine", "warmup_steps": 1},
        {"clip_by_value": 0.5, "proximal_l1": 0.1, "weight_decay": 0.05},
    ]
    named = [(name, "optax") for name in optim.NAMES] + [(name, "paper") for name in optim.PAPER_NAMES]
    return {
        f"{name}-{variant}": optim.Config(name, variant, learning_rate=0.05, **more[i % 3])
        for i, (name, variant) in enumerate(named)
    }


OPTIMIZERS = _optimizers()
