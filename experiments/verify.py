"""`python -m experiments.verify`: the command `jopt verify` (jopt/apps/verify.py), from a checkout."""

import sys

from jopt.apps.launch import launch

if __name__ == "__main__":
    launch("verify", sys.argv[1:], "python -m experiments.verify")
