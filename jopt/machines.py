"""Errors of other machines: of workers, and of what starts them. Here, as the apps know them without grids."""


class ExecutorError(RuntimeError):
    """Workers cannot be started, may not join the grid, or were lost too often.

    Attributes:
      executor: 'local', 'ray' or 'slurm', or another executor's name.
      problem: what is wrong and what to do, in one line.
    """

    def __init__(self, executor: str, problem: str):
        super().__init__(f"--executor={executor}: {' '.join(problem.split())}")
        self.executor, self.problem = executor, problem


class ChunkError(ExecutorError):
    """A chunk failed on a worker for a reason that another worker would meet too.

    Attributes:
      chunk: its id.
      host: of the worker.
      kind: the name of the error's type there.
    """

    def __init__(self, executor: str, chunk: str, host: str, kind: str, line: str):
        super().__init__(executor, f"chunk {chunk} failed on {host}: {line}")
        self.chunk, self.host, self.kind = chunk, host, kind


class WorkerDefect(RuntimeError):
    """An error of a worker that no user can fix; its text has the worker's traceback."""
