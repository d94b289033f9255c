"""Tasks: images from files, archives and arrays, decoded once, carved by a seed, and served in batches."""

from lilliput.data.augment import CropFlip
from lilliput.data.batches import Batches
from lilliput.data.images import Images
from lilliput.data.normalize import Normalization
from lilliput.data.sources import Source, open_task, sources
from lilliput.data.task import Task

__all__ = ["Batches", "CropFlip", "Images", "Normalization", "Source", "Task", "open_task", "sources"]
