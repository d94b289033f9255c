"""Models in `.lil` files: saved as architecture, edits and tensors; loaded by building, editing and filling."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lilliput import kernels, script
from lilliput.core import edits as edit_values
from lilliput.core.edits import Edit, Resize
from lilliput.core.maps import Codes
from lilliput.core.record import Record, record
from lilliput.errors import FormatError, LilliputError, ModelError, UnknownName, at
from lilliput.store.format import CODED, PLAIN, START, Source, called, read, write
from lilliput.store.header import Entry, Header
from lilliput.store.quantized import decode_weights, encode_weights
from lilliput.store.rebuild import skeleton
from lilliput.store.sections import CODERS, blame, pack, unpack
from lilliput.store.tensors import Stored, stored
from lilliput.zoo import libraries

EDITS = 1 << 13
KEPT = 1 << 22  # channels that all resizes together may name


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    recipe: str | None = None,
    coder: str | None = None,
) -> int:
    """Write a model to a `.lil` file and return its size in bytes.

    The file holds the architecture's spelling, the edits and every tensor of the state dict. Of a weight whose last map
    is a quantizer it holds the codes, or those of a quantizer for files that stands before it: what loads computes with the
    same numbers bit for bit, but the float weight is no longer behind them. Where the layer would not compute the same from
    the decoded weight, as behind a map that is not idempotent, the float weight itself is stored (`account` shows its bits).
    `architecture` names what builds the network, for one that is not from the zoo; `recipe` is the recipe's text.
    `coder` is how numbers become bytes: `context` (the smallest; the default where the native core was built), `huffman`
    (for comparison), or `plain` (version 1 of the format: whole numbers packed, floats as they are).

    Raises `ModelError` for a model that could not be built again, and `WorkError` if the file cannot be written.
    """
    coder = coder or ("context" if kernels.backend() == "native" else "plain")
    if coder not in CODERS:
        raise UnknownName("coder", coder, CODERS)
    kept = _record(model, architecture, recipe)
    tensors, tied = _state(model)
    if not script.is_code(kept.architecture or ""):  # that would be run, and saving is no reason to run it
        _check_rebuilds(kept, model)
    codes = encode_weights(model, tensors)
    sections, payloads = pack(tensors, coder)
    with at(str(path)):
        version = PLAIN if coder == "plain" else CODED
        return write(path, Header(kept.to_json(), sections, codes, tied), payloads, version)


def file_bytes(model: nn.Module) -> int:
    """What a network's `.lil` weighs; its tensors alone where nothing says how to build the network again."""
    if record(model).architecture is None:
        return sum(t.numel() * t.element_size() for t in model.state_dict().values())
    with tempfile.TemporaryDirectory() as folder:
        return save(model, Path(folder) / "model.lil")


def load(source: Source, *, trust: bool = False) -> nn.Module:
    """Read the model in a `.lil` file (or in its bytes), in eval mode on the CPU.

    With `trust`, an architecture that is the user's code is run, and limits on what is built are lifted; without, it is
    refused. Raises `FormatError` with the offset for anything that is not a valid file, whatever its bytes.
    """
    with at(called(source)):
        content = read(source)
        with blame(START.size):
            kept = _record_of(content.header.record, trust)
        if libraries.is_library(kept.architecture):
            libraries.require(str(kept.architecture))  # that a package is missing is no fault of the file
        runs_code = trust and script.is_code(kept.architecture or "")
        with nullcontext() if runs_code else blame(START.size):  # what the user's code raises is no fault of the file
            model = skeleton(kept, trust=trust)
        tensors = list(unpack(content))
        with blame(START.size):
            _fill(model, tensors, content.header, trust)
    return model


def read_record(source: Source) -> Record:
    """The record of a `.lil` file; nothing is built."""
    with at(called(source)):
        content = read(source)
        with blame(START.size):
            return _record_of(content.header.record, trust=False)


def _record(model: nn.Module, architecture: str | None, recipe: str | None) -> Record:
    kept = record(model)
    kept = replace(kept, architecture=architecture or kept.architecture, recipe=recipe or kept.recipe)
    if kept.architecture is None:
        raise ModelError(
            f"a `{type(model).__name__}` does not say what builds it, and a file of it could not be loaded. "
            'Name a function that does: save(model, path, architecture="file.py:function")'
        )
    return kept


