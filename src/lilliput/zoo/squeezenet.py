"""SqueezeNet: fire modules, no fully connected layer; 50 times fewer parameters than AlexNet at its accuracy.

Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size",
arXiv:1602.07360. Tensor names are those of torchvision; the bypasses of section 6 are options of the class.
"""

from __future__ import annotations

from torch import Tensor, nn

from lilliput.errors import ConfigError
from lilliput.zoo.blocks import Fire, initialize, normed
from lilliput.zoo.catalog import arch

PAPER = "Iandola et al. 2016, arXiv:1602.07360"
SQUEEZE = (16, 16, 32, 32, 48, 48, 64, 64)  # of fire2 … fire9; each expands to 4 + 4 times as many


class Bypassed(nn.Module):
    """A fire module beside a shortcut: the identity, or a 1x1 convolution where the number of channels changes."""

    def __init__(self, fire: Fire, shortcut: nn.Module) -> None:
        super().__init__()
        self.fire, self.shortcut = fire, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.fire(x) + self.shortcut(x)  # type: ignore[no-any-return]


class SqueezeNet(nn.Module):
    """A stem, eight fire modules with pools in front of those in `pools` (counted from 2), a 1x1 classifier.

    `bypass` is `none`, `simple` (identity around fire 3, 5, 7, 9) or `complex` (and a 1x1 around the others); `norm` puts a
    batch norm behind the stem and the convolutions of fire modules.
    """

    def __init__(
        self, stem: nn.Conv2d, pools: tuple[int, ...], classes: int, bypass: str, dropout: float, norm: bool = False
    ) -> None:
        super().__init__()
        if bypass not in ("none", "simple", "complex"):
            raise ConfigError(f"`bypass` (={bypass!r}) is none of `none`, `simple`, `complex`")
        layers: list[nn.Module] = [normed(stem, norm), nn.ReLU()]
        inputs = stem.out_channels
        for number, squeeze in enumerate(SQUEEZE, 2):
            if number in pools:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            layers.append(_fire(inputs, squeeze, bypass, norm))
            inputs = 8 * squeeze
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(inputs, classes, 1), nn.ReLU())
        initialize(self)
        nn.init.normal_(self.classifier[1].weight, 0, 0.01)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).mean((2, 3))  # type: ignore[no-any-return]


def _fire(inputs: int, squeeze: int, bypass: str, norm: bool) -> nn.Module:
    fire, outputs = Fire(inputs, squeeze, 4 * squeeze, 4 * squeeze, norm), 8 * squeeze
    if bypass != "none" and inputs == outputs:
        return Bypassed(fire, nn.Identity())
    if bypass == "complex":
        return Bypassed(fire, nn.Conv2d(inputs, outputs, 1))
    return fire


@arch("squeezenet1_0", input=(3, 224, 224), paper=PAPER)
def squeezenet1_0(classes: int = 1000, channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """SqueezeNet 1.0: 1.25 M parameters, 0.82 G multiply-adds."""
    return SqueezeNet(nn.Conv2d(channels, 96, 7, 2), (2, 5, 9), classes, "none", dropout)


@arch("squeezenet1_1", input=(3, 224, 224), paper=PAPER)
def squeezenet1_1(classes: int = 1000, channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """SqueezeNet 1.1: the same accuracy with 2.4 times fewer multiply-adds, by a smaller stem and earlier pools."""
    return SqueezeNet(nn.Conv2d(channels, 64, 3, 2), (2, 4, 6), classes, "none", dropout)


@arch("squeezenet_simple", input=(3, 224, 224), paper=PAPER)
def squeezenet_simple(classes: int = 1000, channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """SqueezeNet 1.0 with identity shortcuts around fire 3, 5, 7 and 9: 60.4 % instead of 57.5 % top-1."""
    return SqueezeNet(nn.Conv2d(channels, 96, 7, 2), (2, 5, 9), classes, "simple", dropout)


@arch("squeezenet_complex", input=(3, 224, 224), paper=PAPER)
def squeezenet_complex(classes: int = 1000, channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """SqueezeNet 1.0 with a shortcut around every fire module, a 1x1 convolution where the width changes."""
    return SqueezeNet(nn.Conv2d(channels, 96, 7, 2), (2, 5, 9), classes, "complex", dropout)


@arch("squeezenet_32", input=(3, 32, 32), paper=PAPER)
def squeezenet_32(
    classes: int = 10, channels: int = 3, bypass: str = "none", dropout: float = 0.0, norm: bool = False
) -> nn.Module:
    """SqueezeNet 1.1 for 32x32 images: stem of stride 1, no pool behind it, 8x8 pixels at the end."""
    return SqueezeNet(nn.Conv2d(channels, 64, 3, 1, 1), (4, 6), classes, bypass, dropout, norm)
