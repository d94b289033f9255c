"""Peak activation memory is that of PyTorch's own allocator, and small cases are known by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput import zoo
from lilliput.measure.counts import profile


def allocated(model: nn.Module, x: Tensor) -> int:
    """The most PyTorch's CPU allocator had given out at any time outside a convolution, and the input on top.

    What a convolution takes and gives back before it ends is scratch memory: columns and layouts that differ from one
    kernel to the next, so it is no property of the network.
    """
    model.eval()
    with (
        torch.no_grad(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen,
    ):
        model(x)
    now = peak = end = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.start_ns() >= end:
            peak = max(peak, now)  # also what a convolution that has ended left behind
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now if event.start_ns() >= end else 0)
        elif event.name().startswith("aten::conv"):
            end = max(end, event.end_ns())
    return max(peak, now) + x.nbytes


class Dense(nn.Module):
    """Every layer sees the outputs of all layers before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(16 + 12 * i, 12, 3, padding=1) for i in range(5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(F.relu(x))], 1)
        return x.mean((2, 3))


class Inception(nn.Module):
    """Four branches side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU(inplace=True))
        self.one = nn.Conv2d(24, 16, 1)
        self.three = nn.Sequential(nn.Conv2d(24, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1))
        self.five = nn.Sequential(nn.Conv2d(24, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 5, padding=2))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(24, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([F.relu(branch(x)) for branch in (self.one, self.three, self.five, self.pool)], 1)
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


class Attention(nn.Module):
    """Patches, then attention written by hand, with views everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 48, 4, 4)
        self.mix = nn.Linear(48, 3 * 48)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)  # b t c
        q, k, v = self.mix(x).unflatten(-1, (3, 4, 12)).permute(2, 0, 3, 1, 4)  # b heads t 12
        weights = torch.softmax(q @ k.transpose(-1, -2) / 12**0.5, -1)
        x = x + (weights @ v).transpose(1, 2).flatten(2)
        return self.head(x.mean(1))


def mobile() -> nn.Module:
    """Depthwise and pointwise convolutions with activations in place."""
    parts: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(inplace=True)]
    width = 16
    for wider, stride in ((32, 1), (64, 2), (64, 1), (128, 2)):
        depthwise = nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False)
        parts += [depthwise, nn.BatchNorm2d(width), nn.ReLU6(inplace=True)]
        parts += [nn.Conv2d(width, wider, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU6(inplace=True)]
        width = wider
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def decoder() -> nn.Module:
    """Dilated and transposed convolutions, interpolation."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, dilation=2),
        nn.GELU(),
        nn.ConvTranspose2d(8, 4, 4, 2),
        nn.Upsample(scale_factor=2),
        nn.MaxPool2d(2),
    )


NETWORKS = {
    "residual": lambda: zoo.create("resnet20"),
    "dense": Dense,
    "inception": Inception,
    "mobile": mobile,
    "attention": Attention,
    "decoder": decoder,
}


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_peak_is_that_of_the_allocator(name: str, batch: int) -> None:
    model, x = NETWORKS[name](), torch.randn(batch, 3, 32, 32)
    assert profile(model, x, batch=1).peak_activation_bytes == pytest.approx(allocated(model, x), rel=0.10)


class Steps(nn.Module):
    def __init__(self, steps: object) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(x)  # type: ignore[operator]


def held(x: Tensor) -> Tensor:
    a = x + 1
    b = a + 1
    return a + b


def in_place(x: Tensor) -> Tensor:
    return (x + 1).relu_().mul_(2).add_(1)


def views(x: Tensor) -> Tensor:
    y = (x + 1).view(4, 64).t().unsqueeze(0)
    return y[0, :3].expand(2, 3, 4)


def branches(x: Tensor) -> Tensor:
    parts = (x + 1).chunk(4)
    return sum(part.sum() for part in parts)  # type: ignore[return-value]


def resized(x: Tensor) -> Tensor:
    y = torch.empty(0)
    return torch.add(x, 1, out=y.resize_(256))


@pytest.mark.parametrize(
    ("steps", "tensors"),
    [(lambda x: x, 1), (lambda x: x + 1, 2), (lambda x: ((x + 1) + 1) + 1, 3), (held, 4), (in_place, 2), (views, 2)],
)
def test_what_is_alive_at_most(steps: object, tensors: int) -> None:
    """256 floats are 1024 bytes; `(x + 1) + 1` has its input, one operand and one result at once."""
    assert profile(Steps(steps), torch.randn(256), batch=1).peak_activation_bytes == 1024 * tensors


def test_scalars_and_resized_tensors_count() -> None:
    assert profile(Steps(branches), torch.randn(256), batch=1).peak_activation_bytes in range(2048, 2048 + 33)
    assert profile(Steps(resized), torch.randn(256), batch=1).peak_activation_bytes == 2048


def test_a_slice_of_a_data_set_counts_as_the_slice() -> None:
    data = torch.randn(1000, 16)
    assert profile(nn.ReLU(), data[5:7], batch=1).peak_activation_bytes == 2 * 2 * 16 * 4


def test_weights_and_buffers_are_not_activations() -> None:
    found = profile(nn.Sequential(nn.Linear(100, 100), nn.BatchNorm1d(100)), torch.randn(1, 100))
    assert found.peak_activation_bytes == pytest.approx(3 * 400, abs=0)


def test_memory_of_a_larger_batch_is_divided() -> None:
    model = zoo.create("resnet8")
    one, four = (profile(model, torch.randn(n, 3, 32, 32)).peak_activation_bytes for n in (1, 4))
    assert one == four
