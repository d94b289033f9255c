"""Finding the recipe for a budget."""

from lilliput.search.budget import Budget, Limit, Proposal, Tried, propose

__all__ = ["Budget", "Limit", "Proposal", "Tried", "propose"]
