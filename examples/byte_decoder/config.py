"""A language model of bytes, on the sources of Python's asyncio: trained, then 8 bits of weights and activations.

jopt train --config=config.py --workdir=runs/first
"""

import sysconfig

from jopt import data, models, optim, quantize, task
from jopt.train import Experiment, Stage


def get_config() -> Experiment:
    """Whole files are held out; the second stage trains nothing."""
    return Experiment(
        name="byte_decoder",
        data=data.Text(files=f"{sysconfig.get_paths()['stdlib']}/asyncio/*.py", window=64),
        model=models.Decoder(width=64, depth=2, heads=4, kv_heads=2),
        task=task.NextToken(),
        optimizer=optim.Config(name="adamw", learning_rate=4e-3, weight_decay=1e-2, schedule="cosine"),
        batch_size=32,
        pack=True,
        stages=[
            Stage("dense", epochs=4),
            # A few large inputs matter to a language model: the least squared error keeps them, a percentile clips.
            Stage(
                "w8a8", steps=0, methods=(quantize.Weights(bits=8), quantize.Activations(bits=8, calibration="mse"))
            ),
        ],
    )
