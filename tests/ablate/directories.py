"""What an ablation left behind, for the tests that compare it."""

import json

TABLES = ("trials.csv", "summary.csv", "curves.jsonl", "ablation.json")


def files(directory):
    """The bytes of all files, by their place."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def tables(directory):
    return {name: (directory / name).read_bytes() for name in TABLES}


def last_event(directory):
    return json.loads((directory / "manifest.json").read_text())["events"][-1]


def rows(directory):
    """Lines of trials.csv without the header and the group, by trial."""
    lines = (directory / "trials.csv").read_text().splitlines()[1:]
    return {line.partition(",")[0]: line for line in lines}


def curves(directory):
    by_trial = {}
    for line in (directory / "curves.jsonl").read_text().splitlines():
        by_trial.setdefault(json.loads(line)["trial"], []).append(line)
    return by_trial
