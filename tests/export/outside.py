"""Run by itself, in a directory of exported files: artefacts without jopt, then the card's own code.

python outside.py WHERE        reads WHERE/*.npy and WHERE/card.py, writes WHERE/outputs.npz
"""

import sys
from pathlib import Path


class Blocked:
    """Finds no jopt."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "jopt":
            raise ModuleNotFoundError(f"{name} is blocked here")


def main(where: Path) -> None:
    import numpy as np

    block = Blocked()
    sys.meta_path.insert(0, block)
    from jax import export

    outputs = {}
    for artefact in sorted(Path().glob("*.stablehlo")):
        call = export.deserialize(bytearray(artefact.read_bytes())).call
        for inputs in sorted(where.glob("*.npy")):
            outputs[f"{artefact.stem}/{inputs.stem}"] = np.asarray(call(np.load(inputs)))
    assert not [name for name in sys.modules if name.partition(".")[0] == "jopt"]
    np.savez(where / "outputs.npz", **outputs)
    sys.meta_path.remove(block)
    import jopt.export  # noqa: F401 - which must not bring these along

    heavy = ("jax2onnx", "matplotlib", "onnx", "onnxruntime", "plotly", "safetensors", "tensorflow")
    assert not [name for name in heavy if name in sys.modules]
    exec(compile((where / "card.py").read_text(), "card.py", "exec"), {})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
