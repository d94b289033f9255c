"""Which line of a network's code first does something else once channels are gone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lilliput.core.edits import Resize
from lilliput.core.naming import traced

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-8}  # of the largest value; of narrower types 1e-2


def blame(large: nn.Module, small: nn.Module, image: Tensor, edits: Iterable[Resize]) -> str | None:
    """File and line of the first operation whose result in `small` is not what is left of its result in `large`.

    `large` is the network with channels silenced, `small` the one without them, after `edits`; it need not run to its end.
    """
    whole, cut = (traced(model, image) for model in (large, small))
    vectors = {(site, axis): names for site, axis, names in whole.slots}
    lost = [torch.zeros(1, dtype=torch.long)[:0]]
    for edit in edits:
        if (edit.site, edit.axis) not in vectors:  # a parameter that stood aside; layers of the same names say what is lost
            continue
        mask = torch.ones(len(vectors[edit.site, edit.axis]), dtype=torch.bool)
        mask[list(edit.keep)] = False
        lost.append(whole.names.roots(vectors[edit.site, edit.axis][mask]))
    gone = torch.cat(lost)
    assert whole.history is not None and cut.history is not None
    for before, after in zip(whole.history, cut.history, strict=False):
        if before.op != after.op:  # the code took another way
            return before.place
        for (value, names), (got, _) in zip(before.results, after.results, strict=False):
            expected = _left(value, whole.names.roots(names), gone)
            if expected is not None and (expected.shape != got.shape or not close(expected, got)):
                return after.place
    return None


def _left(value: Tensor, names: Tensor, gone: Tensor) -> Tensor | None:
    """A result without the channels that are gone; None where they are not whole slices of it."""
    hit = torch.isin(names, gone)
    for dim in range(value.dim()):
        if hit.shape[dim] > 1:
            stays = (~hit.movedim(dim, 0).flatten(1).all(1)).nonzero().flatten()
            value, hit = value.index_select(dim, stays.to(value.device)), hit.index_select(dim, stays)
    return None if hit.any() else value


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape are equal, up to rounding."""
    if not a.is_floating_point() or not a.numel():
        return torch.equal(a, b)
    bound = TOLERANCE.get(a.dtype, 1e-2) * float(a.abs().nan_to_num(0, 0, 0).max())
    return torch.allclose(a, b, rtol=0, atol=bound, equal_nan=True)
