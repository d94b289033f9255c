"""Export to what runtimes read; one file a target."""

from lilliput.export.targets import Exported, Target, export, targets
from lilliput.registry import discover

discover(__name__, __path__)

__all__ = ["Exported", "Target", "export", "targets"]
