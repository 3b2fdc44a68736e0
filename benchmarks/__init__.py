"""Speed and accuracy of jopt against named alternatives: `python -m benchmarks SUITE`, see docs/benchmarks.md."""
