"""What `python -m experiments.benchmark` measures: training steps, their share of the matmul rate, masks, start."""
