"""LeNet-300-100 on the digits, then integers: after training (`ptq`) and in training (`qat`).

    jopt train --config=configs/digits_quantize.py --workdir=runs/digits_quantize

The config takes the weights' code as an argument: `--config=configs/digits_quantize.py:int8` (the default),
`:int4`, `:int2`, `:ternary`. Activations get 8 bits in each. Binary weights have a config of their own.

Time: 20 s in all, with start-up and compilation. Result with seed 0: dense 97.78 %, after training 97.78 %,
trained so 98.06 % in a file of 51,529 bytes (`:int4` 98.33 %, 25,929 bytes; `:int2` 97.50 %, 12,044;
`:ternary` 97.78 %). Over 10 seeds, against dense: int8 +0.11 points [-0.08, +0.30], int4 +0.06 [-0.17, +0.28],
ternary -0.19 [-0.52, +0.13]. Measured 2026-11-22, `:int4` and `:int2` 2026-11-30, on 2 cores of an AMD EPYC, CPU
only, jax 0.10.2, nothing compiled before.
"""

from jopt import data, models, optim, quantize
from jopt.train import Experiment, Stage


def get_config(code: str = "int8") -> Experiment:
    """The code is `int8`, `int4`, `int2` (or any other width) or `ternary`."""
    if code == "ternary":
        weights = quantize.Ternary()
    else:
        weights = quantize.Weights(bits=int(code.removeprefix("int")), granularity="channel")
    return Experiment(
        name=f"digits_quantize_{code}",
        model=models.ModelConfig(name="mlp", features=(300, 100)),
        data=data.Digits(),
        optimizer=optim.Config(name="adam", learning_rate=1e-3),
        batch_size=64,
        pack=True,
        stages=[
            Stage("dense", epochs=40),
            Stage("ptq", steps=0, methods=(weights, quantize.Activations(calibration="mse"))),
            Stage("qat", epochs=20, optimizer=optim.Config(name="adam", learning_rate=5e-4, schedule="cosine")),
        ],
    )
