"""A small run that prunes and quantizes, exported, and its files as a process finds them that knows no jopt."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import quick

from jopt import data, models, prune, quantize
from jopt.export import Written, export
from jopt.train import Experiment, Stage, run
from jopt.train.finished import Finished, load

OUTSIDE = Path(__file__).with_name("outside.py")
NAME = 'a "tiny": _run_ | of {all}'


class Exported(NamedTuple):
    run: Path
    directory: Path
    written: list[Written]
    finished: Finished


class Outside(NamedTuple):
    """What a fresh process computed: arrays by name, and what the card's code printed."""

    arrays: dict[str, np.ndarray]
    printed: str


def config() -> Experiment:
    return Experiment(
        name=NAME,
        model=models.ModelConfig(name="mlp", features=(8,), num_classes=3),
        data=data.Synthetic(shape=(4, 4, 1), num_classes=3, train=32, validation=16, test=16),
        batch_size=16,
        stages=[
            Stage(
                "compress",
                steps=2,
                methods=(
                    prune.OneShot(sparsity=0.5, pattern="channel", rules=(("Dense_1/kernel", None),)),
                    quantize.Weights(bits=4),
                    quantize.Activations(calibration="absmax"),
                ),
            )
        ],
    )


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Exported:
    where = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch, quick.compilation():
        patch.setattr("plotly.offline.get_plotlyjs", lambda: "")
        run(config(), where / "run", quiet=True)
    formats = ("packed", "stablehlo", "safetensors")
    written = export(where / "run", where / "out", formats)
    return Exported(where / "run", where / "out", written, load(where / "run"))


@pytest.fixture(scope="session")
def outside(exported, tmp_path_factory) -> Outside:
    where = tmp_path_factory.mktemp("outside")
    rng = np.random.default_rng(0)
    for size in (3, 8):
        np.save(where / f"{size}.npy", rng.normal(size=(size, 4, 4, 1)).astype(np.float32))
    card = (exported.directory / "README.md").read_text()
    code = re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    (where / "card.py").write_text("\n".join(code))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, str(OUTSIDE), str(where)],
        cwd=exported.directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    with np.load(where / "outputs.npz") as found:
        return Outside({name: found[name] for name in found.files}, done.stdout)
