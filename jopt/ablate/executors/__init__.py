"""Executors: where the chunks of a grid run. All of them leave the same tables."""

from jopt.ablate.executors.crew import Work as Work
from jopt.ablate.executors.kind import Context as Context
from jopt.ablate.executors.kind import Executor as Executor
from jopt.ablate.executors.kind import Runner as Runner
from jopt.ablate.executors.local import Local as Local
from jopt.ablate.executors.ray import Ray as Ray
from jopt.ablate.executors.slurm import Slurm as Slurm
from jopt.machines import ChunkError as ChunkError
from jopt.machines import ExecutorError as ExecutorError
