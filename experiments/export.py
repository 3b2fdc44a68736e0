"""`python -m experiments.export`: the command `jopt export` (jopt/apps/export.py), from a checkout."""

import sys

from jopt.apps.launch import launch

if __name__ == "__main__":
    launch("export", sys.argv[1:], "python -m experiments.export")
