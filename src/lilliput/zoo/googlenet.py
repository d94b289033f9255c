"""GoogLeNet, the first Inception network, and its naive form.

Szegedy et al. 2014, "Going Deeper with Convolutions", arXiv:1409.4842; batch norm behind every convolution in place
of response normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167).
Tensor names are those of torchvision, so that its weights load as they are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.zoo.catalog import arch
from lilliput.zoo.inception import ConvUnit, Inception, NaiveInception, Row

PAPER = "Szegedy et al. 2014, arXiv:1409.4842"

# table 1 of the paper: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection
TABLE: dict[str, Row] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class Logits(NamedTuple):
    """What a network with auxiliary heads gives in training: its own logits, and theirs in the order of the network."""

    main: Tensor
    aux: tuple[Tensor, ...]


class AuxHead(nn.Module):
    """A classifier on a middle layer, whose loss joins the main one in training (weight 0.3 in the paper)."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.conv = ConvUnit(inputs, 128)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.fc2 = nn.Linear(1024, classes)
        self.dropout = nn.Dropout(0.7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.adaptive_avg_pool2d(x, 4)).flatten(1)
        return self.fc2(self.dropout(F.relu(self.fc1(x))))  # type: ignore[no-any-return]


class GoogLeNet(nn.Module):
    """A stem, nine Inception modules, a linear head; with `aux` it gives `Logits` in training."""

    def __init__(self, classes: int, channels: int, dropout: float, naive: bool, five: bool, aux: bool) -> None:
        super().__init__()
        self.conv1 = ConvUnit(channels, 64, 7, 2)
        self.conv2 = ConvUnit(64, 64)
        self.conv3 = ConvUnit(64, 192, 3)
        width = self._modules_of_table(192, naive, five)
        self.last_pool = 3 if five else 2
        self.aux1 = AuxHead(512, classes) if aux else None
        self.aux2 = AuxHead(528, classes) if aux else None
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width, classes)

    def _modules_of_table(self, inputs: int, naive: bool, five: bool) -> int:
        for name, row in TABLE.items():
            module = NaiveInception(inputs, row) if naive else Inception(inputs, row, five)
            self.add_module(f"inception{name}", module)
            inputs = row[0] + row[2] + row[4] + (inputs if naive else row[5])
        return inputs

    def forward(self, x: Tensor) -> Tensor | Logits:
        x = _pool(self.conv1(x))
        x = _pool(self.conv3(self.conv2(x)))
        x = _pool(self._run(x, "3a", "3b"))
        a = self._run(x, "4a")
        d = self._run(a, "4b", "4c", "4d")
        x = _pool(self._run(d, "4e"), self.last_pool)
        x = self._run(x, "5a", "5b").mean((2, 3))
        main: Tensor = self.fc(self.dropout(x))
        if self.training and self.aux1 is not None and self.aux2 is not None:
            return Logits(main, (self.aux1(a), self.aux2(d)))
        return main

    def _run(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = self.get_submodule(f"inception{name}")(x)
        return x


def _pool(x: Tensor, kernel: int = 3) -> Tensor:
    return F.max_pool2d(x, kernel, 2, ceil_mode=True)


@arch("googlenet", input=(3, 224, 224), paper=PAPER)
def googlenet(classes: int = 1000, channels: int = 3, dropout: float = 0.4, aux: bool = False, five: bool = False) -> nn.Module:
    """GoogLeNet (Inception-v1) with batch norm: 6.6 M parameters, 1.5 G multiply-adds.

    `aux` adds the two auxiliary heads; in training the network then gives `Logits(main, aux)`.
    `five` takes the paper's 5x5 kernels and last 3x3 pool (7.0 M, 1.6 G); without it the network is torchvision's.
    """
    return GoogLeNet(classes, channels, dropout, naive=False, five=five, aux=aux)


@arch("inception_naive", input=(3, 224, 224), paper=PAPER)
def inception_naive(classes: int = 1000, channels: int = 3, dropout: float = 0.4) -> nn.Module:
    """GoogLeNet of naive modules, without the 1x1 reductions: 97.5 M parameters, 12.6 G multiply-adds."""
    return GoogLeNet(classes, channels, dropout, naive=True, five=True, aux=False)
