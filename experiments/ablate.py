"""`python -m experiments.ablate`: the command `jopt ablate` (jopt/apps/ablate.py), from a checkout."""

import sys

from jopt.apps.launch import launch

if __name__ == "__main__":
    launch("ablate", sys.argv[1:], "python -m experiments.ablate")
