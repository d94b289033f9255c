"""A watch on every tensor operation that a file brings about, so that a small file cannot ask for huge work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from lilliput.errors import FormatError

OPERATIONS = 1 << 15


class Guard(TorchDispatchMode):
    """Inside it, `FormatError` is raised by operations that make more than is allowed.

    `largest` and `total` are the elements of one tensor and of all, `longest` is the size of one dimension. A result's
    size is learnt on the meta device before memory is asked for; one that depends on numbers is measured afterwards.
    """

    def __init__(self, *, largest: int, total: float = math.inf, longest: float = math.inf) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest, self.total, self.longest, self.operations = largest, total, longest, OPERATIONS

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the first operation imports PyTorch's compiler, which takes longer than most files

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.operations -= 1
        if self.operations < 0:
            raise FormatError(f"what the file describes takes over {OPERATIONS} operations")
        if _is_random_fill(func) and args[0].is_meta:  # no numbers, no draw, and no import of a compiler
            return args[0]
        if any(result.alias_info for result in func._schema.returns):  # memory that was counted when it was made
            return func(*args, **kwargs)
        foreseen = None if _is_free(args, kwargs) else _foresee(func, args, kwargs)
        self._count(foreseen or [])
        result = func(*args, **kwargs)
        if foreseen is None:
            self._count(_shapes(result))
        return result

    def _count(self, shapes: Sequence[Sequence[int]]) -> None:
        for shape in shapes:
            size = math.prod(shape)
            self.total -= size
            if size > self.largest or self.total < 0 or max(shape, default=0) > self.longest:
                raise FormatError(f"what the file describes takes a tensor of shape {list(shape)}, over a limit")


def _is_random_fill(func: Any) -> bool:
    """Whether an operation draws the numbers of its first argument, in place."""
    return torch.Tag.nondeterministic_seeded in func.tags and func._schema.name.endswith("_")


def _is_free(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the result has no memory: it is made on the meta device, or of tensors that are."""
    if (device := kwargs.get("device")) is not None:
        return bool(torch.device(device).type == "meta")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    return bool(tensors) and all(tensor.is_meta for tensor in tensors)


def _foresee(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[int, ...]] | None:
    """The shapes of the result; None where they cannot be known before."""
    try:
        if torch.Tag.pointwise in func.tags:  # known without the meta device, whose first operation takes a second
            return [np.broadcast_shapes(*_shapes((args, kwargs)))]
        args, kwargs = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
        if any(argument.name == "device" for argument in func._schema.arguments):
            kwargs = {**kwargs, "device": "meta"}
        return _shapes(func(*args, **kwargs))
    except (NotImplementedError, RuntimeError, ValueError):
        return None


def _shapes(found: Any) -> list[tuple[int, ...]]:
    """Of all tensors in what an operation takes or gives."""
    return [tuple(leaf.shape) for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
