"""A decoder of bytes on the sources of Python's standard library: dense, then pruned, then in integers.

python -m experiments.train --config=configs/bytes_decoder.py --workdir=runs/bytes_decoder
"""

from jopt import data, models, optim, prune, quantize, task
from jopt.train import Experiment, Stage


def get_config() -> Experiment:
    """Three stages; windows of 128 bytes, whole files held out."""
    return Experiment(
        name="bytes_decoder",
        model=models.Decoder(vocabulary=256, width=128, depth=2, heads=4, kv_heads=2, hidden=256),
        data=data.Text(corpus="stdlib", window=128, test_fraction=0.03, validation_fraction=0.01),
        task=task.NextToken(),
        optimizer=optim.Config(
            name="adam", learning_rate=3e-3, schedule="cosine", warmup_steps=50, clip_by_global_norm=1.0
        ),
        batch_size=32,
        segment_steps=25,
        evaluate_every=10,
        pack=True,
        stages=[
            Stage("dense", steps=700),
            Stage("pruned", steps=600, methods=(prune.Gradual(sparsity=0.5, end=0.5),)),
            # Without training: what is lost is lost by rounding alone.
            Stage(
                "w8a8",
                steps=0,
                methods=(quantize.Weights(bits=8, granularity="channel"), quantize.Activations(bits=8)),
            ),
        ],
    )
