"""`python -m experiments.predict`: the command `jopt predict` (jopt/apps/predict.py), from a checkout."""

import sys

from jopt.apps.launch import launch

if __name__ == "__main__":
    launch("predict", sys.argv[1:], "python -m experiments.predict")
