"""A task and a network small enough to train inside a test."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from lilliput import zoo
from lilliput.data import Task


def stripes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey 8x8 images of three classes: rows, columns, checks, with noise; (n, 8, 8) bytes and labels."""
    draw = np.random.default_rng(seed)
    y = np.arange(count) % 3
    line = np.arange(8) % 2
    patterns = np.stack([np.tile(line[:, None], (1, 8)), np.tile(line, (8, 1)), line[:, None] ^ line])
    x = patterns[y] * 160 + draw.integers(0, 90, (count, 8, 8))
    return x.astype(np.uint8), y


def task(count: int = 120, seed: int = 0) -> Task:
    """Three classes of stripes that a network learns in a few steps."""
    return Task(stripes(count, 1), stripes(45, 2), name="stripes", augment="none", seed=seed)


def network(width: float = 0.5, classes: int = 3) -> nn.Module:
    """A narrow ResNet-8 for grey images."""
    torch.manual_seed(0)
    return zoo.create("resnet8", channels=1, classes=classes, width=width)
