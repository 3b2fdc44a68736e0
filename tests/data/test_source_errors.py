"""What is wrong with a data set is one line that names field or place, value and what is accepted."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from jopt import data
from jopt.config import ConfigError

X, Y = np.zeros((8, 2), np.float32), np.arange(8, dtype=np.int32) % 2


def npz(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return data.Arrays(str(folder / "a.npz"))


def file(folder, content, kind=data.Arrays, name="a.npz", **fields):
    (folder / name).write_bytes(content)
    return kind(str(folder / name), **fields)


def npy(folder, **arrays):
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return data.Arrays(str(folder))


def csv(folder, text, target="y", **fields):
    return file(folder, text.encode(), data.Csv, "a.csv", target=target, **fields)


def images(folder, sizes=(4, 4, 4, 4), mode="RGB", **fields):
    for i, size in enumerate(sizes):
        path = folder / "set" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (size, 4)).save(path)
    return data.ImageFolder(str(folder / "set"), data_dir=str(folder / "kept"), **fields)


def damaged(folder):
    source = images(folder)
    (folder / "set" / "a" / "0.png").write_bytes(b"no image")
    return source


def bomb(folder):
    source = images(folder)
    Image.new("1", (9000, 9000)).save(folder / "set" / "a" / "0.png")
    return source


def linked(folder):
    source = images(folder)
    Image.new("RGB", (4, 4)).save(folder / "secret.png")
    (folder / "set" / "a" / "0.png").unlink()
    (folder / "set" / "a" / "0.png").symlink_to(folder / "secret.png")
    return source


def empty_class(folder):
    source = images(folder)
    (folder / "set" / "c").mkdir()
    return source


def unknown_class(folder):
    for part, labels in (("train", "ab"), ("test", "abc")):
        for label in labels:
            path = folder / "set" / part / label / "0.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(path)
    return data.ImageFolder(str(folder / "set"), data_dir=str(folder / "kept"))


def text(folder, count=3, content=b"some text, and more of it", **fields):
    (folder / "t").mkdir()
    for i in range(count):
        (folder / "t" / f"{i}.txt").write_bytes(content)
    return data.Text(str(folder / "t"), **{"window": 4, **fields})


def parquet(folder, inputs="x", targets="y", **columns):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"y": list(range(8)), **columns}), folder / "a.parquet")
    return data.HuggingFace(path=str(folder / "a.parquet"), inputs=inputs, targets=targets)


def own(name, **fields):
    return lambda folder: data.Custom(f"own_sets:{name}", **fields)


# Before anything is read: how the source is made, and the field.
FIELDS = {
    "no path": (lambda p: data.Arrays(), "path"),
    "a missing file": (lambda p: data.Arrays(str(p / "missing.npz")), "path"),
    "a number of classes below 1": (lambda p: dataclasses.replace(npz(p, x=X, y=Y), num_classes=0), "num_classes"),
    "a fraction of all": (lambda p: dataclasses.replace(npz(p, x=X, y=Y), test_fraction=1.0), "test_fraction"),
    "csv without a target": (lambda p: csv(p, "x,y\n1,2\n", target=""), "target"),
    "csv with two targets of classes": (lambda p: csv(p, "x,y\n1,2\n", target=("x", "y")), "targets"),
    "csv of two characters": (lambda p: csv(p, "x,y\n1,2\n", delimiter="::"), "delimiter"),
    "csv of a missing test file": (lambda p: csv(p, "x,y\n1,2\n", test_path="missing"), "test_path"),
    "a folder that is missing": (lambda p: data.ImageFolder(str(p / "missing")), "path"),
    "images of no pixels": (lambda p: images(p, size=(0, 4)), "size"),
    "images of unknown colours": (lambda p: images(p, colours="cmyk"), "colours"),
    "no text": (lambda p: data.Text(), "files"),
    "text and a corpus": (lambda p: data.Text(str(p), corpus="stdlib"), "files"),
    "a pattern of no file": (lambda p: data.Text(str(p / "*.md")), "files"),
    "one of several patterns": (lambda p: data.Text((str(p / "*.md"),)), "files[0]"),
    "an unknown corpus": (lambda p: data.Text(corpus="everything"), "corpus"),
    "an empty window": (lambda p: text(p, window=0), "window"),
    "words": (lambda p: text(p, level="words"), "level"),
    "a catalog name and a directory": (lambda p: data.Tfds("mnist", directory=str(p)), "name"),
    "a directory that nobody prepared": (lambda p: data.Tfds(directory=str(p)), "directory"),
    "inputs without targets": (lambda p: data.Tfds("mnist", inputs="image"), "targets"),
    "neither hub nor path": (lambda p: data.HuggingFace(inputs="x", targets="y"), "name"),
    "no columns": (lambda p: parquet(p, inputs="", x=list(range(8))), "inputs"),
    "a missing module": (lambda p: data.Custom("no_such_package:load"), "name"),
    "a missing function": (own("absent"), "name"),
    "no reference": (lambda p: data.Custom("own_sets"), "name"),
    "no function": (own("CONSTANT"), "name"),
    "an unknown option": (own("pairs", options={"m": 3}), "options"),
    "an option that is no leaf": (own("pairs", options={"n": {"a": 1}}), "options.n"),
    "a residency that is none": (own("pairs", residency="disk"), "residency"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_refused_before_anything_is_read(tmp_path, name):
    build, field = FIELDS[name]
    source = build(tmp_path)
    for check, path in (
        (lambda: source.validate("experiment.data"), "experiment.data"),
        (lambda: data.load(source), "data"),
    ):
        with pytest.raises(ConfigError) as caught:
            check()
        assert caught.value.field == f"{path}.{field}" and caught.value.accepted
        assert "\n" not in str(caught.value)


# As it is read: how the source is made, the error, and a part of its field.
PARTS = {
    "a pickled npz": (lambda p: npz(p, x=np.array([{}, []], object), y=Y[:2]), data.DataError, "a.npz"),
    "a pickled npy": (lambda p: npy(p, x=np.array([{}, []], object), y=Y[:2]), data.DataError, "x.npy"),
    "no npz": (lambda p: file(p, b"text"), data.DataError, "a.npz"),
    "half an npz": (lambda p: file(p, b"PK\x03\x04half"), data.DataError, "a.npz"),
    "an empty npy": (lambda p: file(p, b"", lambda path: data.Arrays(str(p)), "x.npy"), data.DataError, "x.npy"),
    "an array of another name": (lambda p: npz(p, x=X, labels=Y), data.DataError, "name"),
    "no arrays": (lambda p: data.Arrays(str(p)), data.DataError, ""),
    "inputs alone": (lambda p: npz(p, train_x=X, train_y=Y, test_x=X), data.DataError, "test"),
    "no test part": (lambda p: npz(p, train_x=X, train_y=Y), data.DataError, "a.npz"),
    "split and not": (lambda p: npz(p, train_x=X, train_y=Y, test_x=X, test_y=Y, x=X), data.DataError, "a.npz"),
    "an array and its parts": (lambda p: npz(p, **{"x": X, "x.a": X, "y": Y}), data.DataError, "x.a"),
    "arrays of unequal lengths": (
        lambda p: npz(p, train_x=X, train_y=Y[:5], test_x=X, test_y=Y),
        data.DataError,
        "train",
    ),
    "unequal lengths, not split": (lambda p: npz(p, x=X, y=Y[:5]), data.DataError, "targets"),
    "two examples": (lambda p: npz(p, x=X[:1], y=Y[:1]), ConfigError, "test_fraction"),
    "complex numbers": (lambda p: npz(p, x=X.astype(complex), y=Y), data.DataError, "inputs"),
    "texts in an npz": (lambda p: npz(p, x=np.array(["a"] * 8), y=Y), data.DataError, "inputs"),
    "more classes than said": (
        lambda p: dataclasses.replace(npz(p, x=X, y=Y + 1), num_classes=2),
        data.DataError,
        "labels",
    ),
    "images that are none": (lambda p: dataclasses.replace(npz(p, x=X, y=Y), flip=True), ConfigError, "data.flip"),
    "csv without the target's column": (lambda p: csv(p, "x,z\n1,2\n"), ConfigError, "data.target"),
    "csv without a column": (lambda p: csv(p, "x,y\n1,2\n", columns=("z",)), ConfigError, "data.columns"),
    "csv without a category": (lambda p: csv(p, "x,y\n1,2\n", categorical=("z",)), ConfigError, "data.categorical"),
    "csv whose target is an input": (
        lambda p: csv(p, "x,y\n1,2\n", columns=("x", "y")),
        ConfigError,
        "data.columns",
    ),
    "csv of the target alone": (lambda p: csv(p, "y\n1\n2\n"), ConfigError, "data.columns"),
    "a missing value": (lambda p: csv(p, "x,y\n1,2\n\n,3\n"), data.DataError, "line 4, column 'x'"),
    "a missing category": (lambda p: csv(p, "x,y\n1, \n2,3\n"), data.DataError, "line 2, column 'y'"),
    "a word among numbers": (lambda p: csv(p, "x,y\n1,2\nNA,3\n"), data.DataError, "line 3, column 'x'"),
    "not a number": (lambda p: csv(p, "x,y\n1,2\nnan,3\n"), data.DataError, "line 3, column 'x'"),
    "an infinite target": (
        lambda p: csv(p, "x,y\n1,1e99\n", targets="numbers"),
        data.DataError,
        "line 2, column 'y'",
    ),
    "a short row": (lambda p: csv(p, "x,y\n1,2\n3\n"), data.DataError, "line 3"),
    "two columns of a name": (lambda p: csv(p, "x,x,y\n1,2,3\n"), data.DataError, "a.csv"),
    "no rows": (lambda p: csv(p, "x,y\n"), data.DataError, "a.csv"),
    "an empty table": (lambda p: csv(p, ""), data.DataError, "a.csv"),
    "a table that is no text": (lambda p: file(p, b"x,y\n\xff,1\n", data.Csv, target="y"), data.DataError, "a.npz"),
    "an open quote": (lambda p: csv(p, 'x,y\n"1,2\n'), data.DataError, "a.csv"),
    "ragged images": (lambda p: images(p, (4, 4, 5, 4)), data.DataError, "2.png"),
    "images of 16 bits": (lambda p: images(p, mode="I;16"), data.DataError, ".png"),
    "a file that is no image": (damaged, data.DataError, "0.png"),
    "an image that is a bomb": (bomb, data.DataError, "0.png"),
    "a link out of the folder": (linked, data.DataError, "0.png"),
    "a class without images": (empty_class, data.DataError, "c"),
    "a class of the test part alone": (unknown_class, data.DataError, "test"),
    "a shift over all pixels": (lambda p: images(p, (4,) * 20, shift=4), ConfigError, "data.shift"),
    "two files of text": (lambda p: text(p, 2), data.DataError, "data.files"),
    "text shorter than a window": (lambda p: text(p, window=99), data.DataError, "train"),
    "characters that are none": (
        lambda p: text(p, content=b"\xff" * 20, level="characters"),
        data.DataError,
        "0.txt",
    ),
    "no such column": (lambda p: parquet(p, z=list(range(8))), ConfigError, "data.inputs"),
    "a column of texts": (lambda p: parquet(p, x=["a"] * 8), data.DataError, "'x'"),
    "lists of unequal lengths": (lambda p: parquet(p, x=[[1]] * 7 + [[1, 2]]), data.DataError, "'x'"),
    "a row without a value": (lambda p: parquet(p, x=[1.0] * 7 + [None]), data.DataError, "row 7"),
    "a list without a value": (lambda p: parquet(p, x=[[1.0]] * 7 + [[None]]), data.DataError, "example 7"),
    "no parquet": (lambda p: data.HuggingFace(path=npz(p, x=X).path, inputs="x", targets="y"), data.DataError, ""),
    "nothing": (own("nothing"), data.DataError, "data.name"),
    "two arrays": (own("two_arrays"), data.DataError, "data.name"),
    "lists for parts": (own("lists"), data.DataError, "data.name"),
    "parts of other names": (own("other_names"), data.DataError, "data.name"),
    "no training part": (own("no_train"), data.DataError, "data.name"),
    "inputs without targets": (own("a_part_alone"), data.DataError, "'train'"),
    "a raw of a list": (own("raw_of_a_list"), data.DataError, "data.name"),
    "unequal lengths": (own("unequal"), data.DataError, "'train'"),
    "lazy columns without a test part": (own("lazy"), data.DataError, "'test'"),
    "NaN features": (own("not_finite"), data.DataError, "inputs of 'train'"),
    "object arrays": (own("ragged"), data.DataError, "inputs of 'train'"),
    "texts": (own("texts"), data.DataError, "inputs of 'train'"),
    "an empty part": (own("empty"), data.DataError, "'test'"),
    "another dtype": (own("other_dtypes"), data.DataError, "targets of 'test'"),
    "another shape": (own("other_shapes"), data.DataError, "inputs of 'test'"),
    "weights of texts": (lambda f: npz(f, x=X, y=Y, w=np.array(["a"] * 8)), data.DataError, "weights of 'all'"),
    "weights by name": (
        lambda f: npz(f, **{"x": X, "y": Y, "w.a": np.ones(8)}),
        data.DataError,
        "weights of 'all'",
    ),
    "weights of 0 alone": (own("weightless"), data.DataError, "weights of 'train'"),
    "NaN in bfloat16": (own("small_nan"), data.DataError, "inputs of 'train'"),
    "weights below 0": (own("below_zero"), data.DataError, "weights of 'train'"),
    "integers of 64 bits": (own("huge"), data.DataError, "data"),
    "tokens out of range": (own("out_of_range"), data.DataError, "labels of 'train'"),
    "preprocessing to one thing": (
        own("pairs", preprocess="own_sets:one_target"),
        data.DataError,
        "data.preprocess",
    ),
    "more examples than there are": (own("pairs", train_examples=99), ConfigError, "data.train_examples"),
}


@pytest.mark.parametrize("name", PARTS)
def test_what_is_read_is_refused_where_it_is_wrong(tmp_path, name):
    build, kind, field = PARTS[name]
    source = build(tmp_path)
    source.validate()
    with pytest.raises((data.DataError, ConfigError)) as caught:
        data.load(source)
    error = caught.value
    assert type(error) is kind and error.field and field in error.field, (type(error), error)
    assert error.accepted and error.accepted in str(error) and "\n" not in str(error)
