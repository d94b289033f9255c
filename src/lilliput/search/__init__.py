"""Finding the recipe for a budget."""

from lilliput.search.budget import Budget, Limit, Proposal, Tried, propose
from lilliput.search.rate import Packed, pack

__all__ = ["Budget", "Limit", "Packed", "Proposal", "Tried", "pack", "propose"]
