"""Finding the recipe for a budget."""

from lilliput.search.budget import Budget, Limit
from lilliput.search.gentle import Proposal, Tried, propose
from lilliput.search.rate import Packed, pack
from lilliput.search.remembered import Remembered
from lilliput.search.spend import Effort, Search

__all__ = ["Budget", "Effort", "Limit", "Packed", "Proposal", "Remembered", "Search", "Tried", "pack", "propose"]
