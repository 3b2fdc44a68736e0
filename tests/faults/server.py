"""Runs apps with faults, each in a fork of one process that has imported what all of them import.

Started with shim.so in LD_PRELOAD. Reads an app's name, arguments, output file and fault as one line of JSON, and
writes its exit status (minus the number of the signal that ended it) and its CPU seconds.
"""

import ctypes
import gc
import importlib
import json
import os
import resource
import runpy
import signal
import sys
from pathlib import Path

from tests.experiments.forks import SHARED

ROOT = Path(__file__).parents[2]
SECONDS = 120


def serve() -> dict:
    """Forks for each line; returns in the children alone, with the job of the line."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return json.loads(line)
        _, status, usage = os.wait4(child, 0)
        seconds = round(usage.ru_utime + usage.ru_stime, 2)
        print(json.dumps([os.waitstatus_to_exitcode(status), seconds]), flush=True)
    sys.exit()


def run(app: str, arguments: list[str], output: str, below: str, fault: int, point: int, log: str) -> None:
    """Runs the app as `python -m` does, with file operations recorded and one of them faulted."""
    signal.alarm(SECONDS)
    # A core file of each process that kills itself would fill the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    printed = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    sys.argv = [app, *arguments]
    arm = ctypes.CDLL(os.environ["LD_PRELOAD"]).arm
    arm(below.encode(), fault, ctypes.c_long(point), log.encode())
    runpy.run_module(f"experiments.{app}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    os.chdir(ROOT)
    for module in (*SHARED, "jopt.export"):
        importlib.import_module(module)
    gc.freeze()  # No child looks through what it shares with the others.
    run(**serve())
