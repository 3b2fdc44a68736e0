"""Foreign directories: finished runs and ablations whose files name code that lies in them.

Attacks are built below the current directory, which `python -m` puts on the search path of modules.
"""

import json
import shutil
from pathlib import Path

PAYLOAD = """
import pathlib

pathlib.Path({mark!r}).write_text("this file's code was run")


class Pwn:
    pass


def make(*args, **kwargs):
    return None
"""
MARK = "PWNED"
ATTACKS = (
    *("data inside", "data outside", "data beside", "data by a link", "data in old form"),
    *("data by dots", "data by another config", "data in the run", "data above", "method", "function"),
)


def build(run: Path, root: Path, attack: str) -> Path:
    """A copy of the run in `root`, with one of `ATTACKS`; returns its path relative to `root`."""
    names = {"data beside": "mnist", "data above": "mnist/9.9.9"}
    name = Path("runs") / names.get(attack, "evil")
    shutil.copytree(run, root / name)
    (root / name / "payload.py").write_text(PAYLOAD.format(mark=str(root / MARK)))
    module = ".".join(name.parts)
    config = json.loads((root / name / "config.json").read_text())
    if attack == "method":
        config["stages"][0]["methods"] = [{"class": f"{module}.payload:Pwn"}]
    elif attack == "function":
        config["optimizer"]["name"] = f"{module}.payload:make"
    else:
        data_set = {"data by dots": "mnist/..:9.9.9", "data in the run": "mnist/../evil:9.9.9"}.get(
            attack, "mnist:9.9.9"
        )
        read_from = _data(root, name, attack, f"{module}.payload.Pwn")
        config["data"] = {"class": "jopt.data:Tfds", "name": data_set, "data_dir": read_from}
    (root / name / "config.json").write_text(json.dumps(config))
    return name


def _data(root: Path, run: Path, attack: str, python_class: str) -> str:
    """Files of a prepared set that name a feature class; returns what `data_dir` says."""
    sets, runs = Path("sets"), Path("runs")
    folder = {"data outside": sets, "data in old form": sets, "data by dots": sets, "data by another config": sets}
    folder |= {"data beside": runs, "data in the run": runs, "data above": runs}
    data_dir = folder.get(attack, run / "data")
    # As TFDS joins names: neither a config of dots nor the config in its metadata.json need be a name.
    below = {"data by dots": "9.9.9", "data by another config": "9.9.9", "data in the run": "evil/9.9.9"}
    version = root / data_dir / below.get(attack, "mnist/9.9.9")
    version.mkdir(parents=True, exist_ok=True)
    (root / data_dir / "mnist").mkdir(exist_ok=True)
    if attack == "data by another config":
        (root / data_dir / "mnist" / ".config").mkdir()
        (root / data_dir / "mnist" / ".config" / "metadata.json").write_text('{"default_config_name": ".."}')
    info = {"name": "mnist", "version": "9.9.9", "fileFormat": "array_record"}
    (version / "dataset_info.json").write_text(json.dumps(info))
    # As TFDS writes it, and nested in JSON in JSON, as it also reads it.
    features: dict = {"pythonClassName": python_class, "tensor": {}}
    if attack == "data in old form":
        nested = json.dumps({"image": {"type": python_class, "content": {}}})
        name = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
        features = {"python_class_name": name, "json_feature": {"json": nested}}
    (version / "features.json").write_text(json.dumps(features))
    if attack == "data by a link":
        (root / "link").symlink_to(root / data_dir, target_is_directory=True)
        return "link"
    return str(data_dir)
