"""The model of a disk: what a kill and what a power failure leaves, by hand."""

from pathlib import PurePath

import pytest

from tests.faults import disk

NOWHERE = PurePath()


def operations(*texts: str) -> list[disk.Operation]:
    """`kind inode path [other or data]` each."""
    parsed = []
    for text in texts:
        kind, inode, path, *last = text.split()
        other = PurePath(last[0]) if kind in "rlx" else NOWHERE
        data = last[0].encode() if kind == "w" else b""
        parsed.append(disk.Operation(kind, int(inode), PurePath(path), other, 0, data))
    return parsed


# A file is replaced as `jopt.files` does: without the fsync of its bytes, and then without that of its directory.
REPLACED = ("c 1 a", "w 1 a old", "s 1 a", "s 9 .", "c 2 tmp", "w 2 tmp new", "s 2 tmp", "r 0 tmp a", "s 9 .")


@pytest.mark.parametrize(
    ("steps", "seen", "certain", "emptied"),
    [
        (REPLACED, {"a": b"new"}, {"a": b"new"}, {"a": b"new"}),
        (REPLACED[:-1], {"a": b"new"}, {"a": b"old"}, {"a": b"new"}),
        (REPLACED[:6] + REPLACED[7:], {"a": b"new"}, {"a": b""}, {"a": b""}),
        (("c 1 a", "w 1 a old", "s 1 a"), {"a": b"old"}, {}, {"a": b"old"}),
        (("m 0 d", "c 1 d/a", "s 8 d", "u 0 d/a", "d 0 d"), {}, {}, {}),
        (("m 0 d", "c 1 d/a", "s 8 d", "s 9 .", "u 0 d/a", "d 0 d"), {}, {"d": None, "d/a": b""}, {}),
        (("m 0 d", "c 1 d/a", "s 8 d", "s 9 .", "r 0 d e", "s 9 ."), *({"e": None, "e/a": b""},) * 3),
        (("c 1 a", "s 9 .", "w 1 a xyz", "t 1 a"), {"a": b""}, {"a": b""}, {"a": b""}),
        # The inode of a file that is gone is that of a directory later.
        (("c 1 a", "u 0 a", "m 0 d", "c 2 d/b", "s 2 d/b", "s 1 d", "s 9 ."), *({"d": None, "d/b": b""},) * 3),
        (("c 1 a", "l 0 a b", "s 9 .", "w 1 a xyz", "u 0 a"), {"b": b"xyz"}, {"a": b"", "b": b""}, {"b": b""}),
    ],
)
def test_what_is_left(steps, seen, certain, emptied):
    state = disk.Disk()
    for operation in operations(*steps):
        state.apply(operation)
    assert (state.seen(), state.certain(), state.emptied()) == (seen, certain, emptied)


def test_a_random_part_lies_between_the_certain_and_the_seen():
    state = disk.Disk()
    for operation in operations(*REPLACED[:-1], "c 3 b", "w 3 b new"):
        state.apply(operation)
    states = {frozenset(state.partial(seed).items()) for seed in range(100)}
    # The name `a` is of the old file or of the new one, both synced; `b` is absent, empty, zeros or whole.
    of_a = [("a", b"old"), ("a", b"new")]
    of_b = [(), (("b", b""),), (("b", b"\0\0\0"),), (("b", b"new"),)]
    assert states == {frozenset((a, *b)) for a in of_a for b in of_b}


def test_a_torn_write_is_half_there():
    steps = operations("c 1 a", "w 1 a abcd", "s 1 a")
    assert disk.replayed(disk.Disk(), disk.torn(steps, 1)).seen() == {"a": b"ab"}
    assert disk.replayed(disk.Disk(), disk.torn(steps, 2)).seen() == {"a": b"abcd"}


def test_a_real_directory_is_on_the_disk_and_is_written_again(tmp_path):
    tree = {"a": b"1", "d": None, "d/b": b""}
    disk.write(tree, tmp_path / "one")
    state = disk.Disk.of(tmp_path / "one")
    assert state.seen() == state.certain() == disk.tree(tmp_path / "one") == tree
