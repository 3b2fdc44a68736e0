"""The network that the tests start from: trained once."""

import pytest
import torch_files
from safetensors.numpy import save_file
from tiny import tiny_experiment

from jopt.train import finished, run


@pytest.fixture(scope="package")
def trained(tmp_path_factory):
    """A directory with a finished run, `run`, and its state_dict in PyTorch's layout, `torch.safetensors`."""
    path = tmp_path_factory.mktemp("trained")
    run(tiny_experiment(model=torch_files.CNN, pack=True, ema_decay=0.9), path / "run")
    save_file(torch_files.state_dict(finished.load(path / "run").params), path / "torch.safetensors")
    return path
