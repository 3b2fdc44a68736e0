"""`jax.distributed` over the connections of a team."""

import tempfile
from pathlib import Path

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
    # A proxy is not asked for a socket of this machine.
    jax.config.update("jax_check_proxy_envs", False)
    # The path of a socket has at most 103 bytes on macOS.
    parent = None if len(tempfile.gettempdir()) < 70 else "/tmp"
    with tempfile.TemporaryDirectory(prefix="jopt-", dir=parent) as directory:
        # No port, which another program could take first, and no directory that others may enter.
        path = Path(directory) / "jax"
        team.call(team.relay(path))
        try:
            jax.distributed.initialize(
                f"unix:{path}",
                team.layout.count,
                team.layout.index,
                local_device_ids=team.layout.devices,
                cluster_detection_method="deactivate",
                initialization_timeout=max(1, int(timeout)),
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
                coordinator_bind_address=f"unix:{path}",
            )
        except RuntimeError as error:
            raise ProcessError("jax.distributed", f"cannot start: {' '.join(str(error).split())}") from error
        # The sockets are removed, once all have connected.
        team.gather("the start of JAX", None)


def disconnect() -> None:
    """Leaves JAX's service, at the same time as all others."""
    import jax

    jax.distributed.shutdown()
