"""A file system in memory whose process is killed at a chosen write, and one that does not refuse to replace."""

import threading

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class Killed(BaseException):
    """What a kill is to the code that it ends: nothing after it is executed."""


class Faulty(MemoryFileSystem):
    """Counts writes and removals; from a chosen one on none is done, as in a process that was killed there."""

    protocol = "faulty"
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    count, fatal, is_done = 0, None, False
    _lock = threading.Lock()

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("faulty://"))

    @classmethod
    def reset(cls, fatal: int | None = None, *, is_done: bool = False) -> None:
        """Begins to count again; the write `fatal` is the last one, and is done or not."""
        cls.count, cls.fatal, cls.is_done = 0, fatal, is_done

    @classmethod
    def clear(cls) -> None:
        cls.reset()
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]

    def _write(self, path, function, *args, **kwargs):
        # The words of the owner are written by time.
        if path.endswith("/alive"):
            return function(*args, **kwargs)
        with self._lock:
            number = type(self).count
            type(self).count += 1
            if self.fatal is not None and (number > self.fatal or (number == self.fatal and not self.is_done)):
                raise Killed
            result = function(*args, **kwargs)
            if number == self.fatal:
                raise Killed
            return result

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        return self._write(path, super().pipe_file, path, value, mode=mode, **kwargs)

    def rm_file(self, path):
        return self._write(path, super().rm_file, path)

    def put_file(self, lpath, rpath, *args, **kwargs):
        return self._write(rpath, super().put_file, lpath, rpath, *args, **kwargs)


class Careless(MemoryFileSystem):
    """Replaces what should have been new, as some servers do that speak S3's protocol."""

    protocol = "careless"
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("careless://"))

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        return super().pipe_file(path, value, **kwargs)


for implementation in (Faulty, Careless):
    fsspec.register_implementation(implementation.protocol, implementation, clobber=True)
