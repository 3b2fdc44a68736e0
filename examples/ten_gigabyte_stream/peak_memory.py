"""Runs a command and prints the largest memory that it had: python peak_memory.py jopt train ..."""

import resource
import subprocess
import sys

status = subprocess.call(sys.argv[1:])
print(f"peak memory: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20:.2f} GiB")
sys.exit(status)
