"""`python -m jopt`: the same as the command `jopt`."""

from jopt.apps.commands import main

if __name__ == "__main__":
    main()
