"""The one list of networks that are timed, and the ways to train them: jopt, loops in Python, PyTorch."""

import dataclasses
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn

from benchmarks import torch_networks
from benchmarks.timing import MissingPackageError, Target, at_least
from jopt import data, models, optim
from jopt.train import Compiler, Experiment, Prepared, Program, TrainState, cross_entropy, prepare
from jopt.train.compiler import Request

ROOT = Path(__file__).resolve().parents[1]

JOPT = "jopt segment"
PYTHON_LOOP = "jitted step, Python loop"
PLAIN_CONV = "the same with nn.Conv"
PYTORCH = "PyTorch eager"
PYTORCH_FUSED = "PyTorch eager, fused Adam"
PYTORCH_ONE_THREAD = "PyTorch eager, 1 thread"
PYTORCH_CHANNELS_LAST = "PyTorch eager, channels last"
PYTORCH_CHANNELS_LAST_ONE_THREAD = "PyTorch eager, channels last, 1 thread"


class Case(NamedTuple):
    """An experiment whose training steps are timed.

    Attributes:
      name: in tables and on the command line.
      experiment: what is trained.
      targets: the ratios to reach, by alternative.
      least: trials in a chunk at least (suite `strategies`), so that what a call costs is shared as in a grid.
    """

    name: str
    experiment: Experiment
    targets: Mapping[str, Target | None] = {}
    least: int = 64


class Network(NamedTuple):
    """A network whose forward pass is timed: its name, its config, the shape of one example."""

    name: str
    config: models.ModelConfig
    shape: tuple[int, ...]


DIGITS = data.Digits()
IMAGES = data.Synthetic(shape=(28, 28, 1), train=2048)
COLOURS = data.Synthetic(shape=(32, 32, 3), train=256)


def experiment(
    model: str,
    batch_size: int,
    *features: int,
    hidden: int | None = None,
    source: data.Source = DIGITS,
    **changes: Any,
) -> Experiment:
    """A network of this kind, trained by Adam with its global norm clipped at 1."""
    return Experiment(
        name="benchmark",
        model=models.ModelConfig(name=model, features=features, hidden=hidden),
        data=source,
        optimizer=optim.Config(name="adam", learning_rate=1e-3, clip_by_global_norm=1.0),
        batch_size=batch_size,
        **changes,
    )


def load_config(path: str) -> Any:
    """What the config file at this path of the repository gives."""
    return runpy.run_path(str(ROOT / path))["get_config"]()


def _targets(pytorch: float, plain_conv: float | None = None) -> dict[str, Target | None]:
    # None for the loop in Python: a scan saves a launch, which is so many microseconds and no ratio.
    limits = {PLAIN_CONV: plain_conv, PYTORCH: pytorch}
    return {name: at_least(limit) for name, limit in limits.items()}


# The usual step has Flax's convolution; the loop with jopt's convolution is the stricter alternative.
CASES = (
    Case("MLP 300-100, digits, batch 64", experiment("mlp", 64, 300, 100), _targets(2.0)),
    Case("MLP 300-100, digits, batch 16", experiment("mlp", 16, 300, 100), _targets(4.0)),
    Case("CNN 16-32, digits, batch 64", experiment("cnn", 64, 16, 32, hidden=64), _targets(1.5, 1.4)),
    Case("CNN 8-16, digits, batch 16", experiment("cnn", 16, 8, 16, hidden=64), _targets(5.0, 1.2)),
    Case("CNN 16-32, 28x28x1, batch 64", experiment("cnn", 64, 16, 32, hidden=64, source=IMAGES)),
    Case("CNN 8-16, 28x28x1, batch 16", experiment("cnn", 16, 8, 16, hidden=64, source=IMAGES)),
    Case(
        "ResNet-18 of width 16, 32x32x3, batch 32",
        experiment("resnet18", 32, 16, source=COLOURS),
        dict.fromkeys((PYTORCH, PYTORCH_CHANNELS_LAST), at_least(0.9)),
    ),
)
MLP, SMALL_CNN = CASES[0], CASES[3]

MLP_1024 = Network("MLP 784-1024-1024-10", models.ModelConfig("mlp", (1024, 1024)), (784,))
SHRINK_NETWORKS = (
    Network("MLP 64-300-100-10", models.ModelConfig("mlp", (300, 100)), (64,)),
    MLP_1024,
    Network("CNN 16-32, 64 hidden, 28x28x1", models.ModelConfig("cnn", (16, 32)), (28, 28, 1)),
)
SERVING_NETWORKS = (MLP_1024, Network("LeNet-5, 28x28x1", models.ModelConfig("lenet5"), (28, 28, 1)))


