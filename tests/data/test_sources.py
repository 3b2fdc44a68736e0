"""Each source gives what its files hold, the same each time, with parts that do not overlap."""

import dataclasses
import importlib.util
import json

import jax
import numpy as np
import own_sets
import pytest
from PIL import Image

from jopt import data, keys
from jopt.config import ConfigError, decode, encode

X = np.random.RandomState(0).randn(40, 3).astype(np.float32)
Y = np.arange(40, dtype=np.int64) % 4


def rows(*splits):
    return {x.tobytes(): int(y) for split in splits for x, y in zip(split.inputs, split.targets, strict=True)}


def whole(dataset):
    """All examples; that they are as many says that no part shares one with another."""
    return rows(dataset.train, dataset.validation, dataset.test)


def again(source):
    """The source from its JSON, as a run's files hold it."""
    other = decode(json.loads(json.dumps(encode(source, data.Source))), data.Source, "data", trusted=True)
    assert other == source
    return other


@pytest.mark.parametrize("form", ["npz", "npy"])
@pytest.mark.parametrize("names", ["parts", "all"])
def test_arrays_come_by_their_names(tmp_path, form, names):
    arrays = {"x": X, "y": Y}
    if names == "parts":
        arrays = {"train_x": X[:30], "train_y": Y[:30], "test_x": X[30:], "test_y": Y[30:]}
    path = tmp_path / "set.npz"
    if form == "npz":
        np.savez(path, **arrays)
    else:
        path = tmp_path
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
    source = data.Arrays(str(path), test_fraction=0.25)
    dataset = data.load(source)
    assert whole(dataset) == rows(data.Split(X, Y)) and dataset.sizes == (27, 3, 10)
    assert dataset.num_classes == 4 and dataset.train.targets.dtype == np.int32
    np.testing.assert_allclose(dataset.mean, dataset.train.inputs.mean(0), rtol=1e-5)
    assert data.load(again(source)).fingerprint == dataset.fingerprint
    if (names, form) == ("parts", "npy"):
        assert isinstance(dataset.test.inputs.base, np.memmap)


def test_a_held_out_part_does_not_depend_on_the_order_of_rows(tmp_path):
    shuffled = np.random.RandomState(1).permutation(40)
    for name, order in (("a", np.arange(40)), ("b", shuffled)):
        np.savez(tmp_path / f"{name}.npz", x=X[order], y=Y[order])
    a, b = (data.load(data.Arrays(str(tmp_path / f"{name}.npz"))) for name in "ab")
    assert rows(a.test) == rows(b.test) and np.bincount(a.test.targets).tolist() == [2] * 4


def test_arrays_with_names_behind_a_dot_are_a_dictionary(tmp_path):
    ids = np.arange(80, dtype=np.uint8).reshape(40, 2)
    np.savez(tmp_path / "a.npz", **{"x.ids": ids, "x.values": X, "y": X[:, 0], "w": np.ones(40)})
    dataset = data.load(data.Arrays(str(tmp_path / "a.npz"), tokens=True))
    assert dataset.train.inputs.keys() == {"ids", "values"} and dataset.num_classes is None
    assert dataset.mean["ids"] is None and dataset.mean["values"].shape == (3,)
    assert dataset.train.weights.dtype == np.float32


TABLE = "age,city,price\n30,Rome,1.5\n40,Oslo,2.5\n50,Rome,3.5\n60,Bern,4.5\n70,Oslo,5.5\n"


def table(path, text=TABLE):
    path.write_text(text)
    return str(path)


def test_csv_numbers_and_categories(tmp_path):
    path = table(tmp_path / "houses.csv")
    source = data.Csv(path, target="price", targets="numbers", categorical=("city",))
    raw = source.read()
    examples = [
        np.concatenate([getattr(raw.splits[part], f) for part in ("train", "test")]) for f in ("inputs", "targets")
    ]
    order = np.argsort(examples[1])
    # Bern, Oslo, Rome.
    expected = [[30, 0, 0, 1], [40, 0, 1, 0], [50, 0, 0, 1], [60, 1, 0, 0], [70, 0, 1, 0]]
    assert examples[0][order].tolist() == expected and examples[1][order].tolist() == [1.5, 2.5, 3.5, 4.5, 5.5]
    assert raw.num_classes is None and examples[0].dtype == examples[1].dtype == np.float32
    codes = dataclasses.replace(source, categories="codes").read().splits["train"].inputs
    assert codes["numbers"].shape == (4, 1) and codes["categories"].dtype == np.int32
    assert again(source) == source


