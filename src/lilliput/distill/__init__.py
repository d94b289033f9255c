"""Distillation: a small network learns from a large one, or from its own uncompressed self."""

from lilliput.distill.combine import Scheduled, Sum
from lilliput.distill.contract import Distillation, Feature, Response, Seen, Turn
from lilliput.distill.contrast import Contrast
from lilliput.distill.ensemble import Ensemble
from lilliput.distill.feature import Attention, Factors, Flow, Hints, Similarity
from lilliput.distill.inversion import synthesize
from lilliput.distill.lesson import Lesson
from lilliput.distill.relation import Angle, Correlation, Distance
from lilliput.distill.response import Dist, Dkd, Hinton, Mutual, Standardized
from lilliput.distill.review import Review
from lilliput.distill.taps import Scene, Survey, survey
from lilliput.registry import discover

discover(__name__, __path__)

__all__ = [
    "Angle",
    "Attention",
    "Contrast",
    "Correlation",
    "Dist",
    "Distance",
    "Distillation",
    "Dkd",
    "Ensemble",
    "Factors",
    "Feature",
    "Flow",
    "Hinton",
    "Hints",
    "Lesson",
    "Mutual",
    "Response",
    "Review",
    "Scene",
    "Scheduled",
    "Seen",
    "Similarity",
    "Standardized",
    "Sum",
    "Survey",
    "Turn",
    "survey",
    "synthesize",
]
