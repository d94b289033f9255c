"""Networks whose convolutions see one pixel a channel: shifts that are fixed, and shifts that are learned.

Wu, Wan, Yue, Jin, Zhao, Golmant, Gholaminejad, Gonzalez, Keutzer 2017, "Shift: A Zero FLOP, Zero Parameter Alternative
to Spatial Convolutions", arXiv:1711.08141: ShiftNet and the residual networks for CIFAR with shifts.
Hacene, Lassance, Gripon, Courbariaux, Bengio 2019, "Attention Based Pruning for Shift Networks", arXiv:1905.12300:
shift attention layers, which end as shifts.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.errors import ConfigError
from lilliput.zoo.blocks import ConvNorm, Shift, initialize
from lilliput.zoo.catalog import arch, architectures, spell, split
from lilliput.zoo.resnet_cifar import BasicBlock, CifarResNet

PAPER = "Wu et al. 2017, arXiv:1711.08141"
PAPER_ATTENTION = "Hacene et al. 2019, arXiv:1905.12300"


class ShiftBlock(nn.Module):
    """1x1 to `expansion` times as many channels, shift, 1x1 (which strides); a 1x1 shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: float) -> None:
        super().__init__()
        middle = int(outputs * expansion)
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.shift = Shift(middle)
        self.conv2 = nn.Conv2d(middle, outputs, 1, stride, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, outputs, 1, stride, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(self.shift(y))))
        return y + self.shortcut(x)  # type: ignore[no-any-return]


class ShiftResNet(nn.Module):
    """The residual network for CIFAR with every 3x3 convolution behind the stem replaced by conv-shift-conv."""

    def __init__(self, blocks: int, expansion: float, classes: int, channels: int) -> None:
        super().__init__()
        self.stem = ConvNorm(channels, 16)
        self.stages = nn.Sequential()
        inputs = 16
        for outputs in (16, 32, 64):
            for i in range(blocks):
                stride = 2 if i == 0 and outputs > 16 else 1
                self.stages.append(ShiftBlock(inputs, outputs, stride, expansion))
                inputs = outputs
        self.classifier = nn.Linear(inputs, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]


