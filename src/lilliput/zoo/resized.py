"""Any network at another resolution than that of the images it is given."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.errors import ConfigError


class Resized(nn.Module):
    """A network that looks at its images at `resolution` x `resolution` pixels, resized bilinearly inside it.

    Multiply-adds and activations of convolutions change by about (resolution / size)². Files and runtimes take the images as
    they are, so networks of several resolutions serve one data set. The network's own layers are below `net`.
    Raises `ConfigError` for a resolution that is no whole number above 0.
    """

    def __init__(self, net: nn.Module, resolution: int) -> None:
        super().__init__()
        if not isinstance(resolution, int) or resolution < 1:
            raise ConfigError(f"`resolution` (={resolution}) is a number of pixels, at least 1")
        self.net, self.resolution = net, resolution

    def forward(self, x: Tensor) -> Tensor:
        small = F.interpolate(x, size=(self.resolution, self.resolution), mode="bilinear", align_corners=False)
        return self.net(small)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"resolution={self.resolution}"


def inherit(model: nn.Module, other: nn.Module) -> None:
    """Give `model` the tensors of `other` where the two are one network at different resolutions; else change nothing."""
    if not isinstance(model, Resized) and not isinstance(other, Resized):
        return
    own, others = (net.net if isinstance(net, Resized) else net for net in (model, other))
    found = others.state_dict()
    if {k: v.shape for k, v in own.state_dict().items()} == {k: v.shape for k, v in found.items()}:
        own.load_state_dict(found)