def test_csv_classes_and_a_second_file(tmp_path):
    train = table(tmp_path / "a.csv", "5;10\n6;2\n7;10\n")
    test = table(tmp_path / "b.csv", "\n8;3\n")
    raw = data.Csv(train, target="1", header=False, delimiter=";", test_path=test).read()
    # Classes 2, 3, 10 by number, one code for both files.
    assert raw.num_classes == 3 and raw.splits["train"].targets.tolist() == [2, 0, 2]
    assert raw.splits["test"].targets.tolist() == [1] and raw.splits["test"].inputs.tolist() == [[8.0]]


def image(path, height, width, colour, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (width, height), colour).save(path)


def test_a_folder_of_images_in_parts(tmp_path):
    for i in range(6):
        for label, colour in (("cat", (200, 0, i)), ("dog", (0, 200, i))):
            image(tmp_path / "set" / "train" / label / f"{i}.png", 4, 5, colour)
            image(tmp_path / "set" / "val" / label / f"{i}.png", 4, 5, colour)
            image(tmp_path / "set" / "test" / label / "below" / f"{i}.png", 4, 5, colour)
    (tmp_path / "set" / "train" / "cat" / "notes.txt").write_text("no image")
    source = data.ImageFolder(str(tmp_path / "set"), data_dir=str(tmp_path / "kept"), flip=True)
    dataset = data.load(source)
    assert dataset.sizes == (12, 12, 12) and dataset.train.inputs.shape[1:] == (4, 5, 3)
    assert dataset.train.inputs.dtype == np.uint8 and dataset.num_classes == 2
    assert all((x[0, 0, y] == 200) for x, y in zip(dataset.test.inputs, dataset.test.targets, strict=True))
    (cache,) = (tmp_path / "kept" / "arrays").iterdir()
    assert data.load(again(source)).fingerprint == dataset.fingerprint
    assert list((tmp_path / "kept" / "arrays").iterdir()) == [cache]
    image(tmp_path / "set" / "train" / "cat" / "0.png", 4, 5, (199, 0, 9))
    assert data.load(source).fingerprint != dataset.fingerprint  # another content, so decoded again


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_a_tree_of_classes_scaled_to_one_size(tmp_path, fit):
    for i in range(10):
        image(tmp_path / "set" / "a" / f"{i}.jpg", 4 + i, 8, 10 * i, "L")
        image(tmp_path / "set" / "b" / f"{i}.bmp", 8, 4 + i, 10 * i, "L")
    source = data.ImageFolder(
        str(tmp_path / "set"), size=(3, 6), fit=fit, colours="grey", data_dir=str(tmp_path / "k")
    )
    dataset = data.load(source)
    assert dataset.sizes == (14, 2, 4) and dataset.train.inputs.shape[1:] == (3, 6, 1)
    assert np.bincount(dataset.test.targets).tolist() == [2, 2]
    assert data.load(dataclasses.replace(source, size=4)).train.inputs.shape[1:] == (4, 4, 1)


def texts(folder, count=8):
    for i in range(count):
        file = folder / f"d{i % 2}" / f"{i}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(chr(ord("a") + i) * (20 + i), "utf-8")
    (folder / ".hidden").write_text("never read")
    return folder


@pytest.mark.parametrize("pattern", ["", "**/*.txt"])
@pytest.mark.parametrize("level", ["bytes", "characters"])
def test_text_is_windows_whose_targets_follow(tmp_path, pattern, level):
    texts(tmp_path)
    source = data.Text(str(tmp_path / pattern), window=5, level=level, test_fraction=0.25)
    dataset = data.load(source)
    assert dataset.mean is None and dataset.num_classes == (256 if level == "bytes" else 8)
    letters = []
    for part in (dataset.train, dataset.validation, dataset.test):
        assert part.inputs.shape[1:] == (5,) and part.inputs.dtype == part.targets.dtype == np.uint8
        np.testing.assert_array_equal(part.inputs.ravel()[1:], part.targets.ravel()[:-1])
        letters.append(set(np.unique(part.inputs).tolist()))
    # Each letter is a file: no file is in two parts.
    assert sum(map(len, letters)) == len(set.union(*letters)) == 8 and list(map(len, letters)) == [5, 1, 2]
    assert data.load(again(source)).fingerprint == dataset.fingerprint


