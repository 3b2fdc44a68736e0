"""A process of a run with JAX, which prints what it finds as JSON: INDEX COUNT PORT DEED VICTIM DIRECTORY."""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from jopt import processes


class Agreed(Exception):
    """Raised by all processes."""


def error_of(call):
    try:
        call()
    except processes.ProcessError as error:
        return error.subject
    return None


def main():
    index, count, port = map(int, sys.argv[1:4])
    deed, victim, directory = sys.argv[4], int(sys.argv[5]), Path(sys.argv[6])
    noted = []
    signal.signal(signal.SIGTERM, lambda number, frame: noted.append(number))
    with (
        contextlib.suppress(Agreed),
        processes.start(f"127.0.0.1:{port}", count, index, timeout=30, together=(Agreed,)),
    ):
        import jax
        import jax.numpy as jnp
        import numpy as np
        from jax.sharding import NamedSharding, PartitionSpec

        os.kill(os.getpid(), signal.SIGTERM)
        mesh = jax.make_mesh((jax.device_count(),), ("data",))
        rows = NamedSharding(mesh, PartitionSpec("data"))
        total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))
        numbers = jax.make_array_from_callback(
            (2 * count,), rows, lambda at: np.arange(2.0 * count, dtype=np.float32)[at]
        )
        found = {
            "count": processes.count(),
            "index": processes.index(),
            "primary": processes.is_primary(),
            "jax": [jax.process_count(), jax.process_index(), jax.device_count(), jax.local_device_count()],
            "sum": float(total(numbers)),
            "gather": processes.gather("index", index),
            "agree": processes.agree({"from": index}),
            "any": [processes.any_of(index == 1), processes.any_of(False)],
            "same": [
                error_of(lambda: processes.same("equal", 1)),
                error_of(lambda: processes.same("index", index)),
            ],
            "shared": error_of(lambda: processes.shared(directory)),
            "twice": error_of(lambda: processes.start().__enter__()),
            "signals": noted,
        }
        processes.barrier("all have found")
        if deed == "collective":
            if index == victim:
                os.kill(os.getpid(), signal.SIGKILL)
            total(numbers).block_until_ready()
        if deed == "raise" and index == victim:
            raise ValueError("a defect")
        if deed == "raise":
            total(numbers).block_until_ready()
        if deed == "agree":
            raise Agreed
    print(json.dumps(found))


if __name__ == "__main__":
    main()
