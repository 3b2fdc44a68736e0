"""`python -m experiments.train`: the command `jopt train` (jopt/apps/train.py), from a checkout."""

import sys

from jopt.apps.launch import launch

if __name__ == "__main__":
    launch("train", sys.argv[1:], "python -m experiments.train")
