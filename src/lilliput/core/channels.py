"""Which channels belong together: run the network once on the names of its channels instead of their values.

A convolution makes new names, batch norm and depthwise convolutions keep them, addition joins them, and cat, split, view,
permute, flatten and channel shuffle are executed on the names, so that no index arithmetic is written by hand (core/rules,
core/moves). Names joined together live and die together. An operation without a rule pins the names that reach it.

Names cannot see that a number in the code is a count of channels (`view(b, 512)`, `y[:, :4]`). So a trial follows: some
channels of every group are removed, and the network is compared with the one in which they are silenced (core/trial).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from lilliput.core import moves, rules  # noqa: F401 - they register what operations do to names
from lilliput.core.atoms import Channels, Group, Slot
from lilliput.core.edits import Resize
from lilliput.core.naming import followed, named
from lilliput.core.trial import deviates, tried
from lilliput.errors import ModelError

__all__ = ["Channels", "Group", "Slot", "channels", "planned"]


def channels(model: nn.Module, example: Tensor, *, verify: bool = True) -> Channels:
    """Name the channels of a network by one eager forward on `example`, (n, c, h, w).

    The model is not touched (copies run, in eval mode). With `verify`, what names claim is tried out, and channels whose
    removal computes something else are pinned, with the line of code that is responsible. Cost: a few microseconds an
    operation, and for the trial two forwards on a small image.
    Raises `ModelError` for a network that does not run on the example alone.
    """
    follow = followed(model, example)
    found = named(follow)
    return tried(model, example, found, follow.branches) if verify else found


def planned(model: nn.Module, example: Tensor, choose: Callable[[Channels], list[Resize]]) -> list[Resize]:
    """What `choose` would remove of a network's channels, tried out: the smaller network computes what the silenced one does.

    The names are first taken as they are, since a trial of the plan is needed in any case and is enough for nearly all
    networks. Only where it fails are the names tried one group at a time, and `choose` asked again with those that stood.
    Raises `ModelError` for a plan that fails even then.
    """
    follow = followed(model, example)
    found = named(follow)
    plan = choose(found)
    if not deviates(model, example, found, plan, follow.branches):
        return plan
    found = tried(model, example, found, follow.branches)
    plan = choose(found)
    if deviates(model, example, found, plan, follow.branches):
        raise ModelError(
            "without these channels the network computes something else than with them silenced: its code counts on their "
            "number, which a smaller trial did not show. `skip` the layers in question, or keep more."
        )
    return plan