def test_text_of_one_file_is_split_by_position(tmp_path):
    (tmp_path / "a.txt").write_bytes(bytes(range(200)))
    dataset = data.load(data.Text(str(tmp_path / "a.txt"), window=4, split="positions"))
    ends = [(int(part.inputs.min()), int(part.targets.max())) for part in dataset[1:4]]
    assert ends == [(0, 160), (162, 178), (180, 196)]


def test_a_file_of_two_patterns_is_read_once(tmp_path):
    texts(tmp_path)
    (tmp_path / "link.txt").symlink_to(tmp_path / "d0" / "0.txt")
    twice = data.Text((str(tmp_path / "*" / "*.txt"), str(tmp_path)), window=5)
    assert 30 < sum(data.load(twice).sizes) <= sum(range(20, 28)) / 5


def test_the_standard_library_is_a_corpus():
    raw = data.Text(corpus="stdlib", window=512).read()
    joined = {part: split.inputs.tobytes() for part, split in raw.splits.items()}
    assert min(map(len, joined.values())) > 100_000 and b"import" in joined["test"]
    assert not list(data.Text(corpus="stdlib").paths())


def parquet(path, metadata=None, **columns):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    built = pa.table(columns)
    pq.write_table(built.replace_schema_metadata(metadata) if metadata else built, path)
    return path


def test_parquet_files_of_the_hub(tmp_path):
    label = {"_type": "ClassLabel", "names": list("abcde")}
    info = {b"huggingface": json.dumps({"info": {"features": {"label": label}}}).encode()}
    columns = {"label": Y[:20].tolist(), "x": X[:20].tolist(), "extra": ["text"] * 20}
    for i in range(2):
        parquet(tmp_path / "data" / f"train-0000{i}-of-00002.parquet", info, **columns)
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", info, **columns)
    source = data.HuggingFace(path=str(tmp_path), inputs="x", targets="label")
    dataset = data.load(again(source))
    assert dataset.sizes == (36, 4, 20) and dataset.num_classes == 5
    np.testing.assert_array_equal(dataset.test.inputs, X[:20])
    several = dataclasses.replace(source, inputs=("x", "label")).read().splits["test"].inputs
    assert several.keys() == {"x", "label"}


def test_a_parquet_file_of_images(tmp_path):
    import io

    encoded = []
    for i in range(10):
        buffer = io.BytesIO()
        Image.new("RGB", (4, 3), (i, 2 * i, 3 * i)).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    file = parquet(tmp_path / "all.parquet", image=encoded, label=list(range(10)))
    dataset = data.load(data.HuggingFace(path=str(file), inputs="image", targets="label", flip=True))
    assert dataset.sizes == (7, 1, 2) and dataset.train.inputs.shape[1:] == (3, 4, 3)
    assert all(x[0, 0].tolist() == [y, 2 * y, 3 * y] for x, y in zip(*dataset.train[:2], strict=True))


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="says what is missing without it")
def test_the_hub_names_its_extra():
    with pytest.raises(ConfigError) as caught:
        data.HuggingFace("a/b", inputs="x", targets="y").validate()
    assert caught.value.field == "data.name" and "jopt[huggingface]" in caught.value.accepted


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A set of two features in a dictionary, a vector and a class, as TFDS prepares it without TensorFlow."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("prepared")
    features = {
        "sensors": {"a": tfds.features.Tensor(shape=(3,), dtype=np.float32), "b": tfds.features.Scalar(np.int32)},
        "kind": tfds.features.ClassLabel(names=["p", "q", "r", "s"]),
        "text": tfds.features.Text(),
    }

    class Sensors(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = {}  # noqa: RUF012

        def _info(self):
            described = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=described, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"fit": self._generate_examples(0, 30), "held": self._generate_examples(30, 40)}

        def _generate_examples(self, first, last):
            for i in range(first, last):
                yield i, {"sensors": {"a": X[i], "b": i}, "kind": int(Y[i]), "text": "t"}

    builder = Sensors(data_dir=str(root), file_format="array_record")
    builder.download_and_prepare(file_format="array_record")
    return str(builder.data_path)


