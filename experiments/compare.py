"""`python -m experiments.compare`: the command `jopt compare` (jopt/apps/compare.py), from a checkout."""

import sys

from jopt.apps.launch import launch

if __name__ == "__main__":
    launch("compare", sys.argv[1:], "python -m experiments.compare")
