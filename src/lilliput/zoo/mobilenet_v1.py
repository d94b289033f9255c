"""MobileNetV1: depthwise separable convolutions throughout; width and resolution trade accuracy for cost.

Howard et al. 2017, "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
arXiv:1704.04861. The resolution multiplier is the size of the image that is put in.
"""

from __future__ import annotations

from torch import Tensor, nn

from lilliput.zoo.blocks import ConvNorm, DepthwiseSeparable, initialize, unstride
from lilliput.zoo.catalog import arch

PAPER = "Howard et al. 2017, arXiv:1704.04861"
LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


class MobileNetV1(nn.Module):
    """A 3x3 stem, depthwise separable layers of (channels, stride), a linear head behind the mean.

    `width` scales every number of channels, at least 8 stay; costs about width² of the full network.
    """

    def __init__(self, layers: tuple[tuple[int, int], ...], classes: int, channels: int, width: float) -> None:
        super().__init__()
        inputs = _scaled(32, width)
        self.stem = ConvNorm(channels, inputs, 3, 2)
        self.layers = nn.Sequential()
        for outputs, step in layers:
            self.layers.append(DepthwiseSeparable(inputs, _scaled(outputs, width), 3, step))
            inputs = _scaled(outputs, width)
        self.classifier = nn.Linear(inputs, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.stem(x))
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]


def _scaled(channels: int, width: float) -> int:
    return max(8, int(channels * width))


@arch("mobilenet_v1", input=(3, 224, 224), paper=PAPER)
def mobilenet_v1(classes: int = 1000, channels: int = 3, width: float = 1.0, shallow: bool = False) -> nn.Module:
    """MobileNetV1: 4.2 M parameters, 569 M multiply-adds at width 1; `shallow` leaves out the five 512-wide layers."""
    layers = LAYERS[:6] + LAYERS[11:] if shallow else LAYERS
    return MobileNetV1(layers, classes, channels, width)


@arch("mobilenet_v1_32", input=(3, 32, 32), paper=PAPER)
def mobilenet_v1_32(classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    """MobileNetV1 for 32x32 images: the first two strides are 1, 4x4 pixels at the end."""
    model = MobileNetV1(LAYERS, classes, channels, width)
    unstride(model, 2)
    return model
