"""Small networks that hold what pruning tools break on; and the network that silences channels instead of removing them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.core.channels import Channels


class Everything(nn.Module):
    """Concat, depthwise with a multiplier, groups, shuffle, split, PReLU, a scale, a gate, group norm, flatten to linear."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 8, 1)
        self.c = nn.Conv2d(16, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.dw = nn.Conv2d(16, 32, 3, padding=1, groups=16)
        self.g = nn.Conv2d(32, 24, 1, groups=4)
        self.act = nn.PReLU(24)
        self.side = nn.Conv2d(12, 12, 3, padding=1)
        self.scale = nn.Parameter(torch.randn(24, 1, 1))
        self.squeeze, self.excite = nn.Linear(24, 6), nn.Linear(6, 24)
        self.up = nn.ConvTranspose2d(24, 16, 2, stride=2)
        self.norm = nn.GroupNorm(4, 16)
        self.fc = nn.Linear(16 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        x = self.bn(torch.cat([self.b(x), self.c(x)], 1)).relu()
        x = self.act(self.g(self.dw(x)))
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        left, right = x.chunk(2, 1)
        x = torch.cat([left, self.side(right)], 1) * self.scale
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        x = self.norm(self.up(x * gate[:, :, None, None]))
        return self.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Residual(nn.Module):
    """Two blocks that share a stream, one of them with a projection, and a layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.one = nn.Sequential(nn.Conv2d(12, 20, 3, padding=1), nn.ReLU(), nn.Conv2d(20, 12, 3, padding=1))
        self.two = nn.Sequential(nn.Conv2d(12, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 24, 3, padding=1))
        self.project = nn.Conv2d(12, 24, 1)
        self.twice = nn.Conv2d(24, 24, 1)
        self.head = nn.Conv2d(24, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.one(x))
        x = self.project(x) + self.two(x)
        x = F.relu(self.twice(F.relu(self.twice(x))))
        return self.head(x).mean((2, 3))


class FixedPad(nn.Module):
    """A shortcut that pads a fixed number of channels: code that pins."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 16, 3, padding=1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        x = F.relu(self.b(x) + F.pad(x, (0, 0, 0, 0, 4, 4)))
        return self.fc(x.amax((2, 3)))


class Between(nn.Module):
    """Any function between two convolutions; `layers` are what it may use."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], width: int, **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(width, 6, 1), nn.Conv2d(6, 4, 1)
        self.function = [function]
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.function[0](self, self.a(x).relu())).relu()).mean((2, 3))


def randomized(model: nn.Module) -> nn.Module:
    """Norms with statistics and scales of their own, so that no channel is like another; double precision, eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.double().eval()


def silenced(model: nn.Module, found: Channels, atoms: Iterable[int]) -> nn.Module:
    """A copy in which nobody listens to these channels: the weights that read them are zero."""
    quiet, gone = copy.deepcopy(model), torch.tensor(sorted(atoms))
    for slot in found.slots:
        layer = quiet.get_submodule(slot.site) if slot.axis == "in" else None
        hit = torch.isin(slot.atoms, gone)
        if isinstance(layer, nn.ConvTranspose2d):
            layer.weight.data[hit] = 0
        elif isinstance(layer, nn.Conv1d | nn.Conv3d):
            layer.weight.data[:, hit] = 0
        elif isinstance(layer, nn.Conv2d) and layer.groups > 1:
            rows = layer.out_channels // layer.groups
            for group, part in enumerate(hit.view(layer.groups, -1)):
                layer.weight.data[group * rows : (group + 1) * rows, part] = 0
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.data[:, hit] = 0
    return quiet
