"""A decoder of bytes on the sources of Python's standard library: dense, then pruned, then in integers.

    jopt train --config=configs/bytes_decoder.py --workdir=runs/bytes_decoder

1,300 batches of 32 windows of 128 bytes are half of the training files. Half of the weights become zero, then all
get eight bits, as the inputs of layers do, without training. The products of attention stay in floats.

Time: 4 minutes of CPU in all (21 minutes of wall time, on 2 cores with five other jobs). Result, seed 0, bits per
byte of 18 files held out: dense 1.923, pruned 1.821 with 180,864 of 361,088 parameters left, w8a8 1.835, 0.7 % more
than pruned, in a file of 224,072 bytes, 6.4 times smaller than float32. As a reference, LZMA takes 2.242 bits for
each byte of the same files one by one, and 1.918 of all joined (`python -m benchmarks.lzma_reference`). Measured
2026-12-01 on an AMD EPYC, CPU only, jax 0.10.2, Python 3.11.7.
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
