"""Lilliput makes a trained convolutional network small and fast enough for the device in your hand, and proves it.

import lilliput as lp

model = lp.load("resnet20.lil")
small = lp.prune.Channels(keep=0.5)(model, lp.Look(example))
lp.profile(small, example)
lp.export(small, example, "small.onnx")
"""

from importlib.metadata import version

# Packages first: where a function has the name of its package (`export`), the function is what the name must mean.
from lilliput import distill, factor, kernels, prune, quant, zoo
from lilliput.clock import latency
from lilliput.core.method import Look
from lilliput.core.perform import bake, perform
from lilliput.core.record import edits
from lilliput.data import Task
from lilliput.evaluate import evaluate
from lilliput.export import export
from lilliput.job import compress
from lilliput.measure import profile
from lilliput.recipe import Bake, Recipe
from lilliput.search import Budget
from lilliput.store import load, save
from lilliput.train import BatchNorm, Fit, fit

from lilliput import testing  # isort: skip  # needs `export` above

__version__ = version("lilliput")
__all__ = [
    "Bake",
    "BatchNorm",
    "Budget",
    "Fit",
    "Look",
    "Recipe",
    "Task",
    "bake",
    "compress",
    "distill",
    "edits",
    "evaluate",
    "export",
    "factor",
    "fit",
    "kernels",
    "latency",
    "load",
    "perform",
    "profile",
    "prune",
    "quant",
    "save",
    "testing",
    "zoo",
]
