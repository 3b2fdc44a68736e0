"""The command-line apps: flags and wiring only."""
