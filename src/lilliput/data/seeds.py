"""Random numbers that depend on what they are for, never on what was drawn before."""

from __future__ import annotations

import hashlib

import torch


def generator(*purpose: int | str) -> torch.Generator:
    """A generator seeded by the SHA-256 of its purpose, such as `("shuffle", seed, epoch)`; the global one stays."""
    digest = hashlib.sha256(repr(purpose).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
