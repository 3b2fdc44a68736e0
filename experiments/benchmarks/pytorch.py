"""The same training in PyTorch, eager, on CPU. PyTorch is the `bench` extra, imported here and only when used."""

from typing import Any

import numpy as np

from experiments.benchmarks.cases import Work
from experiments.benchmarks.contenders import Contender


class MissingTorchError(RuntimeError):
    """PyTorch is not installed."""


def eager(work: Work, *, threads: int = 2, fused: bool = False) -> Contender:
    """PyTorch eager: tensors resident and normalized, the batch indexed, Adam after `clip_grad_norm_`.

    Args:
      work: what to train: an `mlp` or a `cnn`. The initial weights are jopt's.
      threads: for `torch.set_num_threads`.
      fused: whether Adam is PyTorch's fused kernel, which is not what `Adam(parameters)` gives on CPU.

    Raises:
      MissingTorchError: if there is no PyTorch.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingTorchError(
            "the PyTorch contender needs torch: pip install 'jopt[bench]', or leave it out with --notorch"
        ) from error
    dataset, config = work.prepared.dataset, work.prepared.config
    inputs = (np.asarray(dataset.train.inputs, np.float32) - dataset.mean) / dataset.std
    inputs = torch.from_numpy(np.ascontiguousarray(np.moveaxis(inputs, -1, 1)))
    if config.model.name == "mlp":
        inputs = inputs.flatten(1)
    labels = torch.from_numpy(np.asarray(dataset.train.labels, np.int64))
    rows = torch.from_numpy(work.rows.astype(np.int64))
    params = work.initial().params
    net = _network(torch, params, [s // 2 ** _convolutions(params) for s in dataset.train.inputs.shape[1:3]])
    adam = torch.optim.Adam(net.parameters(), lr=config.optimizer.learning_rate, fused=fused)
    loss_of = torch.nn.CrossEntropyLoss()
    done, last = 0, np.nan

    def run() -> int:
        nonlocal done, last
        torch.set_num_threads(threads)
        losses = []
        for i in range(done, done + work.steps):
            row = rows[i % len(rows)]
            adam.zero_grad(set_to_none=True)
            loss = loss_of(net(inputs[row]), labels[row])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            adam.step()
            losses.append(loss.detach())
        done += work.steps
        last = float(torch.stack(losses).mean())
        return work.steps

    def current() -> list[np.ndarray]:
        return [p.detach().numpy().copy() for p in net.parameters()]

    return Contender(run, lambda: last, current)


def _convolutions(params: Any) -> int:
    return sum(name.startswith("Conv") for name in params)


def _network(torch: Any, params: Any, size: list[int]) -> Any:
    """`torch.nn.Sequential` with jopt's weights; `size` is the height and width that the dense layers see."""
    nn, layers = torch.nn, []
    convolutions, dense = _convolutions(params), sum(name.startswith("Dense") for name in params)
    channels = None
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
            # jopt flattens height, width, channels; PyTorch channels, height, width.
            kernel = kernel.reshape(*size, channels, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
        _fill(torch, linear, kernel.T, params[f"Dense_{i}"]["bias"])
        layers += [linear, nn.ReLU()] if i < dense - 1 else [linear]
    return nn.Sequential(*layers)


def _fill(torch: Any, layer: Any, weight: np.ndarray, bias: Any) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(np.asarray(bias)))
