"""What is fuzzed: packed files, every file of the directories that jopt reads, and the texts of flags."""

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jopt import ablate, address, codec, files, start, train
from jopt.ablate import budget, load_trial
from jopt.ablate.budget.files import SearchDir, read_round
from jopt.ablate.files import AblationDir
from jopt.ablate.trials import trials
from jopt.codec.container import join
from jopt.config import ConfigError
from jopt.report.observer import Silent
from jopt.rules import RuleError
from jopt.train import packed, snapshot
from jopt.train.workdir import Launch, Workdir, WorkdirError
from tests import tiny
from tests.codec.fuzz import corpus
from tests.fuzzing.engine import Target
from tests.fuzzing.mutation import (
    NESTED,
    change_bytes,
    change_json,
    change_text,
    smaller_bytes,
    smaller_json,
    smaller_text,
)

# Of a hundred inputs, roughly: most where reading is fast.
SHARES = {
    "packed files": 60,
    "packed model": 0.2,
    "config.json": 8,
    "result.json": 0.2,
    "manifest.json": 0.2,
    "metrics.jsonl": 8,
    "ablation.json": 0.5,
    "chunk result": 3,
    "chunk.json": 3,
    "search.json": 5,
    "trials.csv": 0.5,
    "checkpoint metadata": 5,
    "checkpoint": 0.1,
    "flags": 0.5,
    "budgets": 3,
    "values": 3,
    "safetensors": 5,
    "safetensors index": 1,
    "npz": 5,
}
CLEAR = (ConfigError, RuleError, WorkdirError, codec.CodecError, packed.PackedError, snapshot.CheckpointError)
MAX_BYTES = 1 << 22


class Parts(NamedTuple):
    """A packed file in parts: the checksums of the whole are right where `damaged` is None."""

    header: bytes
    sections: tuple[bytes, ...]
    damaged: bytes | None = None

    @property
    def data(self) -> bytes:
        """The file."""
        return join(self.header, list(self.sections)) if self.damaged is None else self.damaged


def packed_files() -> Target[Parts]:
    """Files of the codec; most with right checksums, so that the readers behind them are reached."""

    def mutate(rng: random.Random, value: Parts, other: Parts) -> Parts:
        if rng.random() < 0.05:
            return value._replace(damaged=change_bytes(rng, value.data, other.data))
        value = value._replace(damaged=None)
        number = rng.randint(-1, len(value.sections) - 1)
        if number < 0:
            return value._replace(header=change_bytes(rng, value.header, other.header))
        sections = list(value.sections)
        donor = rng.choice(other.sections) if other.sections else other.header
        sections[number] = change_bytes(rng, sections[number], donor)
        return value._replace(sections=tuple(sections))

    def read(value: Parts) -> str:
        data = value.data
        try:
            file = codec.decode(data, max_bytes=MAX_BYTES)
        except codec.CodecError as error:
            assert error.where.startswith("file"), error
            return "error"
        assert file.ledger.total == len(data), "the ledger's sum is not the file's length"
        return "read"

    def parts(value: Parts) -> Iterator[Parts]:
        for i, section in enumerate(value.sections):
            for smaller in smaller_bytes(section):
                yield value._replace(sections=(*value.sections[:i], smaller, *value.sections[i + 1 :]))
        yield from (value._replace(header=smaller) for smaller in smaller_bytes(value.header))

    # The long ones have no line of code of their own.
    cases = [case for case in corpus() if len(case.data) < 2000]
    return Target([Parts(case.header, tuple(case.sections)) for case in cases], mutate, read, parts)


class Document(NamedTuple):
    """A file of JSON, or of a row of JSON a line, or of anything else if `raw` is given."""

    value: Any
    raw: bytes | None = None


def encode(document: Document, lines: bool = False) -> bytes:
    """The bytes of the file."""
    if document.raw is not None:
        return document.raw
    if lines and isinstance(document.value, list):
        return b"".join(json.dumps(row).encode() + b"\n" for row in document.value)
    return json.dumps(document.value).encode()


def documents(
    seeds: Sequence[Any], read: Callable[[bytes], str], lines: bool = False, sealed: bool = False
) -> Target[Document]:
    """Files of JSON; where a checksum seals them, it is mostly computed again, as somebody who means harm would."""

    def mutate(rng: random.Random, document: Document, other: Document) -> Document:
        if rng.random() < 0.15:
            raw = change_bytes(rng, encode(document, lines), encode(other, lines))
            return document._replace(raw=b"[" * NESTED + raw if rng.random() < 0.02 else raw)
        value = change_json(rng, document.value, other.value)
        if sealed and isinstance(value, dict) and rng.random() < 0.8:
            with contextlib.suppress(ValueError):
                value = files.seal({k: v for k, v in value.items() if k != files.CHECKSUMS})
        return Document(value)

    def parts(document: Document) -> Iterator[Document]:
        if document.raw is not None:
            return (Document(None, raw) for raw in smaller_bytes(document.raw))
        return (Document(value) for value in smaller_json(document.value))

    return Target([Document(seed) for seed in seeds], mutate, lambda d: read(encode(d, lines)), parts)


