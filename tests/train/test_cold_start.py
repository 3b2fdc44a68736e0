"""What a run of the demo compiles, with nothing compiled before: a number of programs, and no operation alone."""

import dataclasses
import json

import jax

from configs.digits_compress import get_config
from jopt.train import run


def test_the_demo_compiles_so_many_programs_and_no_more(tmp_path):
    config = get_config()
    # Two epochs: the pruned stage updates its masks more than once, as in the demo.
    stages = [dataclasses.replace(stage, epochs=2) for stage in config.stages]
    compiled = []

    def count(name: str, seconds: float, **details: object) -> None:
        del seconds, details
        if name == "/jax/core/compile/backend_compile_duration":
            compiled.append(name)

    # What other tests of this process have compiled would not be counted.
    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        run(dataclasses.replace(config, stages=stages), tmp_path / "demo")
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    counts = json.loads((tmp_path / "demo" / "manifest.json").read_text())["events"][-1]["compilations"]
    # Dense and pruned train in one program, and are evaluated by one: on the validation and on the test part.
    assert counts == {"init": 3, "segment": 2, "update": 2, "seen": 2, "evaluate": 2}
    # The others choose and count masks, store integers and measure the speed of the network, each in one program.
    assert len(compiled) <= counts_of(counts) + 12
    assert len(compiled) > counts_of(counts)


def counts_of(counts: dict[str, int]) -> int:
    return sum(counts.values())
