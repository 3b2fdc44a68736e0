"""How many processes a run has, which of them this is, and where they meet: from flags, or from the cluster."""

import os
import warnings
from typing import NamedTuple

from jopt.config import ConfigError, require


class Layout(NamedTuple):
    """The processes of a run.

    Attributes:
      host: of process 0, as the others reach it.
      port: on which process 0 listens.
      count: of processes.
      index: of this process.
      devices: the local devices that this process uses; None for all.
    """

    host: str
    port: int
    count: int
    index: int
    devices: tuple[int, ...] | None = None

    @property
    def address(self) -> str:
        """As a user writes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def resolve(coordinator: str | None, num_processes: int | None, process_id: int | None) -> Layout | None:
    """The layout that three values describe, or the cluster if all are None; None for one process.

    Raises:
      ConfigError: if a value is not accepted, or some are missing.

    Example:
      >>> resolve("10.0.0.1:1234", 2, 1)
      Layout(host='10.0.0.1', port=1234, count=2, index=1, devices=None)
      >>> resolve(None, 1, None)
      >>> resolve("10.0.0.1", 2, 1)
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: coordinator must be HOST:PORT, such as 10.0.0.1:1234, got '10.0.0.1'
    """
    values = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    if all(value is None for value in values.values()):
        return detected()
    if num_processes is not None:
        require(num_processes >= 1, "num_processes", num_processes, "at least 1")
    if num_processes == 1:
        # It also says that a cluster's environment is not to be asked.
        values = {"coordinator": coordinator or "localhost:1", "num_processes": 1, "process_id": process_id or 0}
    for name, value in values.items():
        others = " and ".join(f"--{other}" for other in values if other != name)
        require(value is not None, name, value, f"given, like {others}: all three or none")
    host, port = parse(str(values["coordinator"]))
    count, index = int(values["num_processes"] or 0), int(values["process_id"] or 0)
    require(0 <= index < count, "process_id", index, f"in [0, {count}), as num_processes is {count}")
    return Layout(host, port, count, index) if count > 1 else None


def parse(coordinator: str) -> tuple[str, int]:
    """The host and the port of an address.

    Raises:
      ConfigError: if it has no port.

    Example:
      >>> parse("node1:1234"), parse("[::1]:80")
      (('node1', 1234), ('::1', 80))
    """
    host, _, port = coordinator.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError("coordinator", coordinator, "HOST:PORT, an IPv6 host in brackets, such as [::1]:1234")
    if not host or not port.isascii() or not port.isdigit():
        raise ConfigError("coordinator", coordinator, "HOST:PORT, such as 10.0.0.1:1234")
    require(0 < int(port) < 2**16, "coordinator", coordinator, "HOST:PORT with a port from 1 to 65535")
    return host, int(port)


def detected(timeout: float = 60) -> Layout | None:
    """The layout that SLURM, Open MPI, mpi4py, a TPU pod or Kubernetes describes; None for one process.

    Args:
      timeout: in seconds, for the name of the coordinator to become known.

    Raises:
      ConfigError: if the cluster's description is not complete.
    """
    # JAX has the rules of each cluster, but gives them only to `jax.distributed.initialize`, and jopt's processes
    # meet before it: this function alone uses the private module.
    from jax._src.clusters import ClusterEnv

    with warnings.catch_warnings():
        # Where Kubernetes' client is not installed, for each run in a pod.
        warnings.simplefilter("ignore")
        try:
            cluster = next((env for env in ClusterEnv._cluster_types if _is_present(env)), None)
            if cluster is None or (count := cluster.get_process_count()) <= 1:
                return None
            port = os.environ.get("JAX_COORDINATOR_PORT")
            address = os.environ.get("JAX_COORDINATOR_ADDRESS") or cluster.get_coordinator_address(
                timeout_secs=int(timeout), override_coordinator_port=port
            )
            index, local = cluster.get_process_id(), cluster.get_local_process_id()
        except Exception as error:
            # A single pod of Kubernetes has no job to describe.
            if "KUBERNETES_SERVICE_HOST" in os.environ and "JOB_COMPLETION_INDEX" not in os.environ:
                return None
            accepted = f"complete ({error}); or give --coordinator, --num_processes and --process_id"
            raise ConfigError(
                "the cluster's description of its processes", type(error).__name__, accepted
            ) from error
    host, port_number = parse(address)
    return Layout(host, port_number, count, index, None if local is None or _on_tpu() else (local,))


def _is_present(cluster: type) -> bool:
    """Whether this process runs in a cluster of this kind."""
    if cluster.opt_in_only_method:
        # mpi4py may be installed where no MPI has started this process.
        sizes = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
        if not any(os.environ.get(name, "1") != "1" for name in sizes):
            return False
    return cluster.is_env_present()


def _on_tpu() -> bool:
    """Whether libtpu gives each process its devices."""
    from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm

    return bool(running_in_cloud_tpu_vm)
