"""Distillation: a small network learns from a large one, or from its own uncompressed self."""

from lilliput.distill.combine import Scheduled, Sum
from lilliput.distill.contract import Distillation, Feature, Response, Seen, Turn
from lilliput.distill.lesson import Ensemble, Lesson
from lilliput.distill.response import Dist, Dkd, Hinton, Mutual, Standardized
from lilliput.distill.taps import Scene, Survey, survey
from lilliput.registry import discover

discover(__name__, __path__)

__all__ = [
    "Dist",
    "Distillation",
    "Dkd",
    "Ensemble",
    "Feature",
    "Hinton",
    "Lesson",
    "Mutual",
    "Response",
    "Scene",
    "Scheduled",
    "Seen",
    "Standardized",
    "Sum",
    "Survey",
    "Turn",
    "survey",
]