def _state(model: nn.Module) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors of the state dict, each once, and the further names of those that have several."""
    first: dict[int, str] = {}
    tensors: dict[str, Stored] = {}
    tied: dict[str, str] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise ModelError(f"{name}: a .lil file holds tensors, and this is a {type(value).__name__} (extra state)")
        if id(value) in first:
            tied[name] = first[id(value)]
        else:
            first[id(value)] = name
            tensors[name] = stored(name, value)
    return tensors, tied


def _check_rebuilds(kept: Record, model: nn.Module) -> None:
    """What is written must be what the record builds; a model changed by anything but edits is not."""
    try:
        built = skeleton(_record_of(kept.to_json(), trust=False))
        _check_shapes(built, model.state_dict(keep_vars=True))
    except LilliputError as error:
        raise ModelError(
            f"the model is not what its record (`{kept.architecture}`, {len(kept.edits)} edits) builds: {error}. "
            'Name a function that builds it: save(model, path, architecture="file.py:function")'
        ) from None


def _check_shapes(model: nn.Module, found: Mapping[str, Tensor]) -> None:
    wanted = model.state_dict(keep_vars=True)
    for name, tensor in wanted.items():
        if name not in found:
            raise FormatError(f"{name} is missing")
        if tensor.shape != found[name].shape:
            raise FormatError(f"{name} is {list(found[name].shape)}, and the record makes it {list(tensor.shape)}")
        if tensor.is_floating_point() != found[name].is_floating_point():
            raise FormatError(f"{name} is {found[name].dtype}, and the record makes it {tensor.dtype}")
    if unexpected := sorted(found.keys() - wanted.keys()):
        raise FormatError(f"{unexpected[0]} has no place in what the record makes")


def _record_of(value: dict[str, Any], trust: bool) -> Record:
    """The record, its edits read one by one so that a short text cannot name more channels than the limit."""
    written = value.get("edits")
    if trust or not isinstance(written, list):
        return Record.from_json(value)
    if len(written) > EDITS:
        raise FormatError(f"there are {len(written)} edits, over the limit of {EDITS}")
    kept = Record.from_json({**value, "edits": []})
    edits: list[Edit] = []
    channels = 0
    for each in written:
        edits.extend(edit_values.from_json([each]))
        channels += len(edits[-1].keep) if isinstance(edits[-1], Resize) else 0
        if channels > KEPT:
            raise FormatError(f"the edits name over {KEPT} channels")
    return replace(kept, edits=tuple(edits))


def _fill(model: nn.Module, tensors: list[tuple[Entry, Tensor]], header: Header, trust: bool) -> None:
    """Give a skeleton its tensors: first all but the codes, which the maps' own tensors help to decode."""
    found = {entry.name: tensor for entry, tensor in tensors}
    bounds = {entry.name: entry.bounds for entry, _ in tensors}
    own = model.state_dict(keep_vars=True)
    side = {name for each in header.codes.values() for name in each.values()}
    state = {name: tensor for name, tensor in found.items() if name in own or name not in side}
    for name in header.codes:
        state[name] = torch.zeros(()).expand(found[name].shape)  # stands in for the weight until it is decoded
    state.update({alias: state[name] for alias, name in header.tied.items()})
    _check_shapes(model, state)
    model.load_state_dict(state, assign=True)
    codes = {
        name: Codes(found[name], *(bounds[name] or (0, 0)), {key: found[where] for key, where in sides.items()})
        for name, sides in header.codes.items()
    }
    decode_weights(model, codes, trust=trust)
    _tie(model, header.tied)


def _tie(model: nn.Module, tied: Mapping[str, str]) -> None:
    """Make one tensor again of those that were one."""
    for alias, name in tied.items():
        (owner, ours), (other, theirs) = (_slot(model, n) for n in (alias, name))
        table = "_parameters" if ours in owner._parameters else "_buffers"
        vars(owner)[table][ours] = vars(other)[table][theirs]


def _slot(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    site, _, attribute = name.rpartition(".")
    return model.get_submodule(site), attribute
