"""Compressions that never were: dense, pruned and quantized networks with predictions."""

import jax
import numpy as np

from jopt.measure import IntegerCode, StageOutcome

LENET = {"Dense_0": (64, 300), "Dense_1": (300, 100), "Dense_2": (100, 10)}
RESNET = {"Conv_0": (3, 3, 3, 8), "Dense_0": (32, 10)} | {
    f"BasicBlock_{b}/Conv_{c}": (3, 3, 8, 8) for b in range(9) for c in range(2)
}
LONG = "iterative magnitude pruning of every layer, round {} of 8"


def network(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: {"bias": rng.normal(size=s[-1]).astype(np.float32), "kernel": rng.normal(size=s).astype(np.float32)}
        for name, s in shapes.items()
    }


def kernels(params, change):
    return jax.tree.map(lambda w: change(w).astype(np.float32) if w.ndim > 1 else w, params)


def pruned(params, sparsity):
    return kernels(params, lambda w: np.where(np.abs(w) <= np.quantile(np.abs(w), sparsity), 0, w))


def rounded(params, bits):
    levels = 2 ** (bits - 1) - 1
    return kernels(params, lambda w: np.round(w / np.abs(w).max() * levels) * (np.abs(w).max() / levels))


def stages(kind):
    labels = np.arange(400) % 10
    rng = np.random.default_rng(1)

    def predicted(wrong):
        return np.where(rng.random(400) < wrong, rng.integers(0, 10, 400), labels)

    shapes = RESNET if kind == "20 layers" else LENET
    dense = network(shapes)
    sparse = pruned(dense, 0.9)
    out = [StageOutcome("dense", dense, {"loss": 0.1}, predicted(0.02))]
    if kind == "10 stages":
        out += [StageOutcome(LONG.format(i), pruned(dense, i / 9), {}, predicted(0.02)) for i in range(1, 9)]
    elif kind != "1 stage":
        out.append(StageOutcome("prune", sparse, {"loss": 0.12}, predicted(0.03)))
    if kind != "1 stage":
        grids = {f"{name}/kernel": IntegerCode(4) for name in shapes}
        out.append(StageOutcome("int4", rounded(sparse, 4), {}, predicted(0.05), latent=sparse, grids=grids))
    flops = {name: 2 * int(np.prod(s)) for name, s in shapes.items()}
    return out, labels, flops


KINDS = ("1 stage", "3 stages", "10 stages", "20 layers")
