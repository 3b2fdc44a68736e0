"""Programs are compiled once, by one thread, with the options of the context that asks for them."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import levels, prune, quantize
from jopt.train import Stage, prepare, run
from jopt.train.calls import Calls
from jopt.train.compiler import Compiler, Request, compiler_options


def doubled(compiler):
    return int(compiler.call("double", 0, lambda x: x + x, jnp.int32(3)))


def test_options_reach_the_compiler_and_only_inside_the_context():
    with compiler_options(xla_no_such_option=1), pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        doubled(Compiler())
    assert doubled(Compiler()) == 6


def test_options_of_an_outer_context_hold_inside_as_well():
    with (
        compiler_options(xla_no_such_option=1),
        compiler_options(xla_backend_optimization_level=0),
        pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"),
    ):
        doubled(Compiler())


def test_what_is_compiled_stays_as_it_was_compiled():
    compiler = Compiler()
    assert doubled(compiler) == 6
    with compiler_options(xla_no_such_option=1):
        assert doubled(compiler) == 6
    assert compiler.counts["double"] == 1


def test_programs_of_one_text_are_compiled_once():
    compiler, x = Compiler(), jnp.float32(3)
    assert float(compiler.call("a", 0, lambda x: 2 * x, x)) == 6 == float(compiler.call("b", 1, lambda y: 2 * y, x))
    assert compiler.counts == {"a": 1}


def test_of_programs_of_one_text_each_reads_its_own_argument():
    # Without the arguments that are not read, both texts would be one: 2 * x of the first argument.
    compiler, x, y = Compiler(), jnp.float32(3), jnp.float32(4)
    assert float(compiler.call("first", 0, lambda x, y: 2 * x, x, y)) == 6
    assert float(compiler.call("second", 0, lambda x, y: 2 * y, x, y)) == 8


def test_the_containers_of_results_are_no_part_of_the_text():
    compiler, x = Compiler(), jnp.float32(3)
    assert isinstance(compiler.call("tuple", 0, lambda x: (2 * x,), x), tuple)
    assert isinstance(compiler.call("list", 0, lambda x: [2 * x], x), list)


def test_programs_that_call_functions_of_python_are_not_shared():
    compiler, x = Compiler(), np.float32(3)

    def calling(python):
        return lambda x: jax.pure_callback(python, jax.ShapeDtypeStruct((), jnp.float32), x)

    assert float(compiler.call("double", 0, calling(lambda x: 2 * np.asarray(x)), x)) == 6
    assert float(compiler.call("triple", 0, calling(lambda x: 3 * np.asarray(x)), x)) == 9


def test_other_options_make_another_program():
    compiler, x = Compiler(), jnp.float32(3)
    for name, level in (("quick", levels.QUICK), ("full", levels.FULL)):
        assert float(compiler.call(name, 0, lambda x: 2 * x, x, level=level)) == 6
    assert compiler.counts == {"quick": 1, "full": 1}


def request(name, fn, *args):
    return Request(name, 0, fn, args)


def test_what_is_compiled_ahead_is_not_compiled_again():
    compiler, shape = Compiler(), jax.ShapeDtypeStruct((), jnp.float32)
    traced = []

    def double(x):
        traced.append(threading.current_thread())
        return 2 * x

    with compiler.ahead([request("double", double, shape)]):
        assert float(compiler.run(request("double", double, jnp.float32(3)))) == 6
    assert compiler.counts == {"double": 1} and len(traced) == 1


def test_what_is_compiled_ahead_has_the_options_of_the_context():
    compiler, shape = Compiler(), jax.ShapeDtypeStruct((), jnp.float32)
    # With an option that XLA refuses nothing is compiled, neither ahead nor when it is asked for.
    with compiler_options(xla_no_such_option=1), compiler.ahead([request("double", lambda x: 2 * x, shape)]):
        pass
    assert not compiler.counts


def test_an_error_ahead_comes_where_the_program_is_called():
    compiler, shape = Compiler(), jax.ShapeDtypeStruct((2,), jnp.float32)

    def fail(x):
        raise ValueError("no such network")

    with compiler.ahead([request("fail", fail, shape)]), pytest.raises(ValueError, match="no such network"):
        compiler.run(request("fail", fail, jnp.ones(2)))


def test_nothing_is_compiled_ahead_where_the_options_of_jax_are_of_a_context():
    compiler, shape = Compiler(), jax.ShapeDtypeStruct((), jnp.float32)
    # The thread does not have them: with them the program could have other bits.
    with jax.default_matmul_precision("float32"), compiler.ahead([request("double", lambda x: 2 * x, shape)]):
        pass
    assert not compiler.counts


def test_programs_run_on_the_default_device_of_a_context():
    compiler, device = Compiler(), jax.devices()[1]
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    with jax.default_device(device), compiler.ahead([request("double", lambda x: 2 * x, shape)]):
        pass
    # Not in a thread, which would have compiled it for the first device.
    assert not compiler.counts


def test_threads_that_ask_at_once_compile_once():
    compiler, barrier, results = Compiler(), threading.Barrier(4), []

    def ask(i):
        barrier.wait()
        results.append(float(compiler.call(f"program {i % 2}", 0, lambda x: 2 * x, jnp.float32(3))))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [6.0] * 4 and compiler.counts.total() == 1


@pytest.mark.optimized
def test_a_run_ends_in_the_same_bits_with_and_without_programs_compiled_ahead(tmp_path, tiny, monkeypatch):
    config = tiny(stages=[Stage("dense"), Stage("pruned", methods=(prune.Gradual(sparsity=0.5),))])
    digests = [run(config, tmp_path / "ahead")["digest"]]
    monkeypatch.setattr(Calls, "ahead", lambda *args, **kwargs: ())
    digests.append(run(config, tmp_path / "in turn")["digest"])
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"ema_decay": 0.5, "stages": [Stage("a", epochs=1), Stage("b", epochs=1)]},
        {"stages": [Stage("dense"), Stage("pruned", methods=(prune.Gradual(sparsity=0.5),))]},
        {
            "stages": [
                Stage("dense"),
                Stage("small", methods=(quantize.Weights(bits=4), quantize.Activations(bits=8))),
            ]
        },
        {"stages": [Stage("dense"), Stage("ticket", start="init", methods=(prune.OneShot(sparsity=0.5),))]},
    ],
    ids=["average", "pruned", "quantized", "ticket"],
)
def test_a_program_has_the_same_text_ahead_and_when_it_is_called(tmp_path, tiny, monkeypatch, changes):
    # Else the bits of a run would depend on which thread comes first.
    texts, compile_program = {}, Compiler._compile

    def record(self, request):
        lowered = jax.jit(request.fn, donate_argnums=request.donate, keep_unused=True).lower(*request.args)
        texts.setdefault((request.name, request.key), set()).add((lowered.as_text(), lowered.in_tree))
        return compile_program(self, request)

    monkeypatch.setattr(Compiler, "_compile", record)
    p = prepare(tiny(**changes))
    for program in Calls(p, p.values).ahead(None):
        Compiler().compiled(program)
    ahead = set(texts)
    monkeypatch.setattr(Calls, "ahead", lambda *args, **kwargs: ())
    run(tiny(**changes), tmp_path / "run")
    assert ahead == set(texts) and all(len(versions) == 1 for versions in texts.values())