def _outcome(read: Callable[[], object]) -> str:
    try:
        read()
    except CLEAR:
        return "error"
    return "read"


def _replacing(path: Path, read: Callable[[], object]) -> Callable[[bytes], str]:
    """Reads a directory with other content in one of its files."""
    original = path.read_bytes()

    def outcome(content: bytes) -> str:
        path.write_bytes(content)
        try:
            return _outcome(read)
        finally:
            path.write_bytes(original)

    return outcome


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def directories(scratch: Path) -> dict[str, Target[Any]]:
    """A target for every file of a run, of an ablation and of a search that is read again."""
    run, grid = scratch / "run", scratch / "grid"
    config, ablation = tiny.smallest_experiment(epochs=1), tiny.tiny_ablation()
    train.run(config, run)
    ablate.run(ablation, grid, quiet=True)
    chunk = min((grid / "chunks").iterdir())
    search = _search(scratch / "search", grid)
    workdir, grid_dir = Workdir(run), AblationDir(grid)
    all_trials = trials(ablation)
    first = all_trials[0].id

    facts = _json(workdir.manifest)

    def admit() -> None:
        Launch(workdir, facts).admit(accept=False)
        relaunch()

    def relaunch() -> None:
        train.run(config, run, observer=_Reading())

    def read_grid() -> None:
        grid_dir.check_same(grid_dir.recorded() or {}, ablation, all_trials)
        load_trial(grid, first)

    def read_chunks() -> None:
        grid_dir.done()
        grid_dir.under_way({trial.id for trial in all_trials})

    def target(path: Path, read: Callable[[], object], lines: bool = False, sealed: bool = False):
        text = path.read_text().splitlines()
        seeds = [[json.loads(row) for row in text] if lines else _json(path)]
        return documents(seeds, _replacing(path, read), lines, sealed)

    # Without a result, so that the chunk counts as interrupted.
    interrupted = grid / "chunks" / "interrupted"
    interrupted.mkdir()
    shutil.copy(chunk / "chunk.json", interrupted)
    return {
        "config.json": target(workdir.config, workdir.load_config),
        "result.json": target(workdir.result, relaunch, sealed=True),
        "manifest.json": target(workdir.manifest, admit),
        "metrics.jsonl": target(workdir.metrics, workdir.load_rows, lines=True),
        "ablation.json": target(grid_dir.ablation, read_grid),
        "chunk result": target(chunk / "result.json", read_chunks, sealed=True),
        "chunk.json": target(interrupted / "chunk.json", read_chunks, sealed=True),
        "search.json": target(search.search, lambda: search.recorded({"name": "a", "seeds": (1, 2)})),
        "trials.csv": _table(search, ablation, all_trials),
        "checkpoint metadata": _metadata(run),
        "checkpoint": _checkpoint(run),
        "packed model": _packed_model(workdir.packed),
    }


class _Reading(Silent):
    """An observer that computes what would be shown."""

    def finished(self, parts: Callable[[], object]) -> None:
        parts()


def _search(path: Path, grid: Path) -> SearchDir:
    """A search's directory with one finished round."""
    path.mkdir()
    shutil.copytree(grid, path / "round_0")
    search = SearchDir(path)
    search.write({"name": "a", "seeds": (1, 2)}, {"status": "finished", "rounds": [{"name": "round_0"}]})
    return search


def _table(search: SearchDir, ablation: ablate.Ablation, all_trials: Sequence[Any]) -> Target[Document]:
    files_of_round = search.round("round_0")
    path = files_of_round.trials
    read = _replacing(path, lambda: read_round(files_of_round, ablation, all_trials))
    whole = path.read_bytes()

    def mutate(rng: random.Random, document: Document, other: Document) -> Document:
        return Document(None, change_bytes(rng, document.raw or b"", other.raw or b""))

    def parts(document: Document) -> Iterator[Document]:
        return (Document(None, raw) for raw in smaller_bytes(document.raw or b""))

    return Target([Document(None, whole)], mutate, lambda d: read(encode(d)), parts)


def _newest(run: Path) -> Path:
    return max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))


def _metadata(run: Path) -> Target[Document]:
    newest = _newest(run)
    path = newest / "_CHECKPOINT_METADATA"
    read = _replacing(path, lambda: (snapshot.rank(newest), snapshot.find_damage(newest)))
    return documents([_json(path)], read)


