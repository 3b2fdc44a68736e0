"""Search under a budget: which compression should I use?"""

from jopt.ablate.budget.config import Knob as Knob
from jopt.ablate.budget.config import Search as Search
from jopt.ablate.budget.estimates import PointEstimate as PointEstimate
from jopt.ablate.budget.finalists import Final as Final
from jopt.ablate.budget.limits import Limit as Limit
from jopt.ablate.budget.limits import parse as parse
from jopt.ablate.budget.result import Round as Round
from jopt.ablate.budget.result import SearchResult as SearchResult
from jopt.ablate.budget.session import search as search
