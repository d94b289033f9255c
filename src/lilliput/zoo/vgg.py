"""VGG: 3x3 convolutions only, in five stages that end in 2x2 pooling.

Simonyan, Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv:1409.1556.
Tensor names of the ImageNet forms are those of torchvision, so that its weights load as they are. The forms for 32x32
images (`_32`) keep the convolutions and replace the three linear layers by one of 512 inputs, as is usual on CIFAR.
"""

from __future__ import annotations

from torch import Tensor, nn

from lilliput.zoo.blocks import initialize
from lilliput.zoo.catalog import arch

PAPER = "Simonyan & Zisserman 2014, arXiv:1409.1556"

WIDTHS = (64, 128, 256, 512, 512)
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # A, B, D, E of table 1


def _features(depth: int, channels: int, norm: bool, width: float = 1.0) -> tuple[nn.Sequential, int]:
    """The convolutions and pools of one column of table 1, and how many channels leave them."""
    layers: list[nn.Module] = []
    for count, full in zip(STAGES[depth], WIDTHS, strict=True):
        outputs = round(full * width)
        for _ in range(count):
            layers += [nn.Conv2d(channels, outputs, 3, 1, 1), *([nn.BatchNorm2d(outputs)] if norm else []), nn.ReLU()]
            channels = outputs
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers), channels


class Vgg(nn.Module):
    """The ImageNet form: `depth` layers with weights, of which three are linear."""

    def __init__(self, depth: int, norm: bool, classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.features, width = _features(depth, channels, norm)
        self.avgpool = nn.AdaptiveAvgPool2d(7)  # nothing at 224, where the map is 7x7 already
        self.classifier = nn.Sequential(
            *(nn.Linear(width * 7 * 7, 4096), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(dropout)),
            nn.Linear(4096, classes),
        )
        initialize(self.features)  # without batch norm PyTorch's default scale lets the signal die out

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(x.flatten(1))  # type: ignore[no-any-return]


class SmallVgg(nn.Module):
    """The form for 32x32 images: the same convolutions with batch norm, the mean over the map, one linear layer."""

    def __init__(self, depth: int, classes: int, channels: int, width: float) -> None:
        super().__init__()
        self.features, outputs = _features(depth, channels, norm=True, width=width)
        self.classifier = nn.Linear(outputs, classes)
        initialize(self.features)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


@arch("vgg11", input=(3, 224, 224), paper=PAPER)
def vgg11(classes: int = 1000, channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """VGG-11 (A): 132.9 M parameters, 7.61 G multiply-adds."""
    return Vgg(11, False, classes, channels, dropout)


@arch("vgg13", input=(3, 224, 224), paper=PAPER)
def vgg13(classes: int = 1000, channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """VGG-13 (B): 133.0 M parameters, 11.3 G multiply-adds."""
    return Vgg(13, False, classes, channels, dropout)


@arch("vgg16", input=(3, 224, 224), paper=PAPER)
def vgg16(classes: int = 1000, channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """VGG-16 (D): 138.4 M parameters, 15.5 G multiply-adds."""
    return Vgg(16, False, classes, channels, dropout)


@arch("vgg19", input=(3, 224, 224), paper=PAPER)
def vgg19(classes: int = 1000, channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """VGG-19 (E): 143.7 M parameters, 19.6 G multiply-adds."""
    return Vgg(19, False, classes, channels, dropout)


@arch("vgg11_bn", input=(3, 224, 224), paper=PAPER)
def vgg11_bn(classes: int = 1000, channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """VGG-11 with batch norm behind every convolution."""
    return Vgg(11, True, classes, channels, dropout)


@arch("vgg13_bn", input=(3, 224, 224), paper=PAPER)
def vgg13_bn(classes: int = 1000, channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """VGG-13 with batch norm behind every convolution."""
    return Vgg(13, True, classes, channels, dropout)


@arch("vgg16_bn", input=(3, 224, 224), paper=PAPER)
def vgg16_bn(classes: int = 1000, channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """VGG-16 with batch norm behind every convolution."""
    return Vgg(16, True, classes, channels, dropout)


@arch("vgg19_bn", input=(3, 224, 224), paper=PAPER)
def vgg19_bn(classes: int = 1000, channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """VGG-19 with batch norm behind every convolution."""
    return Vgg(19, True, classes, channels, dropout)


@arch("vgg11_bn_32", input=(3, 32, 32), paper=PAPER)
def vgg11_bn_32(classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """VGG-11 with batch norm for 32x32 images: 9.2 M parameters, 153 M multiply-adds."""
    return SmallVgg(11, classes, channels, width)


@arch("vgg13_bn_32", input=(3, 32, 32), paper=PAPER)
def vgg13_bn_32(classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """VGG-13 with batch norm for 32x32 images: 9.4 M parameters, 228 M multiply-adds."""
    return SmallVgg(13, classes, channels, width)


@arch("vgg16_bn_32", input=(3, 32, 32), paper=PAPER)
def vgg16_bn_32(classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """VGG-16 with batch norm for 32x32 images: 14.7 M parameters, 313 M multiply-adds."""
    return SmallVgg(16, classes, channels, width)


@arch("vgg19_bn_32", input=(3, 32, 32), paper=PAPER)
def vgg19_bn_32(classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """VGG-19 with batch norm for 32x32 images: 20.0 M parameters, 398 M multiply-adds."""
    return SmallVgg(19, classes, channels, width)
