"""A small vision transformer on the digits: dense, then pruned, then in integers.

    jopt train --config=configs/digits_vit.py --workdir=runs/digits_vit

Seven of ten weights become zero, what is left gets eight bits, as the inputs of layers do. The products of
attention, of queries with keys and of scores with values, stay in floats.

Time: 48 s of CPU in all, with start-up and compilation, which is most of it. Result with seed 0: dense 95.83 %,
pruned 96.11 % with 13,332 of 39,610 parameters left, w8a8 96.39 % in a file of 25,471 bytes, 6.2 times smaller than
float32; `quantized.onnx` gives the class of the run for 360 of 360 images. Measured 2026-12-01 on 2 cores of an AMD
EPYC that were busy otherwise, CPU only, jax 0.10.2, nothing compiled before.
"""

from jopt import data, models, optim, prune, quantize
from jopt.train import Experiment, Stage


def get_config() -> Experiment:
    """Three stages; 16 patches of 2 x 2 pixels and a class token."""
    return Experiment(
        name="digits_vit",
        model=models.ViT(patch=2, width=48, depth=2, heads=4, hidden=96),
        data=data.Digits(),
        optimizer=optim.Config(name="adam", learning_rate=2e-3, schedule="cosine", warmup_steps=50),
        batch_size=64,
        pack=True,
        stages=[
            Stage("dense", epochs=40),
            Stage("pruned", epochs=30, methods=(prune.Gradual(sparsity=0.7, end=0.5),)),
            Stage(
                "w8a8",
                epochs=5,
                optimizer=optim.Config(name="adam", learning_rate=5e-4, schedule="cosine"),
                methods=(quantize.Weights(bits=8, granularity="channel"), quantize.Activations(bits=8)),
            ),
        ],
    )
