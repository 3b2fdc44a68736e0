"""What an executor is: an object that runs the chunks of a grid somewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, NamedTuple, Protocol

from jopt.ablate.executors.crew import Work
from jopt.ablate.files import AblationDir
from jopt.ablate.plan import GroupPlan


class Context(NamedTuple):
    """What an executor knows before it starts anything.

    Attributes:
      files: of the ablation; this process has its lock.
      plans: one for each group.
      trusted: as in `jopt.ablate.run`.
      modules: those that the grid's config names.
      warn: receives sentences.
    """

    files: AblationDir
    plans: Sequence[GroupPlan]
    trusted: bool
    modules: Sequence[str]
    warn: Callable[[str], None]


class Runner(Protocol):
    """An executor that is ready for a grid."""

    @property
    def workers(self) -> int | None:
        """How many chunks can run at once; None leaves the chunks as they are planned for this process."""
        ...

    def run(self, work: Work) -> None:
        """Runs every chunk; each leaves `result.json` in its directory, or an error is raised."""
        ...


class Executor(Protocol):
    """Runs the chunks of a grid. The session plans them, and reads their results from the directory.

    Attributes:
      name: for errors and reports.
      devices: devices of one worker; None: chunks run in this process, on its devices. With a number the workers
        are other processes, which get text only.
    """

    name: ClassVar[str]

    @property
    def devices(self) -> int | None:
        """Devices of one worker; None: the chunks run in this process."""
        ...

    def running(self, context: Context) -> AbstractContextManager[Runner]:
        """What runs the chunks; at the end of the context no worker is left."""
        ...