def strategy_cases() -> list[Case]:
    """Networks of 13 to a million parameters; fewer steps a segment where a step is long, so that a call is not."""
    lenet, gru = load_config("configs/digits_lenet.py"), load_config("configs/digits_rnn.py")
    cases = (
        ("XOR MLP 2-3-1, batch 4", load_config("configs/xor.py"), 300, 64),
        ("MLP 64-16-10, batch 64", experiment("mlp", 64, 16), 19, 64),
        (SMALL_CNN.name, SMALL_CNN.experiment, 20, 64),
        (MLP.name, MLP.experiment, 19, 64),
        ("GRU 128, digits, batch 64", gru, 6, 32),
        ("LeNet-5, digits, batch 64", lenet, 6, 32),
        ("MLP 64-1024-1024-10, batch 64", experiment("mlp", 64, 1024, 1024), 19, 8),
    )
    return [
        Case(name, dataclasses.replace(config, segment_steps=steps), least=least)
        for name, config, steps, least in cases
    ]


class Job(NamedTuple):
    """An experiment that is ready to be trained.

    Attributes:
      prepared: what `jopt.train.prepare` made of it.
      program: the program of its segments.
      steps: optimizer steps in a segment: an epoch.
      rows: int32 [epochs * steps, batch], the examples of the first steps, on the host; the segments take the same.
    """

    prepared: Prepared
    program: Program
    steps: int
    rows: np.ndarray

    def initial(self) -> TrainState:
        """A new state, the same every time, which its receiver may donate."""
        return jax.jit(self.program.init)(self.prepared.key, self.prepared.values)


class Contender(NamedTuple):
    """One way to train.

    Attributes:
      run: trains for one epoch from where it was, waits for the result, returns the number of optimizer steps.
      loss: the mean loss of the epoch that ran last; of a grid float [trials].
      params: copies of the present parameters, in NumPy arrays.
    """

    run: Callable[[], int]
    loss: Callable[[], Any]
    params: Callable[[], Any]


def job(config: Experiment, epochs: int = 8, model: models.Model | None = None) -> Job:
    """Loads the data and builds the program.

    Args:
      config: the experiment.
      epochs: how many epochs' batch order to compute beforehand.
      model: another model than the config's.
    """
    prepared = prepare(config, model=model)
    steps = prepared.segments[0].steps
    examples = prepared.dataset.train.targets.shape[0]
    rows = data.indices(prepared.key, 0, epochs * steps, config.batch_size, examples)
    return Job(prepared, prepared.program_of(0, steps), steps, np.asarray(rows))


def scanned(job: Job, *, update: bool = False) -> Contender:
    """jopt: a whole epoch is one XLA program, compiled ahead of time, its state donated, exactly as in a run.

    Args:
      job: what to train.
      update: whether masks, scales and codebooks are chosen first, as a run does before a segment that has some.
    """
    values, arrays = job.prepared.values, job.prepared.arrays["train"]
    state, compiler = job.initial(), Compiler()
    if update:
        state = compiler.call("update", 0, job.program.update, state, values, arrays)
    segment = compiler.compiled(Request("segment", 0, job.program.segment, (state, values, arrays), (0,)))
    loss: Any = np.nan

    def run() -> int:
        nonlocal state, loss
        state, metrics = jax.block_until_ready(segment(state, values, arrays))
        loss = metrics["loss"]
        return job.steps

    return Contender(run, lambda: float(loss), lambda: jax.tree.map(np.array, state.params))


def python_loop(job: Job, model: models.Model | None = None) -> Contender:
    """The usual way: one jitted, donated training step, called from Python with the indices of its batch.

    It is written as one would write it without jopt: Optax's own chain with its numbers as constants, the data on
    the device, the batch gathered and normalized inside the step, losses left on the device until the epoch ends.

    Args:
      job: what to train.
      model: another model with the same parameters; None is the job's own.
    """
    net, arrays = model or job.prepared.plans[0].wrapped, job.prepared.arrays["train"]
    rate = job.prepared.config.optimizer.learning_rate
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

    def step(
        variables: Any, opt_state: Any, row: jax.Array, arrays: data.DeviceArrays
    ) -> tuple[Any, Any, jax.Array]:
        params, state = variables

        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            inputs = data.normalize(arrays.inputs[row], arrays.mean, arrays.std)
            logits, new_state = net.apply(params, state, inputs, train=True)
            return cross_entropy(logits, arrays.targets[row]).mean(), new_state

        (loss, state), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        # Optax's bias correction mixes dtypes, which a strict session (as the tests' is) refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), state), opt_state, loss

    jitted = jax.jit(step, donate_argnums=(0, 1))
    initial = job.initial()
    variables = initial.params, initial.model_state
    opt_state = optimizer.init(initial.params)
    done, loss = 0, np.nan

    def run() -> int:
        nonlocal variables, opt_state, done, loss
        losses = []
        for i in range(done, done + job.steps):
            variables, opt_state, step_loss = jitted(variables, opt_state, job.rows[i % len(job.rows)], arrays)
            losses.append(step_loss)
        done += job.steps
        jax.block_until_ready((variables, opt_state))
        loss = float(np.mean(jax.device_get(losses)))
        return job.steps

    return Contender(run, lambda: loss, lambda: jax.tree.map(np.array, variables[0]))


