"""Networks that hold what quantizers and exporters meet: joined, split, shared, padded and pooled values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput import zoo
from lilliput.core.method import Look
from lilliput.core.perform import perform
from lilliput.prune import Channels
from lilliput.quant import Quantize


def norms_of_their_own(model: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics, scales and biases as a trained network has them, in eval mode; the same every time."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(std=0.2, generator=draw)
                module.running_var.uniform_(0.5, 2, generator=draw)
                module.weight.uniform_(0.5, 1.5, generator=draw)
                module.bias.normal_(std=0.2, generator=draw)
    return model.eval()


class Branches(nn.Module):
    """A stem whose ReLU nobody returns, ReLUs in place and shared, max and average pools, concatenation, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.relu = nn.ReLU(inplace=True)
        self.left, self.right = nn.Conv2d(12, 8, 1), nn.Conv2d(12, 4, 3, padding=1)
        self.pooled = nn.Conv2d(12, 4, 1)
        self.last = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(16, 8, 3), nn.ReLU6(), nn.AvgPool2d(2), nn.Flatten(), nn.Dropout())
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        parts = [self.relu(self.left(x)), self.relu(self.right(x)), self.pooled(F.avg_pool2d(x, 3, 1, 1))]
        return self.fc(self.last(torch.cat(parts, 1)))


class Shuffled(nn.Module):
    """Depthwise and grouped convolutions, ReLU6, a channel split and shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True))
        self.deep = nn.Sequential(
            nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.ReLU()
        )
        self.group = nn.Conv2d(16, 16, 1, groups=2)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        x = torch.cat([left, self.deep(right)], 1)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.fc(self.group(x).mean((2, 3)))


class Gated(nn.Module):
    """A gate, which has no integer form here, between integer layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.fc(self.b(x * torch.sigmoid(x)).mean((2, 3)))


def resnet() -> nn.Module:
    """A ResNet-8 with norms of its own."""
    torch.manual_seed(0)
    return norms_of_their_own(zoo.create("resnet8", width=0.5))


def pruned_resnet() -> nn.Module:
    """The same after half of its channels went, so that its shortcuts pick channels one by one."""
    model = resnet()
    look = Look(images(1))
    return perform(model, Channels(keep=0.5).plan(model, look)).eval()


def branches() -> nn.Module:
    torch.manual_seed(1)
    return norms_of_their_own(Branches())


def shuffled() -> nn.Module:
    torch.manual_seed(2)
    return norms_of_their_own(Shuffled())


def gated() -> nn.Module:
    torch.manual_seed(3)
    return Gated().eval()


NETS = {"resnet": resnet, "pruned_resnet": pruned_resnet, "branches": branches, "shuffled": shuffled, "gated": gated}
LAST = {"resnet": "linear", "pruned_resnet": "linear", "branches": "fc", "shuffled": "fc", "gated": "fc"}


def images(count: int = 16, seed: int = 5, size: int = 8) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def look(count: int = 32) -> Look:
    """Calibration images and an example."""
    x = images(count)
    return Look(x[:2], [(part, torch.zeros(len(part), dtype=torch.long)) for part in x.split(8)])


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(x)


def quantized(name: str, bits: int = 8) -> nn.Module:
    """One of the networks with weights and inputs of so many bits."""
    return Quantize(bits=bits, activations=bits)(NETS[name](), look())


def close(found: Tensor, wanted: Tensor) -> bool:
    """Within float sums' own error, which is far below any level."""
    return float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
