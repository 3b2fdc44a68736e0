"""LeNet-300-100 on the digits, then integers: after training (`ptq`) and in training (`qat`).

    python -m experiments.train --config=configs/digits_quantize.py --workdir=runs/digits_quantize

The config takes the weights' code as an argument: `--config=configs/digits_quantize.py:int8` (the default),
`:int4`, `:int2`, `:ternary`. Activations get 8 bits in each. Binary weights have a config of their own.

TIMERESULT
"""

from jopt import data, models, optim, quantize
from jopt.train import Experiment, Stage


def get_config(code: str = "int8") -> Experiment:
    """The code is `int8`, `int4`, `int2` (or any other width) or `ternary`."""
    if code == "ternary":
        weights = quantize.Config(scheme="ternary")
    else:
        weights = quantize.Config(bits=int(code.removeprefix("int")), granularity="channel")
    return Experiment(
        name=f"digits_quantize_{code}",
        model=models.Config(name="mlp", features=(300, 100)),
        data=data.Config(name="digits"),
        optimizer=optim.Config(name="adam", learning_rate=1e-3),
        batch_size=64,
        stages=[
            Stage("dense", epochs=40),
            Stage("ptq", steps=0, quantize=weights, activations=quantize.ActivationConfig(method="mse")),
            Stage("qat", epochs=20, optimizer=optim.Config(name="adam", learning_rate=5e-4, schedule="cosine")),
        ],
    )
