"""Pruning: channels, single weights and layers that matter least are removed."""

from lilliput.prune.channels import Channels
from lilliput.prune.criteria import criteria
from lilliput.prune.gradual import Gradual
from lilliput.prune.layers import Layers
from lilliput.prune.lottery import Rewind, lottery
from lilliput.prune.penalty import GroupLasso, Slim
from lilliput.prune.regrow import Regrow
from lilliput.prune.retrain import gradual, one_shot, regrown
from lilliput.prune.schedules import greedy, iterative
from lilliput.prune.sparsify import Sparsify
from lilliput.prune.weights import Weights
from lilliput.prune.winograd import WinogradDomain
from lilliput.registry import discover

discover(__name__, __path__)

__all__ = [
    "Channels",
    "Gradual",
    "GroupLasso",
    "Layers",
    "Regrow",
    "Rewind",
    "Slim",
    "Sparsify",
    "Weights",
    "WinogradDomain",
    "criteria",
    "gradual",
    "greedy",
    "iterative",
    "lottery",
    "one_shot",
    "regrown",
]
