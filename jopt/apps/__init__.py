"""The command line: `jopt train`, `jopt ablate` and the others, as `jopt --help` lists them.

A command is a module: its flags are in `FLAGS`, and `main` runs it. Its module imports nothing that `--help` does
not need: JAX, and whatever uses it, is imported inside `main`.
"""
