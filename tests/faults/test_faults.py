"""After any fault in a file operation, one relaunch ends in what a run without faults ends in."""

import concurrent.futures

import pytest

from jopt.ablate.budget.files import SearchDir
from jopt.ablate.files import AblationDir
from jopt.train.workdir import Workdir
from tests.faults import disk, inject, launches

# Spread over all apps, most where most operations are.
COUNTS = {
    **{("train", kind): count for kind, count in zip(inject.KINDS, (2, 1, 1, 1, 1, 2, 2), strict=True)},
    **{("ablate", kind): 1 for kind in inject.KINDS if kind not in ("eio", "lost")},
    **{("search", kind): 1 for kind in ("kill", "partial")},
    **{("export", kind): 1 for kind in ("kill", "eio", "emptied")},
}
SERVERS = 2


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("faults").resolve()
    library = launches.build(scratch)
    if library is None:
        pytest.skip("faults are injected on Linux, with a C compiler named cc")
    lab = inject.Lab(library, scratch, servers=SERVERS)
    yield lab
    lab.close()


def injected(lab, counts, seed=0):
    with concurrent.futures.ThreadPoolExecutor(SERVERS) as pool:
        verdicts = list(pool.map(lab.judge, inject.points(lab.references, counts, seed)))
    print(inject.table(verdicts))
    different = [f"{v.point} {v.operation}: {'; '.join(v.problems)}" for v in verdicts if v.problems]
    assert not different, "\n".join(different)
    return verdicts


def test_twenty_faults_change_nothing(lab):
    assert len(injected(lab, COUNTS)) == 20


@pytest.mark.slow
def test_three_hundred_faults_change_nothing(lab):
    counts = {(app, kind): 12 for app in lab.references for kind in inject.KINDS}
    assert len(injected(lab, counts, seed=1)) >= 300


@pytest.mark.parametrize(
    ("app", "identity"),
    [("train", Workdir.identity), ("ablate", AblationDir.identity), ("search", SearchDir.identity)],
)
def test_a_directory_says_what_it_holds_before_all_else(lab, app, identity):
    """Without this file the next launch takes the directory for somebody else's."""
    renamed = [operation.other.as_posix() for operation in lab.references[app].operations if operation.kind == "r"]
    assert renamed[0] == identity and "manifest.json" in renamed


def test_no_operation_escapes_the_records(lab):
    for app, reference in lab.references.items():
        state = disk.replayed(reference.start, reference.operations)
        assert state.seen() == disk.tree(lab.scratch / f"reference_{app}"), app


@pytest.mark.parametrize("kind", ["kill", "tear"])
def test_a_process_that_is_killed_leaves_what_its_records_say(lab, kind):
    writes = [i for i, operation in enumerate(lab.references["train"].operations) if operation.kind == "w"]
    directory = lab.scratch / f"really_{kind}"
    directory.mkdir()
    log = directory.with_suffix(".log")
    with lab.server() as server:
        ended = server.launch("train", directory, log, launches.DEADLY[kind], writes[len(writes) // 4])
    assert ended.status == -9
    operations = disk.read(log, directory)
    assert len(operations) > 20
    assert disk.replayed(lab.references["train"].start, operations).seen() == disk.tree(directory)
