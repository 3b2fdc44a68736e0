"""Custom: a task by its name."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from jopt.config import ConfigError, Option, require
from jopt.reference import reference_of, resolve
from jopt.task.base import Task


@dataclasses.dataclass(frozen=True)
class Custom(Task):
    """A task that a reference names, for the command line; in Python, a task of one's own class does as well.

    Attributes:
      reference: 'package.module:name' of a class that derives from `Task`, or of a function that gives a task.
      options: its arguments.

    Example:
      >>> Custom("jopt.task:Regression", {"loss": "absolute"}).resolved()
      Regression(loss='absolute', delta=None)
    """

    name: ClassVar[str] = "custom"
    # A Callable, so that a foreign file's is looked up under the rules of trust.
    reference: str | Callable[..., Any] = ""
    options: Mapping[str, Option] = dataclasses.field(default_factory=dict)

    def validate(self, path: str = "task") -> None:
        """Checks that the task can be made of its options, and its own fields."""
        super().validate(path)
        self._made(path).validate(f"{path}.options")

    def resolved(self) -> Task:
        """The task."""
        return self._made("task")

    def _made(self, path: str) -> Task:
        target = resolve(reference_of(self.reference), f"{path}.reference")
        accepted = "a class that derives from jopt.task.Task, or a function that gives a task"
        require(callable(target), f"{path}.reference", self.reference, accepted)
        try:
            task = target(**self.options)
        except TypeError as error:
            accepted = f"arguments of {self.reference} ({error})"
            raise ConfigError(f"{path}.options", dict(self.options), accepted) from error
        require(isinstance(task, Task), f"{path}.reference", self.reference, accepted)
        return task