def _checkpoint(run: Path) -> Target[tuple[str, bytes]]:
    """Every file of a checkpoint, read as a resume reads it: slow, as Orbax and TensorStore do most of it."""
    newest = _newest(run)
    names = sorted(path.relative_to(newest).as_posix() for path in newest.rglob("*") if path.is_file())
    originals = {name: (newest / name).read_bytes() for name in names}
    prepared = train.prepare(Workdir(run).load_config())
    like = prepared.like(0)

    def mutate(rng: random.Random, value: tuple[str, bytes], other: tuple[str, bytes]) -> tuple[str, bytes]:
        return value[0], change_bytes(rng, value[1], other[1])

    def read(value: tuple[str, bytes]) -> str:
        name, content = value
        (newest / name).write_bytes(content)
        try:
            return _outcome(lambda: snapshot.read(newest, like))
        finally:
            (newest / name).write_bytes(originals[name])

    def parts(value: tuple[str, bytes]) -> Iterator[tuple[str, bytes]]:
        return ((value[0], smaller) for smaller in smaller_bytes(value[1]))

    return Target(list(originals.items()), mutate, read, parts)


def _packed_model(path: Path) -> Target[Document]:
    """The metadata of a packed model, from which its network is built."""
    file = codec.read(path)
    damaged = path.with_name("damaged.jopt")

    def read(content: bytes) -> str:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            # What the codec refuses to write is refused as a file of bytes, by another target.
            metadata = json.loads(content)
            damaged.write_bytes(codec.encode(file.params, model_state=file.model_state, metadata=metadata).data)
            return _outcome(lambda: packed.load(damaged))
        return "no file"

    return documents([file.metadata], read)


FLAGS = (
    ("stages[0].methods", "()"),
    ("optimizer.learning_rate", "3e-3"),
    ("learning_rate", "1e-2"),
    ("model.features", "(300, 100)"),
    ("model.name", "mlp"),
    ("stages[0].name", "dense"),
    ("data.shape", "(3, 3, 1)"),
    ("ema_decay", "None"),
    ("pack", "true"),
    ("seed", "7"),
)


def flag_texts() -> Target[tuple[str, str]]:
    """Overrides, `--config.ADDRESS=VALUE`."""
    from jopt.apps.config_flag import overridden

    config = tiny.smallest_experiment()

    def mutate(rng: random.Random, value: tuple[str, str], other: tuple[str, str]) -> tuple[str, str]:
        name, text = value
        if rng.random() < 0.5:
            return change_text(rng, name, other[0]), text
        return name, change_text(rng, text, other[1])

    def read(value: tuple[str, str]) -> str:
        def check() -> None:
            train.validate(overridden(config, {value[0]: value[1]}))

        return _outcome(check)

    def parts(value: tuple[str, str]) -> Iterator[tuple[str, str]]:
        yield from ((name, value[1]) for name in smaller_text(value[0]))
        yield from ((value[0], text) for text in smaller_text(value[1]))

    return Target(FLAGS, mutate, read, parts)


def budgets() -> Target[str]:
    """Budgets of a search."""
    seeds = ("accuracy_drop<0.5, bytes<20kB", "latency_ms<3", "bytes<1e6")
    return Target(seeds, change_text, lambda text: _outcome(lambda: budget.parse(text)), smaller_text)


def literals() -> Target[str]:
    """Values of flags."""
    seeds = tuple(text for _, text in FLAGS)
    return Target(seeds, change_text, lambda text: _outcome(lambda: address.parse(text)), smaller_text)


def weights(scratch: Path) -> dict[str, Target[Document]]:
    """Files that a run may start from."""
    directory = scratch / "weights"
    directory.mkdir()
    shard, index, table = (directory / name for name in ("a.safetensors", "a.safetensors.index.json", "a.npz"))
    arrays = {"fc.weight": np.ones((2, 3), np.float32), "fc.bias": np.zeros(2, np.float16)}
    header, offset = {}, 0
    for name, array in arrays.items():
        offsets = [offset, offset + array.nbytes]
        header[name] = {"dtype": f"F{8 * array.itemsize}", "shape": list(array.shape), "data_offsets": offsets}
        offset += array.nbytes
    data = b"".join(array.tobytes() for array in arrays.values())

    def write_shard(text: bytes) -> None:
        shard.write_bytes(len(text).to_bytes(8, "little") + text + data)

    def read(path: Path) -> None:
        for array in start.read(path).arrays.values():
            array.copy()

    def read_shard(text: bytes) -> str:
        write_shard(text)
        return _outcome(lambda: read(shard))

    def read_index() -> None:
        write_shard(json.dumps(header).encode())
        read(index)

    index.write_text(json.dumps({"weight_map": dict.fromkeys(arrays, shard.name)}))
    np.savez(table, **arrays)
    content = Document(None, table.read_bytes())
    return {
        "safetensors": documents([header], read_shard),
        "safetensors index": documents([_json(index)], _replacing(index, read_index)),
        "npz": documents([None], _replacing(table, lambda: read(table)))._replace(seeds=[content]),
    }


def all_targets(scratch: Path) -> dict[str, Target[Any]]:
    """Every target by name; their directories are made in `scratch`."""
    return {
        "packed files": packed_files(),
        **directories(scratch),
        "flags": flag_texts(),
        "budgets": budgets(),
        "values": literals(),
        **weights(scratch),
    }
