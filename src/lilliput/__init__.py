"""Lilliput makes a trained convolutional network small and fast enough for the device in your hand, and proves it."""

from importlib.metadata import version

__version__ = version("lilliput")
__all__: list[str] = []
