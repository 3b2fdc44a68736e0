"""The former address of `jopt.ablate.budget.result`, which the display and the report import."""

from jopt.ablate.budget.result import Round as Round
from jopt.ablate.budget.result import SearchResult as Found  # noqa: F401
