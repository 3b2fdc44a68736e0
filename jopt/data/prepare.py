"""Prepares a data set ahead of time: `python -m jopt.data.prepare mnist --data_dir=DIR`.

Needed on one machine only, where a set of the TFDS catalog wants TensorFlow; see docs/data.md.
"""

import argparse
import sys

from jopt.config import ConfigError
from jopt.data.cache import DataError
from jopt.data.dataset import load
from jopt.data.named import named


def main(argv: list[str] | None = None) -> int:
    """Prepares, decodes and describes one set; 0 if it is there now, 1 with a message if not.

    Example:
      >>> main(["xor"])
      xor: 4 train, 4 validation, 4 test, 2 classes, inputs [2] uint8
      0
    """
    parser = argparse.ArgumentParser(prog="python -m jopt.data.prepare", description=__doc__)
    parser.add_argument("name", help="digits, or a TFDS catalog set such as mnist or cifar10")
    parser.add_argument("--data_dir", help="default: $JOPT_DATA_DIR, else $TFDS_DATA_DIR, else ~/.cache/jopt/data")
    options = parser.parse_args(argv)
    config = named(options.name, options.data_dir)
    try:
        dataset = load(config)
    except (ConfigError, DataError) as error:
        print(error, file=sys.stderr)
        return 1
    parts = ", ".join(f"{len(getattr(dataset, s).targets)} {s}" for s in ("train", "validation", "test"))
    inputs = dataset.train.inputs
    print(f"{options.name}: {parts}, {dataset.num_classes} classes, inputs {[*inputs.shape[1:]]} {inputs.dtype}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
