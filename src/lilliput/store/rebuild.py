"""A record becomes a network again: the architecture is built, the edits are performed. Structure only, no weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lilliput import script
from lilliput.core.perform import perform
from lilliput.core.record import Record, attach
from lilliput.errors import FormatError, LilliputError, ModelError, UnknownName
from lilliput.store.guard import Guard
from lilliput.zoo import libraries
from lilliput.zoo.catalog import architectures, create

LARGEST = 1 << 28  # elements of an architecture before its edits: a gigabyte of float32
LONGEST = 1 << 20  # of one dimension: some layers keep a Python list as long as they have channels
EDITED = 1 << 30  # elements that all edits together may make where they cost memory


def factory(text: str, trust: bool) -> Callable[[], nn.Module]:
    """What builds the network of an architecture text.

    The text is a spelling of the zoo (`resnet20:width=0.5`), a network of a library (`timm:NAME`, `torchvision:NAME`), or
    `path/file.py:function` or `package.module:function`: code of the user's, which is run only with `trust` and is else a
    `FormatError`. Anything else is an `UnknownName`.
    """
    name = text.partition(":")[0]
    if name in architectures:
        return partial(create, text)
    if libraries.is_library(text):
        return partial(libraries.build, text)
    if not script.is_code(text):
        raise UnknownName("architecture", name, architectures)
    if not trust:
        raise FormatError(f"`{text}` is code, and is run only for a file that you trust: load(path, trust=True)")
    return partial(_call, text)


def _call(text: str) -> nn.Module:
    model = script.call(text)
    if not isinstance(model, nn.Module):
        name = text.rpartition(":")[2]
        raise ModelError(f"{text}: `{name}()` returned a {type(model).__name__}, not a torch.nn.Module")
    model.architecture = text  # type: ignore[assignment]
    return model


def rebuild(record: Record, *, trust: bool = False, device: str = "cpu") -> nn.Module:
    """The network of a record, in eval mode, with the weights its constructor gives it; the random state is untouched.

    On the meta device nothing is computed. Without `trust`, the user's code is refused, and so are networks and edits
    that would take more than the limits in docs/format.md. Raises what building and performing raise.
    """
    if record.architecture is None:
        raise FormatError("the record has no architecture, so there is nothing to build")
    with torch.random.fork_rng(devices=[]), torch.device(device):
        with _limited(trust, total=LARGEST, longest=LONGEST):
            model = factory(record.architecture, trust)()
        with _limited(trust, total=math.inf if device == "meta" else EDITED):
            model = perform(model, record.edits, weights=False)
    attach(model, architecture=record.architecture, recipe=record.recipe)
    return model.eval()


def skeleton(record: Record, *, trust: bool = False) -> nn.Module:
    """The network of a record, to be filled from a state dict: on the meta device where that loses nothing.

    It is built on the CPU where it is the user's code, where building needs numbers, and where tensors that no state
    dict holds (non-persistent buffers, plain attributes) would be left without any.
    """
    if script.is_code(record.architecture or ""):
        return rebuild(record, trust=trust)
    try:
        model = rebuild(record, trust=trust, device="meta")
    except LilliputError:
        raise
    except Exception:  # such as a number read from a tensor; what is wrong by itself is wrong on the CPU too
        return rebuild(record, trust=trust)
    return rebuild(record, trust=trust) if _leaves_holes(model) else model


def _leaves_holes(model: nn.Module) -> bool:
    filled = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    leaves = (leaf for module in model.modules() for leaf in tree_leaves(vars(module)))
    return any(isinstance(leaf, Tensor) and leaf.is_meta and id(leaf) not in filled for leaf in leaves)


def _limited(trust: bool, *, total: float, longest: float = math.inf) -> AbstractContextManager[object]:
    return nullcontext() if trust else Guard(largest=LARGEST, total=total, longest=longest)
