"""What flags and clusters say about the processes of a run."""

import pytest

from jopt.config import ConfigError
from jopt.processes.layout import Layout, resolve

SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[07,09-12],other3",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    for name in (*SLURM, *OPEN_MPI, "KUBERNETES_SERVICE_HOST", "JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ((None, 2, 0), "coordinator"),
        (("a:1", None, 0), "num_processes"),
        (("a:1", 2, None), "process_id"),
        ((None, None, 0), "coordinator"),
        ((None, 2, None), "coordinator"),
        (("a:1", 0, 0), "num_processes"),
        (("a:1", -3, 0), "num_processes"),
        ((None, 0, None), "num_processes"),
        (("a:1", 2, 2), "process_id"),
        (("a:1", 2, -1), "process_id"),
        (("a:1", 1, 1), "process_id"),
        (("a", 2, 0), "coordinator"),
        (("a:", 2, 0), "coordinator"),
        ((":1", 2, 0), "coordinator"),
        (("a:b", 2, 0), "coordinator"),
        (("a:0", 2, 0), "coordinator"),
        (("a:65536", 2, 0), "coordinator"),
        (("a:¹", 2, 0), "coordinator"),
        (("::1:80", 2, 0), "coordinator"),
        (("", 2, 0), "coordinator"),
        (("a", 1, 0), "coordinator"),
    ],
)
def test_values_that_do_not_describe_processes_are_refused_by_name(values, field):
    with pytest.raises(ConfigError) as refused:
        resolve(*values)
    assert refused.value.field == field


@pytest.mark.parametrize("values", [(None, None, None), (None, 1, None), (None, 1, 0), ("a:1", 1, 0)])
def test_one_process_needs_no_layout(values):
    assert resolve(*values) is None


def test_an_address_of_ipv6_is_written_as_it_was_read():
    layout = resolve("[fe80::1]:80", 3, 1)
    assert layout == Layout("fe80::1", 80, 3, 1)
    assert layout.address == "[fe80::1]:80"


def test_slurm_describes_its_tasks(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert resolve(None, None, None) == Layout("node07", 61441, 4, 2, devices=(1,))
    # Whoever asks for one process, or for others, is not contradicted.
    assert resolve(None, 1, None) is None
    assert resolve("a:1", 2, 0) == Layout("a", 1, 2, 0)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert resolve(None, None, None) is None


def test_open_mpi_describes_its_ranks(monkeypatch):
    for name, value in OPEN_MPI.items():
        monkeypatch.setenv(name, value)
    layout = resolve(None, None, None)
    assert layout is not None
    assert (layout.host, layout.count, layout.index, layout.devices) == ("10.96.0.1", 2, 1, (1,))


@pytest.mark.parametrize(("name", "value"), [("SLURM_JOB_ID", "none"), ("SLURM_NTASKS", "2(x3)")])
def test_a_cluster_that_cannot_be_read_is_an_error(monkeypatch, name, value):
    for key, given in {**SLURM, name: value}.items():
        monkeypatch.setenv(key, given)
    with pytest.raises(ConfigError):
        resolve(None, None, None)
