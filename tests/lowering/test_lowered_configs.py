"""Every program that the configs use is lowered for GPU and TPU, where no form for CPUs may get into it."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from lowered import ACCELERATORS, experiment_of, leaks, operations, requests, text_of

from jopt import models
from jopt.ablate.budget import Search
from jopt.levels import CPU_ONLY, QUICK, options, platform_of
from jopt.models.convolution import Geometry, _contraction
from jopt.train import prepare
from jopt.train.calls import Calls
from jopt.train.compiler import Request

pytestmark = pytest.mark.unoptimized

CONFIGS = Path(__file__).parents[2] / "configs"
EVERY = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.py"))

# Convolutions, dense layers and a teacher; all other methods, attention and recurrence are in the slow list.
FEW = ("digits_lenet.py", "digits_distill.py")

# Programs of each of these have a form for CPUs: their convolutions, or the sums of their clusters.
WITH_CPU_FORMS = ("digits_lenet.py", "digits_distill.py", "digits_resnet18.py", "digits_share.py")


def prepared(name):
    path = CONFIGS / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    if isinstance(config, Search):
        config = config.experiment
    experiment = experiment_of(config)
    # Its other run is not here: what it gives is parameters of the shapes that the stage has anyway.
    stages = [dataclasses.replace(stage, transfer=None) for stage in experiment.stages]
    return prepare(dataclasses.replace(experiment, stages=stages))


def check(name):
    p, cpu_forms = prepared(name), 0
    for request in requests(p):
        on_cpu = text_of(request, "cpu")
        cpu_forms += CPU_ONLY in on_cpu
        for platform in ACCELERATORS:
            text = text_of(request, platform)
            assert leaks(text) == [], (request.name, request.key, platform)
            # The products are the network's own, and each convolution is one.
            assert operations(text, "convolution") >= operations(on_cpu, "convolution")
    assert (cpu_forms > 0) or name not in WITH_CPU_FORMS


@pytest.mark.parametrize("name", FEW)
def test_programs_for_accelerators_have_no_form_for_cpus(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EVERY if name not in FEW])
def test_programs_of_every_config_for_accelerators_have_no_form_for_cpus(name):
    check(name)


def test_a_form_for_cpus_that_got_into_a_program_of_a_gpu_is_an_error():
    geometry = Geometry((4, 4), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    traced = jax.jit(lambda x, k: _contraction.bind(x, k, result="output", geometry=geometry)).trace(
        jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
    )
    assert "dot_general" in traced.lower(lowering_platforms=("cpu",)).as_text()
    for platform in ACCELERATORS:
        with pytest.raises(NotImplementedError):
            traced.lower(lowering_platforms=(platform,))


def test_leaks_are_seen():
    """What the tests of this folder look for is found where it is."""
    symmetric = jax.jit(jnp.linalg.eigvalsh).trace(jnp.eye(3))
    assert leaks(symmetric.lower(lowering_platforms=("cpu",)).as_text()) != []
    called = jax.jit(lambda x: jax.pure_callback(lambda x: x, x, x)).trace(jnp.ones(2))
    assert leaks(called.lower(lowering_platforms=("cpu",)).as_text()) != []
    with pytest.raises(ValueError, match="different from the lowering platform cuda"):
        called.lower(lowering_platforms=("cuda",))
    layer = models.model(models.ModelConfig(name="lenet5"))
    params = jax.eval_shape(lambda key: layer.init(key, jnp.ones((1, 8, 8, 1))), jax.random.key(0))[0]
    forward = jax.jit(lambda p, x: layer.apply(p, {}, x, train=False)[0]).trace(params, jnp.ones((2, 8, 8, 1)))
    assert leaks(forward.lower(lowering_platforms=("cpu",)).as_text(debug_info=True)) == [CPU_ONLY]
    assert leaks(forward.lower(lowering_platforms=("tpu",)).as_text(debug_info=True)) == []


def test_options_of_cpus_go_with_the_device_of_the_arguments():
    device = jax.devices("cpu")[3]
    assert platform_of((1.0, jax.device_put(1.0, device))) == platform_of(jax.ShapeDtypeStruct((), "f4")) == "cpu"
    assert options(QUICK, "cpu") and not options(QUICK, "gpu") and not options(QUICK, "tpu")


def test_every_program_of_calls_is_among_those_that_are_lowered():
    programs = {
        name for name, call in vars(Calls).items() if getattr(call, "__annotations__", {}).get("return") is Request
    }
    named = {request.name for request in requests(prepared("digits_lottery.py"))}
    assert {"judge" if name == "evaluate" else name for name in named} == programs - {"_request"}
