"""A watch on every tensor operation that a file brings about, so that a small file cannot ask for huge work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.operations -= 1
        if self.operations < 0:
            raise FormatError(f"what the file describes takes over {OPERATIONS} operations")
        if any(result.alias_info for result in func._schema.returns):  # memory that was counted when it was made
            return func(*args, **kwargs)
        foreseen = None if _is_free(args, kwargs) else _foresee(func, args, kwargs)
        self._count(foreseen)
        result = func(*args, **kwargs)
        if foreseen is None:
            self._count(result)
        return result

    def _count(self, result: Any) -> None:
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                size = math.prod(tensor.shape)
                self.total -= size
                if size > self.largest or self.total < 0 or max(tensor.shape, default=0) > self.longest:
                    raise FormatError(f"what the file describes takes a tensor of shape {list(tensor.shape)}, over a limit")


def _is_free(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the result has no memory: it is made on the meta device, or of tensors that are."""
    if (device := kwargs.get("device")) is not None:
        return bool(torch.device(device).type == "meta")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    return bool(tensors) and all(tensor.is_meta for tensor in tensors)


def _foresee(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result on the meta device, which has shapes and no numbers; None where it cannot be known there."""
    args, kwargs = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
    if any(argument.name == "device" for argument in func._schema.arguments):
        kwargs = {**kwargs, "device": "meta"}
    try:
        return func(*args, **kwargs)
    except (NotImplementedError, RuntimeError):
        return None
