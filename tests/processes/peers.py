"""A process of a run without JAX, for tests of what its death does: INDEX COUNT PORT DEED VICTIM."""

import os
import signal
import sys
import time

from jopt import processes
from jopt.apps.signals import Stop
from jopt.processes.layout import Layout
from jopt.processes.member import Member
from jopt.processes.primary import Primary


def main():
    index, count, port = map(int, sys.argv[1:4])
    deed, victim = sys.argv[4], int(sys.argv[5])

    team = (Member if index else Primary)(Layout("127.0.0.1", port, count, index), limit=float(os.environ["LIMIT"]))
    team.open(30)
    print("met", flush=True)
    team.gather("all have said so", None)
    if index == victim:
        match deed:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "leave":
                os._exit(0)
            case "fail":
                team.fail("ConfigError: epochs must be a positive integer, got -1", 2)
                sys.exit(2)
            case "late":
                # The others wait at the end.
                time.sleep(1)
    if deed == "fail all":
        team.fail(f"ConfigError: of {index}", 2)
        sys.exit(2)
    if deed == "signal":
        # What `jopt.processes.start` does, without JAX.
        processes._team = team
        stop = Stop()
        signal.signal(signal.SIGTERM, stop.handle)
        boundaries = 0
        while not stop():
            boundaries += 1
            if index == victim and boundaries == 3:
                os.kill(os.getpid(), signal.SIGTERM)
        print(boundaries, stop.number)
    if deed == "busy":
        print("busy", flush=True)
        time.sleep(6)
    # In a barrier, or in host code that never waits.
    while deed == "kill" and index % 2:
        sum(range(1000))
    team.gather("the end", None)
    team.finish()
    print("finished", flush=True)


if __name__ == "__main__":
    main()