class PlainConvNet(nn.Module):
    """jopt's `cnn` with Flax's convolution and pooling as they come; the same parameters, the same function."""

    channels: tuple[int, ...]
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to logits [batch, 10]."""
        for size in self.channels:
            x = nn.max_pool(nn.relu(nn.Conv(size, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(self.hidden)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(x)


def plain_convolution(job: Job) -> Contender:
    """`python_loop` with `PlainConvNet`; for a `cnn` only."""
    config = job.prepared.config.model
    assert isinstance(config, models.ModelConfig)
    return python_loop(job, models.from_linen(PlainConvNet(tuple(config.features), config.hidden or 64)))


def pytorch(
    job: Job, *, threads: int = 2, fused: bool = False, wrap: Callable[[Any], Any] = lambda net: net
) -> Contender:
    """PyTorch eager: tensors resident and normalized, the batch indexed, Adam after `clip_grad_norm_`.

    Args:
      job: what to train: an `mlp` or a `cnn`. The initial weights are jopt's.
      threads: for `torch.set_num_threads`.
      fused: whether Adam is PyTorch's fused kernel, which is not what `Adam(parameters)` gives on CPU.
      wrap: makes the network that is trained of the plain one.

    Raises:
      MissingPackageError: if there is no PyTorch.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        message = "the PyTorch contender needs torch: pip install 'jopt[bench]', or leave it out with --notorch"
        raise MissingPackageError(message) from error
    dataset, config, params = job.prepared.dataset, job.prepared.config, job.initial().params
    inputs = (np.asarray(dataset.train.inputs, np.float32) - dataset.mean) / dataset.std
    inputs = torch.from_numpy(np.ascontiguousarray(np.moveaxis(inputs, -1, 1)))
    if config.model.label == "mlp":
        inputs = inputs.flatten(1)
    labels = torch.from_numpy(np.asarray(dataset.train.targets, np.int64))
    rows = torch.from_numpy(job.rows.astype(np.int64))
    net = wrap(_torch_network(torch, params, dataset.train.inputs.shape[1:3]))
    adam = torch.optim.Adam(net.parameters(), lr=config.optimizer.learning_rate, fused=fused)
    loss_of = torch.nn.CrossEntropyLoss()
    done, loss = 0, np.nan

    def run() -> int:
        nonlocal done, loss
        torch.set_num_threads(threads)
        losses = []
        for i in range(done, done + job.steps):
            row = rows[i % len(rows)]
            adam.zero_grad(set_to_none=True)
            step_loss = loss_of(net(inputs[row]), labels[row])
            step_loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            adam.step()
            losses.append(step_loss.detach())
        done += job.steps
        loss = float(torch.stack(losses).mean())
        return job.steps

    return Contender(run, lambda: loss, lambda: [p.detach().numpy().copy() for p in net.parameters()])


def _torch_network(torch: Any, params: Any, image: tuple[int, ...]) -> Any:
    """`torch.nn.Sequential` with jopt's weights, for images of this height and width."""
    if "Block_0" in params:
        return torch_networks.resnet(torch, params)
    nn, layers, channels = torch.nn, [], None
    convolutions = sum(name.startswith("Conv") for name in params)
    dense = sum(name.startswith("Dense") for name in params)
    for i in range(convolutions):
        kernel = np.asarray(params[f"Conv_{i}"]["kernel"])
        conv = nn.Conv2d(*kernel.shape[2:], kernel.shape[0], padding="same")
        _fill(torch, conv, kernel.transpose(3, 2, 0, 1), params[f"Conv_{i}"]["bias"])
        layers += [conv, nn.ReLU(), nn.MaxPool2d(2)]
        channels = kernel.shape[3]
    layers += [nn.Flatten()] if convolutions else []
    for i in range(dense):
        kernel = np.asarray(params[f"Dense_{i}"]["kernel"])
        linear = nn.Linear(*kernel.shape)
        if i == 0 and channels is not None:
            # jopt flattens height, width, channels; PyTorch channels, height, width. Each pooling halves the image.
            size = [side // 2**convolutions for side in image]
            kernel = kernel.reshape(*size, channels, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
        _fill(torch, linear, kernel.T, params[f"Dense_{i}"]["bias"])
        layers += [linear, nn.ReLU()] if i < dense - 1 else [linear]
    return nn.Sequential(*layers)


def mlp_layers(torch: Any, params: Any) -> Any:
    """The layers of a PyTorch network with the weights of an `mlp`."""
    return _torch_network(torch, params, ())


def _fill(torch: Any, layer: Any, weight: np.ndarray, bias: Any) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(np.asarray(bias)))
