"""Building blocks of the efficient families, for networks of one's own as well: plain `nn.Module`s, sizes in pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.errors import ConfigError
from lilliput.zoo.inception import Inception as Inception
from lilliput.zoo.inception import NaiveInception as NaiveInception

Pair = int | tuple[int, int]


def divisible(channels: float, by: int = 8) -> int:
    """The multiple of `by` nearest to `channels`, at least `by`, never more than 10 % below (the rule of MobileNetV2).

    >>> divisible(32 * 0.35), divisible(24 * 1.4)
    (16, 32)
    """
    nearest = max(by, int(channels + by / 2) // by * by)
    return nearest + by if nearest < 0.9 * channels else nearest


def initialize(model: nn.Module) -> None:
    """He's normal start for convolutions, N(0, 0.01) for linear layers, biases zero. arXiv:1502.01852.

    A convolution's variance is 2 / (k² · outputs of one group): how many outputs an input reaches.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            reached = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0, (2 / reached) ** 0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def unstride(model: nn.Module, convolutions: int) -> None:
    """Give the first strided convolutions stride 1: how the 32x32 forms keep 4x4 pixels at their end."""
    strided = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    for conv in strided[:convolutions]:
        conv.stride = (1, 1)


class ConvNorm(nn.Sequential):
    """Convolution that keeps the size at stride 1, batch normalization, activation (None leaves it out).

    Its tensors are called `0.weight`, `1.weight`, … as in torchvision.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Pair = 3,
        stride: Pair = 1,
        groups: int = 1,
        activation: type[nn.Module] | None = nn.ReLU,
    ) -> None:
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = ((height - 1) // 2, (width - 1) // 2)
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        super().__init__(*layers, *([] if activation is None else [activation()]))


class DepthwiseSeparable(nn.Sequential):
    """One k x k filter a channel (`multiplier` filters), then a 1x1 convolution that mixes channels.

    costs 1/outputs + 1/k² of the multiply-adds of a full convolution (at multiplier 1).
    Howard et al. 2017, arXiv:1704.04861
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        multiplier: int = 1,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        middle = inputs * multiplier
        self.depthwise = ConvNorm(inputs, middle, kernel, stride, inputs, activation)
        self.pointwise = ConvNorm(middle, outputs, 1, activation=activation)


