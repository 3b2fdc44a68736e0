"""What a data set would be, before anything is downloaded, prepared, read or made."""

from typing import NamedTuple


class Outline(NamedTuple):
    """A data set in numbers.

    Attributes:
      shape: of one example, in the config's layout; None where only reading the set tells.
      num_classes: as the config relabels them; None likewise.
      downloads: whether reading it would download and prepare it.
      bytes_to_make: memory that making it takes, about; 0 of a set that is read from files.
    """

    shape: tuple[int, ...] | None = None
    num_classes: int | None = None
    downloads: bool = False
    bytes_to_make: int = 0
