"""Search under a budget: which compression should I use?"""

from jopt.ablate.budget.config import Knob as Knob
from jopt.ablate.budget.config import Search as Search
from jopt.ablate.budget.estimates import Estimate as Estimate
from jopt.ablate.budget.finalists import Final as Final
from jopt.ablate.budget.found import Found as Found
from jopt.ablate.budget.found import Round as Round
from jopt.ablate.budget.limits import Limit as Limit
from jopt.ablate.budget.limits import parse as parse
from jopt.ablate.budget.session import search as search
