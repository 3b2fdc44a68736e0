"""Runs every digits config and one grid, and compares what comes out with what it was, bit for bit.

    python tests/golden/golden.py             compares, and names what differs
    python tests/golden/golden.py --write     writes the values anew: CHANGELOG.md then says which changed, and why

Not a test of the suite, since it takes minutes, and since the bits are those of one kind of machine: XLA's CPU code
with fused multiply-add (`machine` in golden.json). Run it before code moves and after.
"""

import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from jopt import codec
from jopt.train.state import digest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CONFIGS = [
    "digits_mlp",
    "digits_lenet",
    "digits_compress",
    "deep_compression_lenet300",
    "deep_compression_lenet5",
    "digits_binary",
    "digits_binary:ternary",
    "digits_distill",
    "digits_lottery",
    "digits_prune",
    "digits_prune_quantize",
    "digits_quantize",
    "digits_resnet18",
    "digits_rigl",
    "digits_rnn",
    "digits_share",
    "xor",
]
GRID = "sparsity_by_bits"


def payload(path: Path) -> str:
    """The digest of the tensors and the integers in a packed file, whatever its metadata say."""
    file = codec.read(path)
    integers = {name: (np.asarray(q.codes), np.asarray(q.scale)) for name, q in file.integers.items()}
    return digest({"params": file.params, "model_state": file.model_state, "integers": integers})


def run(app: str, config: str, workdir: Path) -> None:
    """One app in a process of its own, on the CPU."""
    command = [sys.executable, "-m", f"experiments.{app}", f"--config={config}", f"--workdir={workdir}"]
    cache = Path(tempfile.gettempdir()) / "jopt-golden-cache"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [*command, f"--compilation_cache={cache}"], cwd=ROOT, env=environment, check=True, stdout=-3, stderr=-3
    )


def values() -> dict:
    """What the configs give on this machine, with this code."""
    runs = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in CONFIGS:
            file, _, argument = name.partition(":")
            workdir = Path(scratch) / name.replace(":", "_")
            run("train", f"configs/{file}.py" + (f":{argument}" if argument else ""), workdir)
            result = json.loads((workdir / "result.json").read_text())
            runs[name] = {key: result[key] for key in ("digest", "accuracy", "loss", "bytes")}
            if (workdir / "model.jopt").exists():
                runs[name]["payload"] = payload(workdir / "model.jopt")
            print(name, runs[name]["digest"][:12], runs[name].get("payload", "")[:12], flush=True)
        run("ablate", f"configs/ablations/{GRID}.py", Path(scratch) / "grid")
        with (Path(scratch) / "grid" / "trials.csv").open() as rows:
            grid = {
                " ".join(row[name] for name in ("prune.sparsity", "bits", "seed")): row["digest"]
                for row in csv.DictReader(rows)
            }
    return {"machine": f"{platform.machine()}, jax {jax.__version__}", "runs": runs, "grid": grid}


def differences(golden: dict, now: dict) -> list[str]:
    """What is not as it was: anything but the length of a file, which its metadata may change by up to 1 %."""
    lines = []
    for name, run in now["runs"].items():
        before = golden["runs"][name]
        same = {key: value for key, value in run.items() if key != "bytes"}
        if same != {key: value for key, value in before.items() if key != "bytes"}:
            lines.append(f"{name}: {before} was, {run} is")
        elif abs(run["bytes"] - before["bytes"]) > 0.01 * before["bytes"]:
            lines.append(f"{name}: {before['bytes']} bytes were, {run['bytes']} are")
    return lines + [f"trial {name}" for name, digest in now["grid"].items() if digest != golden["grid"].get(name)]


def main() -> int:
    """Compares, or writes."""
    path = HERE / "golden.json"
    now = values()
    if "--write" in sys.argv:
        path.write_text(json.dumps(now, indent=1) + "\n")
        return 0
    lines = differences(json.loads(path.read_text()), now)
    print("\n".join(lines) or f"equal: {len(now['runs'])} runs, {len(now['grid'])} trials")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
