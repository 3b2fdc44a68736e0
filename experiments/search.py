"""`python -m experiments.search`: the command `jopt search` (jopt/apps/search.py), from a checkout."""

import sys

from jopt.apps.launch import launch

if __name__ == "__main__":
    launch("search", sys.argv[1:], "python -m experiments.search")
