"""Runs commands as `python -m jopt` does, each in a fork of one process that has imported what all need.

Reads an app's name, arguments, directory, and files for its output as one line of JSON, and writes its exit status.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import sys

# No app is among them: each is executed anew, down to its flags. No device is touched, so JAX has no threads yet.
SHARED = (
    *("jopt.ablate", "jopt.train", "absl.app", "orbax.checkpoint"),
    *("plotly.io", "plotly.offline", "tensorboardX"),  # which imports PyTorch where it is installed
)
SECONDS = 300


def serve():
    """Forks for each line; returns in the children alone, with what the line asks for."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


def run(name, args, cwd, stdout, stderr):
    signal.alarm(SECONDS)
    for number, path, mode in ((0, os.devnull, os.O_RDONLY), (1, stdout, os.O_WRONLY), (2, stderr, os.O_WRONLY)):
        os.dup2(os.open(path, mode), number)
    os.chdir(cwd)
    sys.path[0] = cwd
    sys.argv = ["jopt", name, *args]
    runpy.run_module("jopt", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for module in SHARED:
        importlib.import_module(module)
    gc.freeze()  # No child looks through what it shares with the others.
    run(**serve())
