"""A small network, and its loss as a function of gates on its channels, written without any of the code under test."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.core.channels import Channels
from lilliput.core.method import Look


class Small(nn.Module):
    """A residual stream of 5 channels, an inner layer of 6, a depthwise one, groups, and a linear layer behind a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(5)
        self.inner = nn.Conv2d(5, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.depth = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.back = nn.Conv2d(6, 5, 1)
        self.wide = nn.Conv2d(5, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 4, 3, groups=2)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.bn(self.stem(x)))
        x = x + self.back(torch.tanh(self.depth(torch.relu(self.norm(self.inner(x))))))
        x = torch.relu(self.wide(x))
        return self.fc(torch.tanh(self.grouped(x)).flatten(1))


class Odd(nn.Module):
    """A layer that runs twice, channels that only a product of activations reads, a transposed layer, a bare weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3)
        self.twice = nn.Conv2d(6, 6, 1)
        self.queries, self.keys = nn.Conv2d(6, 5, 1), nn.Conv2d(6, 5, 1)
        self.up, self.mix = nn.ConvTranspose2d(6, 7, 2), nn.Linear(7, 4)
        self.bare = nn.Parameter(torch.randn(5, 6, 1, 1))
        self.last = nn.Conv2d(5, 3, 1)
        self.head = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.twice(torch.relu(self.twice(torch.relu(self.stem(x))))))
        lines = F.adaptive_avg_pool2d(x, (6, 1)).flatten(2, 3).unsqueeze(3)
        product = torch.bmm(self.queries(lines).flatten(2).mT, self.keys(lines).flatten(2))
        free = self.last(torch.relu(F.conv2d(x, self.bare))).mean((2, 3))
        up = self.mix(torch.relu(self.up(x)).mean((2, 3)))[:, :3]
        return self.head(product.flatten(1)) + free + up


def small(seed: int = 0) -> Small:
    """The network with norms of its own, in double precision and eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Small()
        for norm in (model.bn, model.norm):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.2, 2)
            nn.init.normal_(norm.bias)
    return model.double().eval()


def look(images: int = 12, batch: int = 5, seed: int = 0) -> Look:
    """Noise with labels, in batches that do not divide it evenly."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(images, 2, 8, 8, generator=draw, dtype=torch.double)
    y = torch.randint(0, 3, (images,), generator=draw)
    batches = list(zip(x.split(batch), y.split(batch), strict=True))
    return Look(x[:1], batches, F.cross_entropy, seed)


def gated(model: nn.Module, found: Channels, atoms: list[int], z: Tensor) -> dict[str, Tensor]:
    """The parameters of the model with the weights that read these atoms multiplied by z, (atoms,)."""
    weights = dict(model.named_parameters())
    for slot in found.slots:
        if slot.axis != "in":
            continue
        layer = model.get_submodule(slot.site)
        name = f"{slot.site}.weight"
        gate = torch.ones(len(slot.atoms), dtype=z.dtype)
        for number, atom in enumerate(atoms):
            gate = torch.where(slot.atoms == atom, z[number], gate)
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            each = layer.out_channels // layer.groups
            rows = [g.expand(each, -1) for g in gate.view(layer.groups, -1)]
            weights[name] = weights[name] * torch.cat(rows)[:, :, None, None]
        else:
            weights[name] = weights[name] * (gate[:, None, None] if isinstance(layer, nn.Conv2d) else gate)
    return weights


def losses_by_gates(model: nn.Module, found: Channels, atoms: list[int], z: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The loss of every image as a function of z, (atoms,)."""
    outputs = torch.func.functional_call(model, gated(model, found, atoms, z), (x,))
    return F.cross_entropy(outputs, y, reduction="none")


def loss_by_gates(model: nn.Module, found: Channels, atoms: list[int], z: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The mean loss over a batch as a function of z, (atoms,)."""
    return losses_by_gates(model, found, atoms, z, x, y).mean()
