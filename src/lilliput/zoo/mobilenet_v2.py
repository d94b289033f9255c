"""MobileNetV2: inverted residuals, whose shortcuts join the narrow ends and whose projections stay linear.

Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381.
Tensor names are those of torchvision.
"""

from __future__ import annotations

from torch import Tensor, nn

from lilliput.zoo.blocks import ConvNorm, InvertedResidual, divisible, initialize, unstride
from lilliput.zoo.catalog import arch

PAPER = "Sandler et al. 2018, arXiv:1801.04381"
#         t   c  n  s      expansion, channels, repeats, stride of the first: table 2 of the paper
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class MobileNetV2(nn.Module):
    """A 3x3 stem, stages of inverted residuals, a 1x1 to 1280 channels (more above width 1), mean, linear head.

    `linear` and `shortcut` are those of `InvertedResidual`.
    """

    def __init__(self, classes: int, channels: int, width: float, linear: bool, shortcut: str, dropout: float) -> None:
        super().__init__()
        self.shortcut = shortcut
        inputs = divisible(32 * width)
        layers: list[nn.Module] = [ConvNorm(channels, inputs, 3, 2, activation=nn.ReLU6)]
        for expansion, c, repeats, first in STAGES:
            for i in range(repeats):
                outputs = divisible(c * width)
                stride = first if i == 0 else 1
                layers.append(InvertedResidual(inputs, outputs, stride, expansion, linear, shortcut))
                inputs = outputs
        last = divisible(1280 * max(1.0, width))
        layers.append(ConvNorm(inputs, last, 1, activation=nn.ReLU6))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, classes))
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self._joined_wide(x) if self.shortcut == "expansion" else self.features(x)
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]

    def _joined_wide(self, x: Tensor) -> Tensor:
        """The same layers with shortcuts from one expanded tensor to the next of its shape."""
        carried: Tensor | None = None
        for layer in self.features:
            if not isinstance(layer, InvertedResidual):
                x = layer(x)
                continue
            wide = layer.widen(x)
            wide = wide if carried is None else wide + carried
            x, carried = layer.narrow(wide), wide if layer.same and layer.expands else None
        return x


@arch("mobilenet_v2", input=(3, 224, 224), paper=PAPER)
def mobilenet_v2(
    classes: int = 1000,
    channels: int = 3,
    width: float = 1.0,
    linear: bool = True,
    shortcut: str = "bottleneck",
    dropout: float = 0.2,
) -> nn.Module:
    """MobileNetV2: 3.5 M parameters, 300 M multiply-adds at width 1."""
    return MobileNetV2(classes, channels, width, linear, shortcut, dropout)


@arch("mobilenet_v2_32", input=(3, 32, 32), paper=PAPER)
def mobilenet_v2_32(
    classes: int = 10,
    channels: int = 3,
    width: float = 1.0,
    linear: bool = True,
    shortcut: str = "bottleneck",
    dropout: float = 0.0,
) -> nn.Module:
    """MobileNetV2 for 32x32 images: the first two strides are 1, 4x4 pixels at the end."""
    model = MobileNetV2(classes, channels, width, linear, shortcut, dropout)
    unstride(model, 2)
    return model
