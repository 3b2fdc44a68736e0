"""A request to stop, as a preempted machine makes it: finish the segment, save, and leave."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class StopRequested(RuntimeError):
    """The process was asked to stop (SIGTERM) and has saved its state."""


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[threading.Event]:
    """Within the context SIGTERM sets the event, instead of ending the process.

    Outside the main thread, where Python handles no signals, the event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, previous)