class SpatialSeparable(nn.Sequential):
    """A k x 1 and a 1 x k convolution in place of a k x k one, through `middle` channels (default: `outputs`).

    costs k·middle·(inputs + outputs) multiply-adds a pixel instead of k²·inputs·outputs.
    Jaderberg et al. 2014, arXiv:1405.3866; Szegedy et al. 2015, arXiv:1512.00567
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, middle: int | None = None) -> None:
        super().__init__()
        middle = outputs if middle is None else middle
        self.vertical = ConvNorm(inputs, middle, (kernel, 1), (stride, 1))
        self.horizontal = ConvNorm(middle, outputs, (1, kernel), (1, stride))


def normed(conv: nn.Conv2d, norm: bool = True) -> nn.Module:
    """A convolution with a batch norm behind it, or, without `norm`, itself."""
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels)) if norm else conv


class Fire(nn.Module):
    """Squeeze to few channels by 1x1, expand by 1x1 and 3x3 side by side. Tensor names as in torchvision.

    `norm` puts a batch norm behind every convolution, which the paper lacks and short training needs.
    Iandola et al. 2016, arXiv:1602.07360
    """

    def __init__(self, inputs: int, squeeze: int, expand1x1: int, expand3x3: int, norm: bool = False) -> None:
        super().__init__()
        self.squeeze = normed(nn.Conv2d(inputs, squeeze, 1), norm)
        self.expand1x1 = normed(nn.Conv2d(squeeze, expand1x1, 1), norm)
        self.expand3x3 = normed(nn.Conv2d(squeeze, expand3x3, 3, padding=1), norm)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class SqueezeExcite(nn.Module):
    """Every channel times a gate computed from all channel means: x · gate(W2·relu(W1·mean(x))).

    Hu et al. 2017, arXiv:1709.01507; tensor names as in torchvision.
    """

    def __init__(self, channels: int, squeeze: int, gate: type[nn.Module] = nn.Sigmoid) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeeze, 1)
        self.fc2 = nn.Conv2d(squeeze, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.fc2(F.relu(self.fc1(means))))  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel, project by 1x1 without activation; the shortcut joins the narrow ends.

    The paper's ablations are options: `linear=False` puts a ReLU6 behind the projection; `shortcut` is `bottleneck`,
    `expansion` (the network joins the wide tensors instead, by `widen` and `narrow`) or `none`.
    Sandler et al. 2018, arXiv:1801.04381; tensor names as in torchvision.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int = 1,
        expansion: int = 6,
        linear: bool = True,
        shortcut: str = "bottleneck",
    ) -> None:
        super().__init__()
        if shortcut not in ("bottleneck", "expansion", "none"):
            raise ConfigError(f"`shortcut` (={shortcut!r}) is none of `bottleneck`, `expansion`, `none`")
        wide = inputs * expansion
        self.expands = expansion != 1
        self.same = stride == 1 and inputs == outputs
        self.adds = self.same and shortcut == "bottleneck"
        self.conv = nn.Sequential(
            *([ConvNorm(inputs, wide, 1, activation=nn.ReLU6)] if self.expands else []),
            ConvNorm(wide, wide, 3, stride, wide, nn.ReLU6),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            *([] if linear else [nn.ReLU6()]),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + y if self.adds else y  # type: ignore[no-any-return]

    def widen(self, x: Tensor) -> Tensor:
        """The first half: narrow to wide."""
        return self.conv[0](x) if self.expands else x

    def narrow(self, wide: Tensor) -> Tensor:
        """The second half: wide to narrow."""
        for layer in list(self.conv)[int(self.expands) :]:
            wide = layer(wide)
        return wide


class ChannelShuffle(nn.Module):
    """Channel i of group j becomes channel j of group i, so that the next grouped convolution sees every group.

    Zhang et al. 2017, arXiv:1707.01083
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n, self.groups, c // self.groups, h, w)  # n g c/g h w
        return x.transpose(1, 2).reshape(n, c, h, w)