def test_any_prepared_directory(prepared):
    source = data.Tfds(directory=prepared, inputs="sensors/a", targets="kind", splits=("fit", "", "held"))
    dataset = data.load(again(source))
    assert dataset.sizes == (27, 3, 10) and dataset.num_classes == 4 and dataset.name == "1.0.0"
    assert rows(dataset.test) == rows(data.Split(X[30:], Y[30:]))
    several = dataclasses.replace(
        source, inputs=("sensors/a", "sensors/b"), targets="sensors/a", splits=("fit", "", "")
    )
    raw = several.read()
    assert raw.num_classes is None and raw.splits["train"].inputs["sensors/b"].dtype == np.int32
    assert len(raw.splits["test"].targets) == 6  # held out
    for fields, field in (
        ({"inputs": "sensors/c"}, "inputs"),
        ({"targets": "kind/x"}, "targets"),
        ({"inputs": "", "targets": ""}, "inputs"),
        ({"splits": ("train", "", "")}, "splits"),
    ):
        with pytest.raises(ConfigError) as caught:
            dataclasses.replace(source, **fields).read()
        assert caught.value.field == f"data.{field}"
    with pytest.raises(data.DataError) as refused:
        dataclasses.replace(source, inputs="text").read()
    assert "'text'" in refused.value.field and refused.value.accepted == "numbers"


@pytest.mark.parametrize("name", ["pairs", "three", "named", "unsplit", "dataset", "raw"])
def test_a_function_of_one_s_own(name):
    source = data.Custom(f"own_sets:{name}", options={"n": 20})
    source.validate()
    dataset = data.load(again(source))
    assert dataset.num_classes == 2 and dataset.train.inputs.dtype == np.float32 and dataset.name == name
    held = sum(dataset.sizes) - len(dataset.test.targets)
    assert held == {"three": 23, "unsplit": 16}.get(name, 20)
    function = data.load(data.Custom(getattr(own_sets, name), options={"n": 20}))
    assert function.fingerprint == dataset.fingerprint


def test_a_data_set_that_is_not_normalized_stays_so():
    source = data.Custom("own_sets:dataset", options={"normalize": False})
    with pytest.raises(ConfigError) as caught:
        data.load(source)
    assert caught.value.field == "data.normalize"
    assert data.load(dataclasses.replace(source, normalize=False)).mean is None


def test_preprocessing_and_augmentation_are_functions(tmp_path):
    source = data.Custom("own_sets:pairs", preprocess="own_sets:doubled", augmentation=own_sets.halved)
    plain, doubled = data.load(data.Custom("own_sets:pairs")), data.load(source)
    np.testing.assert_array_equal(doubled.train.inputs, plain.train.inputs * 2)
    x = jax.numpy.ones((2, 3))
    assert source.varies and data.varied(source, keys.root(0), x).tolist() == [[0.5] * 3] * 2
    with pytest.raises(ValueError, match="keep shapes"):
        data.varied(dataclasses.replace(source, augmentation="own_sets:shortened"), keys.root(0), x)


def test_a_small_study_of_every_kind_of_set(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    texts(tmp_path / "t")
    sources = [
        data.Arrays(str(tmp_path / "a.npz")),
        data.Csv(
            table(tmp_path / "a.csv", TABLE + 3 * TABLE.partition("\n")[2]), target="city", categorical=("city",)
        ),
        data.Text(str(tmp_path / "t"), window=4),
        data.Custom("own_sets:pairs"),
    ]
    for source in sources:
        small, large = (data.load(dataclasses.replace(source, train_examples=n)) for n in (3, 6))
        assert (small.sizes[0], large.sizes[0]) == (3, 6) and small.sizes[1:] == large.sizes[1:]
