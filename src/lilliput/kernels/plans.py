"""Layers of the native core, packed once for as long as the tensors they came from stay what they are."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

import lilliput.kernels as kernels
from lilliput.errors import ConfigError, ModelError, UnknownName

# By the first tensor: shape -> (who the tensors were, the packed layer).
_kept: Any = WeakTensorKeyDictionary()
_said: list[bool] = []


def core() -> Any:
    """The native core, or None; that PyTorch does its work instead is said once."""
    if kernels._native is None and not _said:
        _said.append(True)
        warnings.warn("the native core was not built, so PyTorch computes packed layers: slower than dense ones", stacklevel=3)
    return kernels._native


def planned(key: Hashable, tensors: Sequence[Tensor | None], make: Callable[[], Any]) -> Any:
    """What `make` packs, kept by the first tensor until any of the tensors changes. `ModelError` for what no kernel takes."""
    first = tensors[0]
    if any(t is not None and t.is_inference() for t in tensors):  # nothing tells when these change
        return packed(make)
    kept = _kept.setdefault(first, {})
    found = kept.get(key)
    if found is None or not _same(found[0], tensors):
        found = kept[key] = ([_mark(t) for t in tensors], packed(make))
    return found[1]


def packed(make: Callable[[], Any]) -> Any:
    """`make()`, with the native core's errors in this package's words."""
    try:
        return make()
    except KeyError as error:
        raise _unknown(str(error.args[0])) from None
    except ValueError as error:
        raise ModelError(f"the native core takes no layer like this: {error}") from None


def _unknown(what: str) -> Exception:
    names = dict.fromkeys(name for _, name, usable in kernels.rows() if usable)
    if what.startswith("this processor"):
        return ConfigError(f"{what} ($LILLIPUT_KERNEL or kernel=). Here run: {', '.join(names)}")
    return UnknownName("kernel ($LILLIPUT_KERNEL or kernel=)", kernels.forced() or "?", names)


def _mark(tensor: Tensor | None) -> tuple[Any, int] | None:
    return None if tensor is None else (weakref.ref(tensor), tensor._version)


def _same(marks: Sequence[tuple[Any, int] | None], tensors: Sequence[Tensor | None]) -> bool:
    for mark, tensor in zip(marks, tensors, strict=True):
        if (mark is None) != (tensor is None):
            return False
        if mark is not None and tensor is not None and (mark[0]() is not tensor or mark[1] != tensor._version):
            return False
    return True
