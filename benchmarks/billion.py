"""A decoder of a billion parameters on a mesh of 4 x 8 devices: simulated, planned and lowered but not run.

python -m benchmarks.billion            # the plan, and the time of each program's lowering
python -m benchmarks.billion --compile  # also XLA's own account of the training step's memory, for CPUs
"""

import argparse
import time

import jax
import numpy as np

from jopt import data, models, optim, report
from jopt import task as tasks
from jopt.report import formats
from jopt.train import Experiment
from jopt.train.calls import Calls
from jopt.train.display import spread_parts
from jopt.train.prepared import Prepared, prepare

MESH = (("data", 4), ("model", 8))
TIME, VOCABULARY = 512, 32_000


def prepared() -> Prepared:
    """The run: 18 blocks of width 2048, batches of 32 sequences of 512 tokens."""
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (64, TIME + 1)).astype(np.int32)
    part = (tokens[:, :-1], tokens[:, 1:])
    dataset = data.Dataset.from_arrays(part, validation=part, test=part, num_classes=VOCABULARY)
    config = Experiment(
        model=models.Decoder(VOCABULARY, width=2048, depth=18, heads=16, hidden=5632, dtype="bfloat16"),
        task=tasks.NextToken(),
        optimizer=optim.Config("adamw", learning_rate=1e-3),
        epochs=1,
        batch_size=32,
        mesh=MESH,
        partition=("tensor", "fsdp"),
        remat="products",
    )
    return prepare(config, dataset=dataset)


def main() -> None:
    """Prints parameters, bytes of each device, and times."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--compile", action="store_true")
    options = arguments.parse_args()
    # The devices of this process stand for those of the mesh: nothing is placed on them but the data.
    jax.config.update("jax_num_cpu_devices", 32)
    began = time.perf_counter()
    p = prepared()
    sizes = [leaf.size for leaf in jax.tree.leaves(p.like(0).params)]
    print(f"simulated: {sum(sizes):,} parameters on {p.spread.describe()}")
    report.Console().plan(lambda: spread_parts(p)[1:])
    for request in Calls(p, p.values).ahead(None):
        start = time.perf_counter()
        lowered = jax.jit(request.fn, donate_argnums=request.donate, keep_unused=True).lower(*request.args)
        print(f"{request.name}: lowered in {time.perf_counter() - start:.1f} s", flush=True)
        if options.compile and request.name == "segment":
            start, memory = time.perf_counter(), lowered.compile().memory_analysis()
            assert memory is not None
            parts = {"arguments": memory.argument_size_in_bytes, "temporary": memory.temp_size_in_bytes}
            text = ", ".join(f"{name} {formats.binary(size)}" for name, size in parts.items())
            print(f"{request.name}: compiled in {time.perf_counter() - start:.0f} s; on a device: {text}")
    print(f"all: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
