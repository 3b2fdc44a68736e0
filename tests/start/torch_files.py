"""A network that jopt trained, as the state_dict that PyTorch would have of it."""

import numpy as np

from jopt.models import ModelConfig
from jopt.start import Rule

CNN = ModelConfig(name="cnn", features=(4,), hidden=6, num_classes=4)

RULES = (("conv1", "Conv_0"), (r"fc1\.(weight|bias)", r"Dense_0.\1"), Rule("fc2", "Dense_1"))


def state_dict(params, map_sizes=(3, 3, 4)):
    """Of a convolution, a layer on its flattened map and the classes: the networks of `cnn`."""
    kernel = params["Dense_0"]["kernel"]
    rows = kernel.T.reshape(-1, *map_sizes).transpose(0, 3, 1, 2)
    arrays = {
        "conv1.weight": params["Conv_0"]["kernel"].transpose(3, 2, 0, 1),
        "conv1.bias": params["Conv_0"]["bias"],
        "fc1.weight": rows.reshape(kernel.shape[1], -1),
        "fc1.bias": params["Dense_0"]["bias"],
        "fc2.weight": params["Dense_1"]["kernel"].T,
        "fc2.bias": params["Dense_1"]["bias"],
    }
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}
