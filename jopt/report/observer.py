"""Observers of a run, an ablation or a search, and what keeps their failures from costing a result.

The library prints nothing. It calls an `Observer`; the default does nothing, and the apps pass a `Console`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from jopt.codec.ledger import Ledger
from jopt.report.page import Part

T = TypeVar("T")

Update = Callable[[int, str, Mapping[str, Any]], None]
"""Takes the step that was reached, the name of the stage, and metrics: see `Progress.update`."""

Shown = Part | Ledger
"""A ledger is shown as bars in characters."""


class Observer(Protocol):
    """Hears what goes on. Parts come as functions: who does not show them need not compute them."""

    def plan(self, parts: Callable[[], Sequence[Shown]]) -> None:
        """What will be run, before anything is."""
        ...

    def note(self, sentence: str) -> None:
        """An event on the way, such as a resume."""
        ...

    def warn(self, sentence: str) -> None:
        """An event that must not be overlooked."""
        ...

    def training(self, total: int, start: int = 0) -> AbstractContextManager[Update]:
        """Encloses the training of `total` steps, of which `start` are done; gives what takes the progress."""
        ...

    def finished(self, parts: Callable[[], Sequence[Shown]]) -> None:
        """The findings and the numbers, when all files are written."""
        ...


class Silent:
    """The observer that shows nothing; warnings go to the logger 'jopt'."""

    def plan(self, parts: Callable[[], Sequence[Shown]]) -> None:
        """Does nothing."""

    def note(self, sentence: str) -> None:
        """Does nothing."""

    def warn(self, sentence: str) -> None:
        """Logs the sentence."""
        logging.getLogger("jopt").warning(sentence)

    @contextlib.contextmanager
    def training(self, total: int, start: int = 0) -> Iterator[Update]:
        """Takes progress and does nothing with it."""
        yield lambda step, stage, metrics: None

    def finished(self, parts: Callable[[], Sequence[Shown]]) -> None:
        """Does nothing."""


SILENT = Silent()


class Careful:
    """Passes on what it hears; a plan, note, finding or progress that cannot be shown is a warning.

    Args:
      observer: that is told.
    """

    def __init__(self, observer: Observer):
        self._observer = observer

    def plan(self, parts: Callable[[], Sequence[Shown]]) -> None:
        """Passes on."""
        with attempt(self, "the plan cannot be shown"):
            self._observer.plan(parts)

    def note(self, sentence: str) -> None:
        """Passes on."""
        with attempt(self, "a note cannot be shown"):
            self._observer.note(sentence)

    def warn(self, sentence: str) -> None:
        """Passes on; a warning that cannot be shown goes to the logger 'jopt'."""
        try:
            self._observer.warn(sentence)
        except Exception:
            SILENT.warn(sentence)

    @contextlib.contextmanager
    def training(self, total: int, start: int = 0) -> Iterator[Update]:
        """Passes on until the observer fails, which is one warning; the training's own errors pass through."""
        failed = False

        def guarded(call: Callable[[], T]) -> T | None:
            nonlocal failed
            try:
                return call()
            except Exception:
                # Once: what fails at one step mostly fails at all of them.
                if not failed:
                    failed = True
                    with attempt(self, "the progress cannot be shown"):
                        raise
                return None

        def show(step: int, stage: str, metrics: Mapping[str, Any]) -> None:
            progress = update
            if progress is not None and not failed:
                guarded(lambda: progress(step, stage, metrics))

        # Entered and left by hand: around the `yield`, its failures could not be told from those of the training.
        manager = guarded(lambda: self._observer.training(total, start))
        update = None if manager is None else guarded(lambda: manager.__enter__())
        entered, ended = not failed, (None, None, None)
        try:
            yield show
        except BaseException:
            ended = sys.exc_info()
            raise
        finally:
            if manager is not None and entered:
                guarded(lambda: manager.__exit__(*ended))

    def finished(self, parts: Callable[[], Sequence[Shown]]) -> None:
        """Passes on."""
        with attempt(self, "the findings cannot be shown"):
            self._observer.finished(parts)


@contextlib.contextmanager
def attempt(observer: Observer, problem: str) -> Iterator[None]:
    """Makes a warning of an error inside: nothing that is shown or drawn may cost a result.

    Args:
      observer: that is warned.
      problem: how the warning begins.
    """
    try:
        yield
    except Exception as error:
        # The traceback is of use to whoever mends a report, and of none to whoever waits for a result.
        logging.getLogger("jopt").debug(problem, exc_info=True)
        observer.warn(f"{problem} ({type(error).__name__}: {' '.join(str(error).split())})")
