"""Errors of a run over several processes."""


class ProcessError(RuntimeError):
    """The processes of a run cannot work together; the user can fix it.

    Args:
      subject: what it is about, such as 'barrier end' or a directory.
      reason: the end of the sentence.

    Example:
      >>> print(ProcessError("jax", "differs: process 1 of 2 (b, pid 9) has '0.11.2', process 0 '0.10.2'"))
      jax differs: process 1 of 2 (b, pid 9) has '0.11.2', process 0 '0.10.2'
    """

    def __init__(self, subject: str, reason: str):
        super().__init__(f"{subject} {reason}")
        self.subject, self.reason = subject, reason

    def __reduce__(self):
        return type(self), (self.subject, self.reason)