class GroupedShuffle(nn.Sequential):
    """A grouped convolution with normalization and ReLU, then the channel shuffle. arXiv:1707.01083, figure 1c."""

    def __init__(self, inputs: int, outputs: int, groups: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = ConvNorm(inputs, outputs, kernel, stride, groups)
        self.shuffle = ChannelShuffle(groups)


class ShuffleUnit(nn.Module):
    """ShuffleNet's residual unit: grouped 1x1 down to a quarter, shuffle, depthwise 3x3, grouped 1x1 up.

    At stride 2 the shortcut is an average pool joined by concatenation. The first 1x1 is ungrouped where it does not
    narrow (the unit behind the stem, as in the paper). `shuffle=False` is the paper's ablation; `excite` adds a
    squeeze-and-excite gate of ratio 1/16 in front of the join (section 4.4 of the paper).
    Zhang et al. 2017, arXiv:1707.01083
    """

    def __init__(
        self, inputs: int, outputs: int, groups: int, stride: int = 1, shuffle: bool = True, excite: bool = False
    ) -> None:
        super().__init__()
        if stride == 1 and inputs != outputs:
            raise ConfigError(f"at stride 1 `outputs` (={outputs}) must equal `inputs` (={inputs})")
        branch = outputs - inputs if stride == 2 else outputs
        middle = max(1, round(outputs / 4 / groups)) * groups
        self.stride = stride
        self.reduce = ConvNorm(inputs, middle, 1, groups=groups if inputs >= middle else 1)
        self.shuffle = ChannelShuffle(groups) if shuffle and groups > 1 else nn.Identity()
        self.depthwise = ConvNorm(middle, middle, 3, stride, middle, None)
        self.expand = ConvNorm(middle, branch, 1, groups=groups, activation=None)
        self.excite = SqueezeExcite(branch, max(1, branch // 16)) if excite else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.shuffle(self.reduce(x)))
        y = self.excite(self.expand(y))
        if self.stride == 1:
            return F.relu(x + y)
        return F.relu(torch.cat([F.avg_pool2d(x, 3, 2, 1), y], 1))


class GhostModule(nn.Module):
    """A convolution makes 1/ratio of the channels; cheap depthwise filters of those make the rest.

    Han et al. 2019, arXiv:1911.11907; tensor names as in the authors' code.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, ratio: int = 2, cheap: int = 3, relu: bool = True) -> None:
        super().__init__()
        if outputs % ratio:
            raise ConfigError(f"`outputs` (={outputs}) must be a multiple of `ratio` (={ratio})")
        primary, activation = outputs // ratio, nn.ReLU if relu else None
        self.primary_conv = ConvNorm(inputs, primary, kernel, activation=activation)
        self.cheap_operation = ConvNorm(primary, outputs - primary, cheap, groups=primary, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary_conv(x)
        return torch.cat([primary, self.cheap_operation(primary)], 1)


class Shift(nn.Module):
    """Moves each channel by whole pixels, zeros entering at the border: no parameter, no multiply-add.

    y[c, i, j] = x[places[c], i + dy - r, j + dx - r] with (dy, dx) = divmod(positions[c], kernel), r = kernel // 2:
    what a depthwise kernel does that is 1 at one position. At first output c carries input c; every position gets
    channels // kernel² of them and the middle the rest. Wu et al. 2017, arXiv:1711.08141
    The buffer `position` carries `positions` through state dicts.
    """

    position: Tensor

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        each, middle = channels // kernel**2, kernel**2 // 2
        rest = channels - each * kernel**2
        self.kernel, self.inputs, self.places = kernel, channels, tuple(range(channels))
        self.register_buffer("position", torch.zeros(channels, dtype=torch.uint8))
        self.point([p for p in range(kernel**2) for _ in range(each + rest * (p == middle))])
        self.register_load_state_dict_post_hook(_read_positions)

    def point(self, positions: Sequence[int]) -> None:
        """Set the position of every output channel: row times `kernel` plus column."""
        self.positions = tuple(positions)
        self.position = torch.tensor(self.positions, dtype=torch.uint8, device=self.position.device)

    def resize(self, axis: str, keep: tuple[int, ...]) -> None:
        """Keep these input or output channels; an output whose input is gone becomes zero."""
        if axis == "out":
            self.places = tuple(self.places[i] for i in keep)
            self.point([self.positions[i] for i in keep])
            return
        place = {old: new for new, old in enumerate(keep)}
        self.places = tuple(place.get(p, -1) for p in self.places)
        self.inputs = len(keep)

    def forward(self, x: Tensor) -> Tensor:
        order = sorted(range(len(self.places)), key=self.positions.__getitem__)  # outputs of one position side by side
        x = _pick(x, [self.places[i] for i in order])
        h, w = x.shape[2:]
        x = F.pad(x, (self.kernel // 2,) * 4)
        parts, start = [], 0
        for position in sorted(set(self.positions)):
            stop = start + self.positions.count(position)
            dy, dx = divmod(position, self.kernel)
            parts.append(x[:, start:stop, dy : dy + h, dx : dx + w])
            start = stop
        return _pick(torch.cat(parts, 1), sorted(range(len(order)), key=order.__getitem__))


def _pick(x: Tensor, index: list[int]) -> Tensor:
    """The channels `index` of x, zero for -1; x itself where these are all in order."""
    if index == list(range(x.shape[1])):
        return x
    if -1 in index:
        x = F.pad(x, (0, 0, 0, 0, 0, 1))
    return x.index_select(1, torch.tensor(index, device=x.device) % x.shape[1])


def _read_positions(shift: nn.Module, keys: object) -> None:
    if isinstance(shift, Shift) and not shift.position.is_meta:
        shift.positions = tuple(shift.position.tolist())
