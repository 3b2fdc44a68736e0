"""`python -m experiments.inspect`: the command `jopt inspect` (jopt/apps/inspect.py), from a checkout."""

import sys

from jopt.apps.launch import launch

if __name__ == "__main__":
    launch("inspect", sys.argv[1:], "python -m experiments.inspect")
