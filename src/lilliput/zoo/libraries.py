"""Networks of other people's libraries by name: `timm:NAME` and `torchvision:NAME`, with `:classes=10` where that is not 1000.

What may be named is only what the library itself lists as a network, with nothing but numbers of classes and channels: no
function, no path, no address. So such a text needs no trust, even where a file says it. It imports a package that the user
installed and nothing that the file brings along; the file's limits hold for what is built.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.errors import ConfigError, ModelError, UnknownName
from lilliput.script import LIBRARIES
from lilliput.zoo.catalog import split

_SPELLING = re.compile(rf"({'|'.join(LIBRARIES)}):([\w.]+)(?::(.*))?")
_OPTIONS = {"timm": {"classes": "num_classes", "channels": "in_chans"}, "torchvision": {"classes": "num_classes"}}
_SHIFTED = ("googlenet", "inception_v3")  # in torchvision: the published weights want a change of the input, too
_operators: list[Any] = []


def is_library(text: str | None) -> bool:
    """Whether a text names a library's network, rightly or not.

    >>> [is_library(t) for t in ("timm:resnet18", "torchvision:resnet18:classes=10", "timm", "timm.models:resnet18", None)]
    [True, True, False, False, False]
    """
    return text is not None and text.startswith(tuple(f"{library}:" for library in LIBRARIES))


def build(text: str) -> nn.Module:
    """The network of `timm:NAME:OPTIONS` or `torchvision:NAME:OPTIONS`, with fresh weights.

    Options are `classes` and, for timm, `channels`. Raises `ModelError` that says what to install where the library is not,
    `UnknownName` for what it does not list, and `ConfigError` for another option.
    """
    library, name, options = _read(text)
    module = require(text)
    given = {_OPTIONS[library][key]: value for key, value in options.items()}
    try:
        model = _make(module, library, name, given)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{text}: {library} cannot build it: {str(error).splitlines()[0]}") from None
    spelled = ",".join(f"{key}={value}" for key, value in sorted(options.items()))
    model.architecture = f"{library}:{name}" + f":{spelled}" * bool(spelled)  # type: ignore[assignment]
    size = _size(module, library, name, model)
    model.input_shape = (options.get("channels", size[0]), *size[1:])  # type: ignore[assignment]
    return model


def published(text: str) -> Mapping[str, Tensor]:
    """The trained tensors that the library publishes for a network, from its cache, or else fetched from where it keeps them.

    Raises `ModelError` where there are none, or none can be had.
    """
    library, name, _ = _read(text)
    module = require(text)
    if library == "torchvision" and name in _SHIFTED:
        raise ModelError(f"{text}: its published weights want inputs of another range; build it in `file.py:function`")
    try:
        if library == "timm":
            state: Mapping[str, Tensor] = module.create_model(name, pretrained=True).state_dict()
        else:
            weights = module.models.get_model_weights(name).DEFAULT
            state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # what a download or a cache raises is of many kinds
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{text}: no published weights in {library}'s cache, and none to be had ({first})") from None
    return state


def require(text: str) -> Any:
    """The library of a text. Raises `ModelError` that says how to get it."""
    library = text.partition(":")[0]
    if importlib.util.find_spec(library) is None:
        raise ModelError(f"`{text}` is a network of {library}, which is not installed: pip install {library}")
    try:
        vision = _torchvision() if importlib.util.find_spec("torchvision") is not None else None  # timm imports it, too
        return vision if library == "torchvision" else importlib.import_module(library)
    except (ImportError, RuntimeError, OSError) as error:
        first = str(error).splitlines()[0]
        raise ModelError(
            f"{library} is installed and cannot be imported ({first}): install the build for this PyTorch"
        ) from None


def _torchvision() -> Any:
    """torchvision, also where its compiled part is of another build of PyTorch.

    Its import then fails for want of two operators, which boxes are sorted by; no network here calls them, so they are
    declared without a kernel.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _operators.append(declared)  # they last as long as this object
    return importlib.import_module("torchvision")


def _read(text: str) -> tuple[str, str, dict[str, int]]:
    found = _SPELLING.fullmatch(text)
    if found is None:
        raise ConfigError(f"`{text}` is not `timm:NAME` or `torchvision:NAME`, with options as in `:classes=10`")
    library, name, rest = found[1], found[2], found[3]
    options = split(f"{name}:{rest or ''}")[1]
    for key, value in options.items():
        if key not in _OPTIONS[library]:
            raise ConfigError(f"{library}:{name}: no option is called `{key}`. Options: {', '.join(_OPTIONS[library])}.")
        if type(value) is not int or not 1 <= value <= 100_000:
            raise ConfigError(f"{library}:{name}: `{key}` (={value}) is a number from 1")
    return library, name, options


def _make(module: Any, library: str, name: str, given: dict[str, Any]) -> nn.Module:
    if library == "timm":
        if not module.is_model(name):
            raise _unknown(library, name, module.list_models())
        made: nn.Module = module.create_model(name, **given)
        return made
    listed = module.models.list_models(module=module.models)
    if name not in listed:
        raise _unknown(library, name, listed)
    with warnings.catch_warnings():  # of initialisations that will change in a later version
        warnings.simplefilter("ignore", FutureWarning)
        made = module.models.get_model(name, weights=None, **given)
    return made


def _unknown(library: str, name: str, listed: list[str]) -> UnknownName:
    near = difflib.get_close_matches(name, listed, n=6, cutoff=0.4)
    return UnknownName(f"network of {library}", name, near or listed[:6])


def _size(module: Any, library: str, name: str, model: Any) -> tuple[int, int, int]:
    """(channels, height, width) that the library says its network is for."""
    if library == "timm":
        channels, height, width = model.pretrained_cfg.get("input_size", (3, 224, 224))
        return channels, height, width
    side = module.models.get_model_weights(name).DEFAULT.transforms.keywords["crop_size"]
    return 3, side, side
