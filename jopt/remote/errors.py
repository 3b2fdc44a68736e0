"""Errors of remote directories, each in one line that names the URL."""

from pathlib import Path

from jopt.train.directory import WorkdirError

_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "TokenRetrievalError",
    "DefaultCredentialsError",
    "RefreshError",
}
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}


class RemoteError(WorkdirError):
    """A remote directory cannot be used, or not any more.

    Attributes:
      url: of the directory.
      problem: what is wrong, and what to do.
      staging: the local directory that holds what was not uploaded; None if there is nothing.
    """

    def __init__(self, url: str, problem: str, staging: Path | None = None):
        self.url, self.problem, self.staging = url, problem, staging
        remedy = "" if staging is None else f"; all files are in {staging}, and the same command here uploads them"
        super().__init__(f"{url}: {problem}{remedy}")


class InUseError(RemoteError):
    """Another process uses the remote directory, or has taken it over."""


def explain(error: BaseException) -> str:
    """What an error of a store means to the user, with the store's own words."""
    text = " ".join(str(error).split()) or type(error).__name__
    if _lacks_credentials(error):
        return f"no credentials that its store accepts were found; log in with the tool of the store ({text})"
    if _is_denied(error):
        return f"its store denies the access; ask for the right to list, read, write and delete there ({text})"
    if isinstance(error, FileNotFoundError):
        return f"the bucket, or the directory above it, does not exist ({text})"
    return f"its store cannot be reached or fails ({type(error).__name__}: {text})"


def is_final(error: BaseException) -> bool:
    """Whether to ask again is of no use: it is no failure of a network, but an answer, or a defect."""
    answers = (FileExistsError, FileNotFoundError, NotImplementedError, IsADirectoryError)
    defects = (TypeError, AttributeError, NameError, AssertionError, LookupError)
    return isinstance(error, (*answers, *defects)) or _lacks_credentials(error) or _is_denied(error)


def _lacks_credentials(error: BaseException) -> bool:
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & _CREDENTIALS) or getattr(error, "code", None) == 401


def _is_denied(error: BaseException) -> bool:
    # gcsfs has an OSError without a number for it.
    return isinstance(error, PermissionError) or (isinstance(error, OSError) and str(error).startswith("Forbidden"))


def lacking(protocol: str, error: ImportError) -> str:
    """What to install for a protocol.

    Example:
      >>> lacking("gs", ImportError("Please install gcsfs to access Google Storage"))
      "needs a package that is not installed: pip install 'jopt[gcs]'"
    """
    extra = _EXTRAS.get(protocol)
    remedy = f"pip install 'jopt[{extra}]'" if extra else " ".join(str(error).split())
    return f"needs a package that is not installed: {remedy}"
