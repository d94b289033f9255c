"""Factorization: a layer becomes a short chain of cheaper layers, with ranks chosen for you."""

from lilliput.factor.chain import forms
from lilliput.factor.factorize import Factorize
from lilliput.factor.stages import stages
from lilliput.registry import discover

discover(__name__, __path__)

__all__ = ["Factorize", "forms", "stages"]
