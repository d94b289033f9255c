"""Inception-v3: large kernels as chains of small and of one-dimensional ones.

Szegedy, Vanhoucke, Ioffe, Shlens, Wojna 2015, "Rethinking the Inception Architecture for Computer Vision",
arXiv:1512.00567. Tensor names are those of torchvision, so that its weights load as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.zoo.catalog import arch
from lilliput.zoo.googlenet import Logits
from lilliput.zoo.inception import ConvUnit

PAPER = "Szegedy et al. 2015, arXiv:1512.00567"


class ModuleA(nn.Module):
    """At 35x35: a 5x5 kernel as two 3x3 (figure 5). 64 + 64 + 96 + `pool` outputs."""

    def __init__(self, inputs: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = ConvUnit(inputs, 64)
        self.branch5x5_1 = ConvUnit(inputs, 48)
        self.branch5x5_2 = ConvUnit(48, 64, 5)
        self.branch3x3dbl_1 = ConvUnit(inputs, 64)
        self.branch3x3dbl_2 = ConvUnit(64, 96, 3)
        self.branch3x3dbl_3 = ConvUnit(96, 96, 3)
        self.branch_pool = ConvUnit(inputs, pool)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat((self.branch1x1(x), five, double, self.branch_pool(_mean3(x))), 1)


class ReductionA(nn.Module):
    """From 35x35 to 17x17, convolutions beside a pool (figure 10). 384 + 96 + `inputs` outputs."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = ConvUnit(inputs, 384, 3, 2, valid=True)
        self.branch3x3dbl_1 = ConvUnit(inputs, 64)
        self.branch3x3dbl_2 = ConvUnit(64, 96, 3)
        self.branch3x3dbl_3 = ConvUnit(96, 96, 3, 2, valid=True)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat((self.branch3x3(x), double, F.max_pool2d(x, 3, 2)), 1)


class ModuleB(nn.Module):
    """At 17x17: 7x7 kernels as 1x7 and 7x1 of `inner` channels (figure 6). 4·192 outputs."""

    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        self.branch1x1 = ConvUnit(inputs, 192)
        self.branch7x7_1 = ConvUnit(inputs, inner)
        self.branch7x7_2 = ConvUnit(inner, inner, (1, 7))
        self.branch7x7_3 = ConvUnit(inner, 192, (7, 1))
        self.branch7x7dbl_1 = ConvUnit(inputs, inner)
        self.branch7x7dbl_2 = ConvUnit(inner, inner, (7, 1))
        self.branch7x7dbl_3 = ConvUnit(inner, inner, (1, 7))
        self.branch7x7dbl_4 = ConvUnit(inner, inner, (7, 1))
        self.branch7x7dbl_5 = ConvUnit(inner, 192, (1, 7))
        self.branch_pool = ConvUnit(inputs, 192)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat((self.branch1x1(x), seven, double, self.branch_pool(_mean3(x))), 1)


class ReductionB(nn.Module):
    """From 17x17 to 8x8. 320 + 192 + `inputs` outputs."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvUnit(inputs, 192)
        self.branch3x3_2 = ConvUnit(192, 320, 3, 2, valid=True)
        self.branch7x7x3_1 = ConvUnit(inputs, 192)
        self.branch7x7x3_2 = ConvUnit(192, 192, (1, 7))
        self.branch7x7x3_3 = ConvUnit(192, 192, (7, 1))
        self.branch7x7x3_4 = ConvUnit(192, 192, 3, 2, valid=True)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat((three, self.branch7x7x3_4(seven), F.max_pool2d(x, 3, 2)), 1)


class ModuleC(nn.Module):
    """At 8x8: branches that fork into 1x3 and 3x1 (figure 7). 320 + 2·384 + 2·384 + 192 outputs."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch1x1 = ConvUnit(inputs, 320)
        self.branch3x3_1 = ConvUnit(inputs, 384)
        self.branch3x3_2a = ConvUnit(384, 384, (1, 3))
        self.branch3x3_2b = ConvUnit(384, 384, (3, 1))
        self.branch3x3dbl_1 = ConvUnit(inputs, 448)
        self.branch3x3dbl_2 = ConvUnit(448, 384, 3)
        self.branch3x3dbl_3a = ConvUnit(384, 384, (1, 3))
        self.branch3x3dbl_3b = ConvUnit(384, 384, (3, 1))
        self.branch_pool = ConvUnit(inputs, 192)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        forks = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        forks += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat((self.branch1x1(x), *forks, self.branch_pool(_mean3(x))), 1)


class AuxHead(nn.Module):
    """A classifier on the last 17x17 map, which acts as a regularizer. It wants a map of at least 17x17."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.conv0 = ConvUnit(inputs, 128)
        self.conv1 = ConvUnit(128, 768, 5, valid=True)
        self.fc = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.conv0(F.avg_pool2d(x, 5, 3)))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


class InceptionV3(nn.Module):
    """A stem, three modules A, four B, two C with reductions between; with `aux` it gives `Logits` in training."""

    def __init__(self, classes: int, channels: int, dropout: float, aux: bool) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvUnit(channels, 32, 3, 2, valid=True)
        self.Conv2d_2a_3x3 = ConvUnit(32, 32, 3, valid=True)
        self.Conv2d_2b_3x3 = ConvUnit(32, 64, 3)
        self.Conv2d_3b_1x1 = ConvUnit(64, 80)
        self.Conv2d_4a_3x3 = ConvUnit(80, 192, 3, valid=True)
        self.Mixed_5b = ModuleA(192, 32)
        self.Mixed_5c = ModuleA(256, 64)
        self.Mixed_5d = ModuleA(288, 64)
        self.Mixed_6a = ReductionA(288)
        self.Mixed_6b = ModuleB(768, 128)
        self.Mixed_6c = ModuleB(768, 160)
        self.Mixed_6d = ModuleB(768, 160)
        self.Mixed_6e = ModuleB(768, 192)
        self.AuxLogits = AuxHead(768, classes) if aux else None
        self.Mixed_7a = ReductionB(768)
        self.Mixed_7b = ModuleC(1280)
        self.Mixed_7c = ModuleC(2048)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048, classes)

    def forward(self, x: Tensor) -> Tensor | Logits:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        middle = self.Mixed_6e(self.Mixed_6d(x))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(middle)))
        main: Tensor = self.fc(self.dropout(x.mean((2, 3))))
        if self.training and self.AuxLogits is not None:
            return Logits(main, (self.AuxLogits(middle),))
        return main


def _mean3(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1)


@arch("inception_v3", input=(3, 299, 299), paper=PAPER)
def inception_v3(classes: int = 1000, channels: int = 3, dropout: float = 0.5, aux: bool = False) -> nn.Module:
    """Inception-v3: 23.8 M parameters, 5.7 G multiply-adds; 27.2 M with the auxiliary head.

    `aux` adds the auxiliary head; in training the network then gives `Logits(main, aux)` and wants 299x299 or more.
    """
    return InceptionV3(classes, channels, dropout, aux)
