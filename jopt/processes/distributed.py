"""`jax.distributed` over the connections of a team."""

import contextlib
import os
from collections.abc import Iterator

from jopt.processes.errors import ProcessError
from jopt.processes.team import Team

# Longer than any limit of ours: JAX would abort the process with a page of text.
_HEARTBEAT_SECONDS = 600
# All processes have agreed to leave before JAX's own barrier.
_SHUTDOWN_SECONDS = 60


def connect(team: Team, timeout: float) -> None:
    """Makes the devices of all processes one backend; before the first computation.

    Raises:
      ProcessError: if the versions of JAX differ, or its backend is in use.
    """
    import jax

    from jopt.processes.calls import check_same

    check_same(team, "the version of JAX", jax.__version__)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It replaces the handler of SIGTERM, with which apps save and stop.
    jax.config.update("jax_enable_preemption_service", False)
    # Its service is reached on this machine, whatever proxy is for others.
    jax.config.update("jax_check_proxy_envs", False)
    address = f"127.0.0.1:{team.relay_port()}"
    try:
        with _without_proxy():
            jax.distributed.initialize(
                address,
                team.layout.count,
                team.layout.index,
                local_device_ids=team.layout.devices,
                cluster_detection_method="deactivate",
                initialization_timeout=max(1, int(timeout)),
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
                coordinator_bind_address=address if team.layout.index == 0 else None,
            )
    except RuntimeError as error:
        raise ProcessError("jax.distributed", f"cannot start: {' '.join(str(error).split())}") from error


def disconnect() -> None:
    """Leaves JAX's service, at the same time as all others."""
    import jax

    jax.distributed.shutdown()


@contextlib.contextmanager
def _without_proxy() -> Iterator[None]:
    """Within the context gRPC connects to this machine directly."""
    before = {name: os.environ.get(name) for name in ("no_proxy", "no_grpc_proxy")}
    os.environ.update({name: ",".join(filter(None, (value, "127.0.0.1"))) for name, value in before.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
