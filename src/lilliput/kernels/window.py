"""How a convolution slides over an image: what its native kernels, PyTorch's and the ONNX nodes all have to be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lilliput.errors import ModelError

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Kernel size, stride, padding and dilation, each (vertical, horizontal), and the number of groups."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Window:
        """Of a layer of PyTorch's. Raises `ModelError` for padding that is no pair of numbers of zeros."""
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ModelError(
                f"no packed layer pads with `padding_mode={conv.padding_mode}`, `padding={conv.padding}`. "
                "Pad with numbers of zeros, or leave this layer as it is"
            )
        return cls(pair(conv.kernel_size), pair(conv.stride), pair(conv.padding), pair(conv.dilation), conv.groups)

    def output(self, size: Sequence[int]) -> Pair:
        """Height and width of the output for an image of this height and width. Raises `ModelError` where there is none."""
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        left = [n + 2 * p - r for n, p, r in zip(size, self.padding, reach, strict=True)]
        if min(left) < 0:
            raise ModelError(f"an image of `{tuple(size)}` with padding is smaller than the kernel's reach of `{tuple(reach)}`")
        return left[0] // self.stride[0] + 1, left[1] // self.stride[1] + 1

    def numbers(self, inputs: int, outputs: int, size: Sequence[int]) -> tuple[int, ...]:
        """The fields of `lilliput_conv` (csrc/conv.h), in their order."""
        height, width = size
        pairs = (self.kernel, self.stride, self.padding, self.dilation)
        return inputs, outputs, self.groups, height, width, *(n for each in pairs for n in each)


def pair(numbers: Sequence[int]) -> Pair:
    """Two numbers, of which PyTorch gives any sequence."""
    first, second = numbers
    return int(first), int(second)


def four(x: Tensor, what: str) -> tuple[int, int, int, int]:
    """The four dimensions of a batch of images. Raises `ModelError` for any other tensor."""
    if x.dim() != 4:
        raise ModelError(f"{what} takes a batch of images (n, c, h, w), and this tensor has shape `{tuple(x.shape)}`")
    n, c, h, w = x.shape
    return n, c, h, w