class ShiftModule(nn.Module):
    """Norm, ReLU, 1x1, shift, norm, ReLU, 1x1, beside the identity; at stride 2 beside a mean pool, concatenated."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, kernel: int) -> None:
        super().__init__()
        branch = outputs - inputs if stride == 2 else outputs
        middle = branch * expansion
        self.stride = stride
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.shift = Shift(middle, kernel)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, branch, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.bn1(x)))
        y = self.conv2(F.relu(self.bn2(self.shift(y))))
        if self.stride == 1:
            return x + y  # type: ignore[no-any-return]
        return torch.cat([F.avg_pool2d(x, 3, 2, 1), y], 1)


Group = tuple[int, int, int, int, int]  # channels, modules, kernel, expansion of the first module, of the others
GROUPS: tuple[Group, ...] = ((64, 5, 5, 4, 4), (128, 6, 5, 4, 3), (256, 7, 3, 3, 2), (512, 3, 3, 2, 1))


class ShiftNet(nn.Module):
    """A 7x7 stem, four groups of shift modules that each halve the resolution, norm, mean, linear head."""

    def __init__(self, groups: tuple[Group, ...], classes: int, channels: int) -> None:
        super().__init__()
        inputs = groups[0][0] // 2
        self.stem = nn.Conv2d(channels, inputs, 7, 2, 3, bias=False)
        self.groups = nn.Sequential()
        for outputs, modules, kernel, first, others in groups:
            for i in range(modules):
                stride, expansion = (2, first) if i == 0 else (1, others)
                self.groups.append(ShiftModule(inputs, outputs, stride, expansion, kernel))
                inputs = outputs
        self.bn = nn.BatchNorm2d(inputs)
        self.classifier = nn.Linear(inputs, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.groups(self.stem(x))))
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]


class ShiftAttention(nn.Module):
    """A convolution whose kernel slices learn which one of their positions survives.

    kernel = W · softmax(τ · A / sd(A)) over the k² positions of a slice; every training step multiplies τ by `growth`,
    so that the softmax ends as one 1 a slice. With `share`, A has one slice an input channel, and what remains is a
    shift and a 1x1 convolution (`freeze`); without, one slice an (output, input) pair as in the paper, and what remains
    is a k x k convolution with one weight a slice. Hacene et al. 2019, arXiv:1905.12300, algorithm 1
    """

    temperature: Tensor

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, share: bool = True, growth: float = 1.0
    ) -> None:
        super().__init__()
        if growth < 1:
            raise ConfigError(f"`growth` (={growth}) must be at least 1: the temperature factor of a training step")
        self.kernel, self.stride, self.share, self.growth = kernel, stride, share, growth
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel**2))
        self.attention = nn.Parameter(torch.empty(1 if share else outputs, inputs, kernel**2))
        self.register_buffer("temperature", torch.tensor(1.0))
        nn.init.normal_(self.weight, 0, (2 / outputs) ** 0.5)  # one position survives, so the fan-out is `outputs`
        nn.init.normal_(self.attention)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.growth > 1:
            self.temperature = self.temperature * self.growth
        kernel = (self.weight * self.shares()).unflatten(2, (self.kernel, self.kernel))
        return F.conv2d(x, kernel, None, self.stride, self.kernel // 2)

    def shares(self) -> Tensor:
        """How much of each position passes, (1 or outputs, inputs, kernel²); a slice sums to 1."""
        spread = self.attention.std(2, correction=0, keepdim=True).clamp_min(1e-12)
        return (self.temperature * self.attention / spread).softmax(2)

    def resize(self, axis: str, keep: tuple[int, ...]) -> None:
        """Keep these input or output channels."""
        dim = {"out": 0, "in": 1}[axis]
        index = torch.tensor(keep, device=self.weight.device)
        self.weight = nn.Parameter(self.weight.detach().index_select(dim, index))
        if axis == "in" or not self.share:
            self.attention = nn.Parameter(self.attention.detach().index_select(dim, index))

    def freeze(self) -> nn.Module:
        """The ordinary layers with only the strongest position of each slice: exact once the softmax is one-hot."""
        outputs, inputs, _ = self.weight.shape
        strongest = self.attention.argmax(2)  # (1 or outputs, inputs)
        kept = self.weight.detach().gather(2, strongest.expand(outputs, inputs)[..., None])
        if self.share:
            frozen = shifted(inputs, outputs, self.kernel, self.stride, strongest[0].tolist())
            frozen.get_parameter("conv.weight").data.copy_(kept[..., None])
            return frozen.to(self.weight.device)
        conv = nn.Conv2d(inputs, outputs, self.kernel, self.stride, self.kernel // 2, bias=False).to(self.weight.device)
        sparse = torch.zeros_like(self.weight).scatter(2, strongest.expand(outputs, inputs)[..., None], kept)
        conv.weight.data.copy_(sparse.view_as(conv.weight))
        return conv


def shifted(inputs: int, outputs: int, kernel: int, stride: int, positions: Sequence[int] = ()) -> nn.Sequential:
    """A shift and a 1x1 convolution: what a shared shift attention layer becomes."""
    shift = Shift(inputs, kernel)
    if positions:
        shift.point(positions)
    conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return nn.Sequential(OrderedDict[str, nn.Module](shift=shift, conv=conv))


def freeze(model: nn.Module) -> nn.Module:
    """A copy of a network with every `ShiftAttention` replaced by what it has become; the model stays as it is."""
    frozen = copy.deepcopy(model)
    for parent in list(frozen.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ShiftAttention):
                setattr(parent, name, child.freeze().train(child.training))
    name, options = split(str(getattr(model, "architecture", "")))
    if name in architectures and "frozen" in architectures[name].options:
        frozen.architecture = spell(name, {**options, "frozen": True})  # type: ignore[assignment]
    return frozen


def _attentive(model: CifarResNet, share: bool, growth: float, frozen: bool) -> nn.Module:
    """The residual network with the convolutions of its blocks replaced."""
    for block in [m for m in model.modules() if isinstance(m, BasicBlock)]:
        for name in ("conv1", "conv2"):
            old = getattr(block, name)
            sizes = (old.in_channels, old.out_channels, 3, old.stride[0])
            if frozen:
                setattr(block, name, shifted(*sizes) if share else nn.Conv2d(*sizes, 1, bias=False))
            else:
                setattr(block, name, ShiftAttention(*sizes, share, growth))
    return model


@arch("shift_resnet20", input=(3, 32, 32), paper=PAPER)
def shift_resnet20(classes: int = 10, channels: int = 3, expansion: float = 3) -> nn.Module:
    """ShiftResNet-20: 0.10 M parameters, 16.4 M multiply-adds at expansion 3; the paper also has 1, 6 and 9."""
    return ShiftResNet(3, expansion, classes, channels)


@arch("shift_resnet56", input=(3, 32, 32), paper=PAPER)
def shift_resnet56(classes: int = 10, channels: int = 3, expansion: float = 3) -> nn.Module:
    """ShiftResNet-56: 0.29 M parameters at expansion 3."""
    return ShiftResNet(9, expansion, classes, channels)


@arch("shift_resnet110", input=(3, 32, 32), paper=PAPER)
def shift_resnet110(classes: int = 10, channels: int = 3, expansion: float = 3) -> nn.Module:
    """ShiftResNet-110: 0.59 M parameters at expansion 3."""
    return ShiftResNet(18, expansion, classes, channels)


@arch("shiftnet_a", input=(3, 224, 224), paper=PAPER)
def shiftnet_a(classes: int = 1000, channels: int = 3) -> nn.Module:
    """ShiftNet-A: 4.2 M parameters, 1.42 G multiply-adds."""
    return ShiftNet(GROUPS, classes, channels)


@arch("shiftnet_b", input=(3, 224, 224), paper=PAPER)
def shiftnet_b(classes: int = 1000, channels: int = 3) -> nn.Module:
    """ShiftNet-B, with half as many channels as A: 1.2 M parameters, 371 M multiply-adds."""
    groups = tuple((c // 2, n, kernel, first, others) for c, n, kernel, first, others in GROUPS)
    return ShiftNet(groups, classes, channels)


@arch("shift_attention_resnet20", input=(3, 32, 32), paper=PAPER_ATTENTION)
def shift_attention_resnet20(
    classes: int = 10,
    channels: int = 3,
    width: float = 1.0,
    share: bool = True,
    growth: float = 1.0,
    frozen: bool = False,
) -> nn.Module:
    """ResNet-20 whose block convolutions learn their shifts; `frozen` is the form that `freeze` leaves."""
    widths = (round(16 * width), round(32 * width), round(64 * width))
    return _attentive(CifarResNet(3, classes, channels, widths), share, growth, frozen)
