"""Efficient and classic convolutional networks, exact to their papers; one file a family, plain `nn.Module`s."""

from lilliput.registry import discover
from lilliput.zoo.catalog import Architecture, arch, architectures, create, names

discover(__name__, __path__)

__all__ = ["Architecture", "arch", "architectures", "create", "names"]
