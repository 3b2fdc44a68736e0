"""A small CIFAR-10 archive in the layout of the true one, put where TFDS looks for its download."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PER_FILE = 20


def examples(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels [n] and images [n, 3, 32, 32], channels first as in the file, of batch file `index` (5: test)."""
    rng = np.random.RandomState(index)
    labels = (np.arange(PER_FILE) % 10).astype(np.uint8)
    return labels, rng.randint(0, 256, (PER_FILE, 3, 32, 32)).astype(np.uint8)


def files() -> dict[str, bytes]:
    """The archive's members: records of 1 label byte and 3072 pixel bytes, and the class names."""
    members = {"batches.meta.txt": ("\n".join(NAMES) + "\n").encode()}
    for index in range(6):
        labels, images = examples(index)
        name = f"data_batch_{index + 1}.bin" if index < 5 else "test_batch.bin"
        members[name] = np.concatenate([labels[:, None], images.reshape(PER_FILE, -1)], axis=1).tobytes()
    return {f"cifar-10-batches-bin/{name}": content for name, content in members.items()}


def plant(data_dir: Path, extracted: bool) -> None:
    """Puts the archive where TFDS keeps a download that it has verified; or what it extracts from it."""
    from tensorflow_datasets.core.download import checksums, resource

    checksum = checksums.get_all_url_infos()[URL].checksum
    name = resource.get_dl_fname(URL, checksum)
    if extracted:
        for member, content in files().items():
            path = data_dir / "downloads" / "extracted" / f"TAR_GZ.{name}" / member
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    archive = data_dir / "downloads" / "cifar10" / name
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        for member, content in files().items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    info = {"urls": [URL], "dataset_names": ["cifar10"], "original_fname": "cifar-10-binary.tar.gz"}
    archive.with_suffix(archive.suffix + ".INFO").write_text(json.dumps(info))


def expected(split: str) -> dict[bytes, int]:
    """Image bytes (h, w, c) -> label."""
    out = {}
    for index in range(5) if split == "train" else [5]:
        labels, images = examples(index)
        for label, image in zip(labels, images, strict=True):
            out[image.transpose(1, 2, 0).tobytes()] = int(label)
    return out
