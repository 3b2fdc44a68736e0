"""jopt's ResNet in PyTorch, with the same weights, and PyTorch's other memory layout."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def channels_last(net: Any) -> Any:
    """The network with its convolutions in the layout that jopt has: [batch, height, width, channels] in memory."""
    import torch  # pyright: ignore[reportMissingImports]

    return net.to(memory_format=torch.channels_last)


def resnet(torch: Any, params: Mapping[str, Any]) -> Any:
    """`jopt.models.ResNet` for images under 64 pixels a side, with these parameters and new statistics.

    Args:
      torch: the module.
      params: of jopt's network: `Conv_0`, `BatchNorm_0`, `Block_i`, `Dense_0`.
    """
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, params: Mapping[str, Any]):
            super().__init__()
            stride = 2 if "shortcut" in params else 1
            self.first = _normalized(torch, params["Conv_0"], params["BatchNorm_0"], stride)
            self.second = _normalized(torch, params["Conv_1"], params["BatchNorm_1"])
            self.shortcut = nn.Identity()
            if "shortcut" in params:
                self.shortcut = _normalized(torch, params["shortcut"], params["shortcut_norm"], stride)

        def forward(self, x: Any) -> Any:
            y = self.second(torch.relu(self.first(x)))
            return torch.relu(self.shortcut(x) + y)

    blocks = sorted((name for name in params if name.startswith("Block")), key=lambda name: int(name[6:]))
    stem = _normalized(torch, params["Conv_0"], params["BatchNorm_0"])
    dense = nn.Linear(*params["Dense_0"]["kernel"].shape)
    _copy(torch, dense.weight, np.asarray(params["Dense_0"]["kernel"]).T)
    _copy(torch, dense.bias, params["Dense_0"]["bias"])
    mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(stem, nn.ReLU(), *(Block(params[name]) for name in blocks), mean, dense)


def _normalized(torch: Any, conv: Mapping[str, Any], norm: Mapping[str, Any], stride: int = 1) -> Any:
    """A convolution without bias, and its batch normalization."""
    kernel = np.asarray(conv["kernel"])
    window, _, channels_in, channels_out = kernel.shape
    layer = torch.nn.Conv2d(channels_in, channels_out, window, stride, (window - 1) // 2, bias=False)
    scale = torch.nn.BatchNorm2d(channels_out)
    _copy(torch, layer.weight, kernel.transpose(3, 2, 0, 1))
    _copy(torch, scale.weight, norm["scale"])
    _copy(torch, scale.bias, norm["bias"])
    return torch.nn.Sequential(layer, scale)


def _copy(torch: Any, parameter: Any, value: Any) -> None:
    with torch.no_grad():
        parameter.copy_(torch.tensor(np.asarray(value)))
