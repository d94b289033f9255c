"""Pruning: channels, single weights and layers that matter least are removed."""

from lilliput.prune.channels import Channels
from lilliput.prune.criteria import criteria
from lilliput.prune.layers import Layers
from lilliput.registry import discover

discover(__name__, __path__)

__all__ = ["Channels", "Layers", "criteria"]
