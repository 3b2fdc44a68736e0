"""Programs that are split over a mesh, lowered for GPU and TPU."""

import pytest
from lowered import leaks, operations, requests, text_of
from tiny import tiny_experiment

from jopt import models, prune
from jopt.train import Stage
from jopt.train.prepared import prepare

STAGES = [Stage(), Stage("pruned", methods=(prune.OneShot(sparsity=0.5),))]
LAYOUTS = {
    "fsdp and tensor": {"mesh": (("data", 4), ("model", 2)), "partition": ("tensor", "fsdp")},
    "shards": {"mesh": (("data", 4),), "shards": 8, "partition": ("fsdp",)},
}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_split_programs_are_lowered(layout, platform):
    network = models.ModelConfig("cnn", features=(8, 8), num_classes=4)
    p = prepare(tiny_experiment(model=network, stages=STAGES, **LAYOUTS[layout]))
    texts = {request.name: text_of(request, platform) for request in requests(p)}
    assert {"init", "segment", "update", "seen", "evaluate"} <= texts.keys()
    for name, text in texts.items():
        assert not leaks(text), name
        assert "mesh" in text and '"data"' in text, name
    # The shards' gradients are gathered, and not added by a sum over devices, whose order is the machine's.
    gathers, sums = (operations(texts["segment"], name) for name in ("all_gather", "all_reduce"))
    assert (gathers > 0, sums) == (layout == "shards", 0)
