import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jopt import data
from jopt.data import cache
from jopt.data.examples import Raw, Split


def make(value=1):
    split = Split(np.full((3, 2, 2, 1), value, np.uint8), np.arange(3, dtype=np.int32))
    return Raw({"train": split, "test": split}, num_classes=3, scale=255.0)


def never():
    raise AssertionError("built although the cache is sound")


def test_the_second_launch_builds_nothing_and_maps_memory(tmp_path):
    cache.cached(tmp_path, "set", make)
    source = cache.cached(tmp_path, "set", never)
    assert isinstance(source.splits["train"].inputs, np.memmap)
    assert not source.splits["train"].inputs.flags.writeable
    assert (source.num_classes, source.scale, list(source.splits)) == (3, 255.0, ["train", "test"])
    np.testing.assert_array_equal(source.splits["test"].inputs, make().splits["test"].inputs)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip_a_bit(folder / "train_inputs.npy"),
        lambda folder: flip_a_bit(folder / "test_labels.npy"),
        lambda folder: (folder / "train_inputs.npy").write_bytes(b""),
        lambda folder: (folder / "train_labels.npy").unlink(),
        lambda folder: os.truncate(folder / "test_inputs.npy", 130),
        lambda folder: (folder / "meta.json").write_text("{"),
        lambda folder: (folder / "meta.json").write_text("[]"),
        lambda folder: np.save(folder / "train_labels.npy", np.array([{}], object), allow_pickle=True),
    ],
    ids=["bit", "label", "empty", "gone", "cut", "meta", "list", "pickle"],
)
def test_damage_is_said_and_mended(tmp_path, damage, caplog):
    cache.cached(tmp_path, "set", make)
    damage(tmp_path / "arrays" / "set")
    with caplog.at_level("WARNING"):
        source = cache.cached(tmp_path, "set", lambda: make(2))
    assert "are damaged; building them again" in caplog.text
    assert (source.splits["train"].inputs == 2).all()
    cache.cached(tmp_path, "set", never)
    assert [p.name for p in (tmp_path / "arrays").iterdir()] == ["set"]


def test_an_interrupted_build_leaves_nothing_that_could_be_read(tmp_path):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.cached(tmp_path, "set", fail)
    (tmp_path / "arrays").mkdir(exist_ok=True)
    (tmp_path / "arrays" / ".set.killed").mkdir()  # what a kill -9 in the middle of writing leaves
    cache.cached(tmp_path, "set", make)
    assert [p.name for p in (tmp_path / "arrays").iterdir()] == ["set"]


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(data.DataError, match=r"data\.data_dir.* write .*/file/sets"):
        cache.cached(tmp_path / "file" / "sets", "set", make)


@pytest.mark.parametrize("name", [".set.lock", "arrays", "arrays/set", "arrays/.set.old"])
def test_nothing_is_changed_through_a_link(tmp_path, name):
    root, outside = tmp_path / "sets", tmp_path / "outside"
    (root / name).parent.mkdir(parents=True)
    if name == ".set.lock":
        outside.write_text("not ours")
    else:
        outside.mkdir()
        (outside / "set").mkdir()
    (root / name).symlink_to(outside)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(data.DataError) as caught:
        cache.cached(root, "set", never)
    assert caught.value.field == str(root / name)
    after = [path for path in sorted(tmp_path.rglob("*")) if path != root / ".set.lock" or path in before]
    assert after == before
    assert outside.is_dir() or outside.read_text() == "not ours"


def test_the_umask_decides_who_may_read_the_arrays(tmp_path):
    previous = os.umask(0o077)
    try:
        cache.cached(tmp_path, "set", make)
    finally:
        os.umask(previous)
    for path in (tmp_path / "arrays", *(tmp_path / "arrays").rglob("*")):
        assert not path.stat().st_mode & 0o077


def test_the_digest_is_of_dtype_shape_and_bytes():
    base = np.arange(6, dtype=np.uint8)
    different = [base, base.reshape(2, 3), base.reshape(3, 2), base.astype(np.int32), base[::-1]]
    assert len({cache.digest([a]) for a in different}) == 5
    assert cache.digest([base.reshape(2, 3).T.copy()]) == cache.digest([base.reshape(2, 3).T])
    assert cache.digest([base.astype(">i4")]) == cache.digest([base.astype("<i4")])


LOAD = """
import sys, jopt.data as data
d = data.load(data.Digits(data_dir=sys.argv[1]))
print(d.fingerprint)
assert "tensorflow" not in sys.modules
"""


def test_two_processes_prepare_digits_at_once(tmp_path, digits_fingerprint):
    processes = [
        subprocess.Popen([sys.executable, "-c", LOAD, str(tmp_path)], stdout=-1, stderr=-1, text=True)
        for _ in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.strip() == digits_fingerprint
    assert sorted(p.name for p in tmp_path.iterdir()) == [".digits.lock", "arrays", "digits", "downloads"]
    assert [p.name for p in (tmp_path / "digits").iterdir()] == ["1.0.0"]
    info = json.loads((tmp_path / "digits" / "1.0.0" / "dataset_info.json").read_text())
    assert info["fileFormat"] == "array_record"


LIGHT = """
import sys, jopt.data
heavy = {"tensorflow", "tensorflow_datasets", "sklearn", "PIL", "pandas"} & set(sys.modules)
assert not heavy, heavy
from jax._src import xla_bridge
assert not xla_bridge._backends, "importing jopt.data started a JAX backend"
"""


def test_importing_is_light():
    subprocess.run([sys.executable, "-c", LIGHT], check=True, timeout=120)


CACHED = """
import sys, jopt.data as data
d = data.load(data.Digits(data_dir=sys.argv[1]))
heavy = {"tensorflow", "tensorflow_datasets", "sklearn"} & set(sys.modules)
assert not heavy, heavy
"""


def test_reading_cached_digits_imports_neither_tfds_nor_scikit_learn(data_dir):
    data.load(data.Digits(data_dir=str(data_dir)))
    subprocess.run([sys.executable, "-c", CACHED, str(data_dir)], check=True, timeout=120)


def test_a_directory_that_cannot_be_written_is_read_all_the_same(tmp_path, monkeypatch, caplog):
    """As a shared, read-only disk: the arrays are built each time, and nothing is written."""
    from jopt.data.cache import cached

    # The tests may run as root, whom no mode bits stop.
    monkeypatch.setattr("jopt.data.cache.os.access", lambda path, mode: False)
    source = cached(tmp_path, "xor", data.Xor().read)
    assert source.num_classes == 2
    assert list(tmp_path.iterdir()) == []
    assert "cannot be written" in caplog.text
