"""Gates: what the loss does when a channel is turned down a little, everywhere it is read.

Each atom has a gate z = 1 that multiplies its channels at the input of every layer that reads them; z = 0 is the network
without the atom. All layers share the gate, so derivatives by z are those of removing coupled channels together, and
each image has gates of its own, so one backward pass gives the derivative of every image's own loss.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lilliput.core.channels import Group
from lilliput.data.seeds import generator
from lilliput.errors import ConfigError, ModelError
from lilliput.prune.evidence import Evidence, View, kinds
from lilliput.prune.listen import Place, listening, stage

WHO = "a criterion that looks at the loss"
OUTPUTS = 2048
"""The most outputs an image for which second derivatives are taken."""


@kinds.register("gates")
def gates(evidence: Evidence, group: Group) -> list[View]:
    """∂L/∂z of each image and atom, (images, atoms)."""
    return [_of(evidence, group, evidence.once(gradients))]


@kinds.register("curvature")
def curvature(evidence: Evidence, group: Group) -> list[View]:
    """Estimates of ∂²L/∂z² for each image and atom, (images, atoms), none negative: right on average over images."""
    return [_of(evidence, group, evidence.once(curvatures))]


def gradients(evidence: Evidence) -> Tensor:
    """∂L/∂z of every image and every atom, (images, all atoms). One forward and backward an image."""
    loss = evidence.look.need_loss(WHO)

    def first(outputs: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(loss(outputs, y) * len(y), gate)  # losses are means over images
        return found

    return _each(evidence, first)


def curvatures(evidence: Evidence) -> Tensor:
    """The diagonal of the Gauss-Newton matrix JᵀHJ of every image by its gates, (images, all atoms).

    J is ∂outputs/∂z, H = S·Sᵀ the second derivative of the loss by the outputs. (Jᵀ·S·r)² is the diagonal on average over
    random signs r, and has no noise from other gates, as products with a full Hessian would. One forward and backward an
    image, and as many small ones through the loss as there are outputs.
    """
    loss, draw = evidence.look.need_loss(WHO), generator("gates", evidence.look.seed)

    def second(outputs: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        root = _root(_bend(loss, outputs, y))
        signs = torch.randint(0, 2, root.shape[:2], generator=draw).to(root) * 2 - 1
        along = (root @ signs[:, :, None]).view(outputs.shape).to(outputs)
        (found,) = torch.autograd.grad(outputs, gate, along)
        return found.square()

    return _each(evidence, second)


def _bend(loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, y: Tensor) -> Tensor:
    """The second derivative of each image's loss by its outputs, (images, outputs, outputs)."""
    free = outputs.detach().requires_grad_()
    wide = outputs[0].numel()
    if wide > OUTPUTS:
        raise ConfigError(f"`hessian` needs networks of at most {OUTPUTS} outputs an image, and this has {wide}; use `fisher`")
    (slope,) = torch.autograd.grad(loss(free, y) * len(y), free, create_graph=True)
    if not slope.requires_grad:  # a loss that is linear in the outputs
        return free.new_zeros(len(y), wide, wide)
    rows = [torch.autograd.grad(each.sum(), free, retain_graph=True)[0] for each in slope.flatten(1).unbind(1)]
    return torch.stack([row.flatten(1) for row in rows], 1)


def _root(square: Tensor) -> Tensor:
    """S with S·Sᵀ = `square`, (images, n, n), in double precision; negative curvature counts as none."""
    square = square.double()
    small = 1e-9 * square.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(torch.double).tiny)
    lifted = square + small[:, None, None] * torch.eye(square.shape[1]).to(square)
    root, wrong = torch.linalg.cholesky_ex(lifted)
    if not wrong.any():
        return root
    values, vectors = torch.linalg.eigh(square)
    return vectors * values.clamp(min=0).sqrt()[:, None, :]


def _each(evidence: Evidence, derive: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Something about every image's gates, (images, all atoms), on the CPU, from `derive(outputs, targets, gates)`."""
    stand = stage(evidence)
    index = {place: _index(evidence, place, [group for group, _ in groups]) for place, groups in stand.items()}
    width, found = len(evidence.columns), []
    state: dict[str, Tensor] = {}

    def hear(place: Place, layer: nn.Module, x: Tensor) -> Tensor:
        gate = torch.cat([state["gate"], x.new_ones(len(state["gate"]), 1)], 1)  # the last is for what has no gate
        if len(x) % len(gate):
            raise ModelError(f"{place[0]}: {len(gate)} images become {len(x)} rows, so no row is one image's alone")
        opening = gate[:, index[place].to(x.device)].repeat_interleave(len(x) // len(gate), 0)  # (rows, channels)
        middle = [1] * (x.dim() - 2)
        by_last = isinstance(layer, nn.Linear)
        return x * (opening.view(len(x), *middle, -1) if by_last else opening.view(len(x), -1, *middle))

    with torch.enable_grad(), listening(evidence, stand, hear) as runner:
        for x, y in evidence.batches(WHO):
            state["gate"] = torch.ones(len(x), width, device=x.device, dtype=x.dtype, requires_grad=True)
            found.append(derive(runner(x), y, state["gate"]).detach().cpu())
    return torch.cat(found)


def _index(evidence: Evidence, place: Place, groups: list[Group]) -> Tensor:
    """For each channel at a place the number of its gate, or the number after the last for none."""
    mine = {atom for group in groups for atom in group.atoms}
    slot = next(s for s in groups[0].slots if (s.site, s.axis) == place)
    none = len(evidence.columns)
    return torch.tensor([evidence.columns[atom] if atom in mine else none for atom in slot.atoms.tolist()])


def _of(evidence: Evidence, group: Group, every: Tensor) -> View:
    first = evidence.columns[group.atoms[0]]
    return View(every[:, first : first + len(group.atoms)], torch.arange(len(group.atoms)))
