"""AlexNet in one column.

Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997: the network of
Krizhevsky, Sutskever, Hinton 2012 without its split over two devices and without response normalisation.
Tensor names are those of torchvision, so that its weights load as they are.
"""

from __future__ import annotations

from torch import Tensor, nn

from lilliput.zoo.blocks import initialize
from lilliput.zoo.catalog import arch

PAPER = "Krizhevsky 2014, arXiv:1404.5997"


class AlexNet(nn.Module):
    """Five convolutions, three of them pooled, and three linear layers that hold 96 % of the parameters."""

    def __init__(self, classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(channels, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)  # nothing at 224, where the map is 6x6 already
        self.classifier = nn.Sequential(
            *(nn.Dropout(dropout), nn.Linear(256 * 6 * 6, 4096), nn.ReLU()),
            *(nn.Dropout(dropout), nn.Linear(4096, 4096), nn.ReLU()),
            nn.Linear(4096, classes),
        )
        initialize(self.features)  # PyTorch's default scale lets the signal die out

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(x.flatten(1))  # type: ignore[no-any-return]


@arch("alexnet", input=(3, 224, 224), paper=PAPER)
def alexnet(classes: int = 1000, channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """AlexNet, the one-column form: 61.1 M parameters, 0.71 G multiply-adds."""
    return AlexNet(classes, channels, dropout)
