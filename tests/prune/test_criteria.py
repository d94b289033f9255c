"""Criteria against their formulas, written another way: finite differences, second derivatives, sums over filters."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from gated import Odd, gated, look, loss_by_gates, losses_by_gates, small
from torch import Tensor, nn

from lilliput import testing
from lilliput.core.channels import Channels as ChannelNames
from lilliput.core.channels import channels
from lilliput.core.method import Look
from lilliput.core.perform import perform
from lilliput.errors import ConfigError, DataError, ModelError
from lilliput.measure import profile
from lilliput.prune import Channels, activity
from lilliput.prune.criteria import criteria
from lilliput.prune.evidence import Evidence

LOOK = look()


def scored(model: nn.Module, name: str, seen: Look = LOOK, couple: str = "mean", per: str = "channel") -> dict[str, Tensor]:
    """Scores by the name of the group."""
    groups = channels(model, seen.example).groups
    return {g.name: s for g, s in zip(groups, Evidence(model, groups, seen).scores(criteria[name], couple, per), strict=True)}


def every_atom(model: nn.Module) -> tuple[ChannelNames, list[int]]:
    found = channels(model, LOOK.example)
    return found, [atom for group in found.groups for atom in group.atoms]


def all_images() -> tuple[Tensor, Tensor]:
    xs, ys = zip(*LOOK.need_batches("a test"), strict=True)
    return torch.cat(xs), torch.cat(ys)


@cache
def slopes() -> Tensor:
    """∂L/∂z of each image, by central differences, (images, atoms)."""
    model = small()
    found, atoms = every_atom(model)
    x, y = all_images()
    step, ones, columns = 1e-5, torch.ones(len(atoms), dtype=torch.double), []
    for number in range(len(atoms)):
        move = step * F.one_hot(torch.tensor(number), len(atoms))
        ends = [losses_by_gates(model, found, atoms, ones + sign * move, x, y) for sign in (1, -1)]
        columns.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(columns, 1).detach()


def test_fisher_is_half_the_mean_squared_slope_of_each_images_loss() -> None:
    expected = slopes().square().mean(0) / 2
    torch.testing.assert_close(torch.cat(list(scored(small(), "fisher").values())), expected, rtol=1e-5, atol=1e-10)


def test_taylor_squares_the_mean_slope_of_a_minibatch() -> None:
    expected = slopes().mean(0).square()  # twelve images are one minibatch
    torch.testing.assert_close(torch.cat(list(scored(small(), "taylor").values())), expected, rtol=1e-5, atol=1e-10)


def test_taylor_is_the_sum_of_weights_times_gradients() -> None:
    model, (x, y) = small(), all_images()
    F.cross_entropy(model(x), y).backward()
    weight = model.wide.weight
    assert weight.grad is not None
    by_weights = (weight * weight.grad).sum((0, 2, 3))  # the stream is read by `wide` and by `inner`
    inner = model.inner.weight
    assert inner.grad is not None
    by_weights = by_weights + (inner * inner.grad).sum((0, 2, 3))
    torch.testing.assert_close(scored(small(), "taylor")["stem"], by_weights.square().detach())


def test_hessian_is_half_the_second_derivative_where_outputs_are_linear_in_the_gates() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 9, 8), nn.Flatten(), nn.ReLU(), nn.Linear(9, 3)).double()
    found, atoms = every_atom(model)
    x, y = (t[:2] for t in all_images())
    ones = torch.ones(len(atoms), dtype=torch.double)
    exact = torch.autograd.functional.hessian(lambda z: loss_by_gates(model, found, atoms, z, x, y), ones)
    expected = exact.diagonal() / 2  # type: ignore[union-attr]
    copies = replace(LOOK, batches=[(x.repeat(16, 1, 1, 1), y.repeat(16))] * 64)
    (many,) = Evidence(model, found.groups, copies, images=2048).scores(criteria["hessian"])
    torch.testing.assert_close(many, expected, rtol=0.15, atol=1e-6)


def test_hessian_follows_the_second_derivative_in_a_network() -> None:
    model, (x, y) = small(), all_images()
    found, atoms = every_atom(model)
    ones = torch.ones(len(atoms), dtype=torch.double)
    logits = model(x).softmax(1).detach()  # with the labels drawn from the network, the rest of the Hessian is zero on average
    exact = 0.0
    for label in range(3):
        for p, image in zip(logits[:, label], x.split(1), strict=True):
            by_gates = partial(loss_by_gates, model, found, atoms, x=image, y=torch.tensor([label]))
            (slope,) = torch.autograd.functional.jacobian(by_gates, (ones,))
            exact = exact + p * slope.square() / len(x)
    copies = replace(LOOK, batches=[(x, y)] * 64)
    many = torch.cat(Evidence(model, found.groups, copies, images=64 * len(x)).scores(criteria["hessian"]))
    torch.testing.assert_close(many, exact / 2, rtol=0.2, atol=1e-6)


def test_batches_are_only_a_way_to_deliver_images() -> None:
    for name in ("fisher", "hessian", "pca", "dcp", "activation"):
        one, other = scored(small(), name), scored(small(), name, look(batch=12))
        for group in one:
            if name not in ("hessian", "dcp"):  # what is drawn depends on the batch
                torch.testing.assert_close(one[group], other[group], rtol=1e-6, atol=1e-12)


def test_only_the_images_asked_for_are_looked_at() -> None:
    groups = channels(small(), LOOK.example).groups
    few = Evidence(small(), groups, LOOK, images=7).scores(criteria["fisher"])
    x, y = (t[:7] for t in all_images())
    same = Evidence(small(), groups, replace(LOOK, batches=[(x, y)]), images=512).scores(criteria["fisher"])
    for one, other in zip(few, same, strict=True):
        torch.testing.assert_close(one, other)


def test_activation_and_apoz_describe_what_is_read() -> None:
    model, (x, _) = small(), all_images()
    with torch.no_grad():
        stream = torch.tanh(model.bn(model.stem(x)))
        inside = torch.tanh(model.depth(torch.relu(model.norm(model.inner(stream)))))
        read = torch.relu(model.wide(stream + model.back(inside)))
    size, share = read.abs().mean((0, 2, 3)), (read != 0).double().mean((0, 2, 3))
    halves = channels(model, LOOK.example)  # two groups of four inputs leave at the same places, so atoms are pairs
    assert len(next(g for g in halves.groups if g.name == "wide").atoms) == 4
    pairs = size.view(2, 4).mean(0)
    torch.testing.assert_close(scored(model, "activation")["wide"], pairs / pairs.mean())
    pairs = share.view(2, 4).mean(0)
    torch.testing.assert_close(scored(model, "apoz")["wide"], pairs / pairs.mean())
    torch.testing.assert_close(scored(model, "activation")["inner"], (m := inside.abs().mean((0, 2, 3))) / m.mean())


def test_pca_with_all_components_is_the_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, _) = small(), all_images()
    with torch.no_grad():
        inside = torch.tanh(model.depth(torch.relu(model.norm(model.inner(torch.tanh(model.bn(model.stem(x))))))))
    rows = inside.movedim(1, -1).flatten(0, -2)
    values, vectors = torch.linalg.eigh(rows.mT.cov(correction=0))
    shares = (values.flip(0) / values.sum()).cumsum(0)
    count = next(i + 1 for i, share in enumerate(shares.tolist()) if share >= 0.95)
    leading = (values * vectors.square())[:, -count:].sum(1)
    assert 1 < count < 6
    torch.testing.assert_close(scored(model, "pca")["inner"], leading / leading.mean())
    monkeypatch.setattr(activity, "ENERGY", 1.0)
    torch.testing.assert_close(scored(model, "pca")["inner"], (v := rows.var(0, correction=0)) / v.mean())


def test_dcp_is_the_slope_of_both_losses_where_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lilliput.prune.discrimination.EACH", 64)  # all positions, so nothing is drawn
    model, (x, y) = small(), all_images()
    with torch.no_grad():
        stream = torch.tanh(model.bn(model.stem(x)))
        inside = torch.tanh(model.depth(torch.relu(model.norm(model.inner(stream)))))
        wanted = F.conv2d(inside, model.back.weight)
        means = wanted.mean((2, 3))
        labels = F.one_hot(y).double()
        centred = means - means.mean(0)
        ridge = 1e-3 * centred.square().mean() * len(centred)
        head = torch.linalg.solve(centred.mT @ centred + ridge * torch.eye(5), centred.mT @ (labels - labels.mean(0)))
    weight = torch.zeros_like(model.back.weight, requires_grad=True)
    output = F.conv2d(inside, weight)
    loss = (wanted - output).square().sum(1).mean() / 2 / 5
    loss = loss + F.cross_entropy(output.mean((2, 3)) @ head + labels.mean(0).log(), y)
    loss.backward()
    assert weight.grad is not None
    expected = weight.grad.square().sum((0, 2, 3)).sqrt()
    torch.testing.assert_close(scored(model, "dcp")["inner"], expected / expected.mean())


def test_fpgm_adds_the_distances_to_all_filters() -> None:
    w = torch.randn(5, 7, dtype=torch.double)
    w[3] = w[1]
    expected = torch.stack([sum((w[i] - w[j]).norm() for j in range(5)) for i in range(5)])  # type: ignore[misc]
    torch.testing.assert_close(criteria["fpgm"](w), expected)


def test_bn_scale_reads_the_norms_and_refuses_groups_without() -> None:
    model = small()
    groups = [g for g in channels(model, LOOK.example).groups if g.name in ("stem", "inner")]
    stem, inner = Evidence(model, groups, LOOK).scores(criteria["bn_scale"])
    assert torch.equal(stem, model.bn.weight.abs().detach()) and torch.equal(inner, model.norm.weight.abs().detach())
    with pytest.raises(ConfigError, match=r"`criterion` \(=bn_scale\) needs scales, and no layer shows them for .* `wide`"):
        Channels(keep=0.5, criterion="bn_scale").plan(model, LOOK)


def test_group_norm_is_the_squared_weight_that_leaves_with_an_atom() -> None:
    model = small()
    found = channels(model, LOOK.example)
    group = next(g for g in found.groups if g.name == "inner")

    def mass(net: nn.Module) -> float:
        weights = [p for n, p in net.named_parameters() if n.endswith("weight")]
        return sum(float(w.detach().square().sum()) for w in weights)

    gone = torch.tensor([mass(model) - mass(perform(model, found.remove([atom]))) for atom in group.atoms], dtype=torch.double)
    torch.testing.assert_close(scored(model, "group_norm", couple="sum")["inner"], gone / gone.mean())


def test_layers_are_joined_by_sum_mean_or_max() -> None:
    model = small()
    one = (w := model.stem.weight.detach().abs().sum((1, 2, 3))) / w.mean()
    other = (w := model.back.weight.detach().abs().sum((1, 2, 3))) / w.mean()
    for couple, expected in {"sum": one + other, "mean": (one + other) / 2, "max": torch.maximum(one, other)}.items():
        torch.testing.assert_close(scored(model, "l1", couple=couple)["stem"], expected)


def test_scores_of_weights_do_not_depend_on_the_scale_of_a_layer() -> None:
    model = small()
    before = {name: scored(model, name) for name in ("l1", "l2", "fpgm")}
    with torch.no_grad():
        model.stem.weight.mul_(7)
        model.wide.weight.mul_(0.1)
    for name, scores in before.items():
        torch.testing.assert_close(scored(model, name), scores)


@pytest.mark.parametrize("name", [n for n in criteria if n not in ("random", "hessian", "bn_scale", "dcp")])
def test_permuted_channels_have_permuted_scores(name: str) -> None:
    model, order = small(), torch.tensor([3, 0, 5, 1, 4, 2])
    before = scored(model, name)
    with torch.no_grad():
        for layer in (model.inner, model.norm, model.depth):
            for tensor in (*layer.parameters(), *layer.buffers()):
                if tensor.dim():
                    tensor.copy_(tensor[order])
        model.back.weight.copy_(model.back.weight[:, order])
    after = scored(model, name)
    near = 1e-3 if name == "lasso" else 1e-6  # coordinate descent stops when it is close
    torch.testing.assert_close(after["inner"], before["inner"][order], rtol=near, atol=1e-12)
    torch.testing.assert_close(after["stem"], before["stem"], rtol=near, atol=1e-12)


def test_a_silent_channel_is_worth_nothing_to_the_loss() -> None:
    model = small()
    with torch.no_grad():
        model.back.weight[:, 2] = 0
    for name in ("taylor", "fisher", "hessian"):
        scores = scored(model, name)["inner"]
        assert int(scores.argmin()) == 2 and float(scores[2]) < 1e-20 < float(scores.max())


def test_cost_is_what_the_profile_loses_with_a_channel() -> None:
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2), nn.Flatten(), nn.Linear(16, 3)).double()
    found = channels(model, LOOK.example)
    evidence = Evidence(model, found.groups, LOOK)
    whole = profile(model, LOOK.example).macs
    for group in found.groups:
        lost = whole - profile(perform(model, found.remove(group.atoms[:1])), LOOK.example).macs
        assert evidence.cost(group, "macs").tolist() == [lost] * len(group.atoms)
    assert [float(evidence.cost(g, "memory")[0]) for g in found.groups] == [36, 4]
    plain, dear = scored(model, "fisher"), scored(model, "fisher", per="memory")
    torch.testing.assert_close(dear["0"], plain["0"] / 36)


def test_random_follows_the_seed() -> None:
    first, same, other = (scored(small(), "random", look(seed=s))["stem"] for s in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)


@pytest.mark.parametrize("name", [n for n in criteria if n != "bn_scale"])
def test_layers_that_run_twice_and_readers_that_are_no_layers(name: str) -> None:
    torch.manual_seed(0)
    method, model = Channels(keep=0.5, criterion=name), Odd().double()
    if criteria[name].needs in ("readings", "contributions"):
        with pytest.raises(ConfigError, match="no layer shows them for the channels of `queries`"):
            method.plan(model, LOOK)
        method = replace(method, skip=("queries",))
    assert method(model, LOOK)(LOOK.example).shape == (1, 3)


@pytest.mark.parametrize("name", list(criteria))
def test_looking_changes_nothing(name: str) -> None:
    method = Channels(keep=0.5, criterion=name, images=20)
    checks = ["input_is_untouched", "same_seed_same_edits", "text_is_invertible"]
    assert testing.check_method(method, only=checks) == checks


@pytest.mark.parametrize("name", [n for n, c in criteria.items() if c.needs in ("activity", "gates", "curvature", "readings")])
def test_a_criterion_says_what_it_lacks(name: str) -> None:
    method = Channels(keep=0.5, criterion=name)
    with pytest.raises(ConfigError, match=r"needs labelled images, and this look has no `batches`|no `loss`"):
        method.plan(small(), Look(LOOK.example, loss=F.cross_entropy if name == "taylor" else None))
    with pytest.raises((DataError, ConfigError), match=r"hold none|no `loss`"):
        method.plan(small(), Look(LOOK.example, [], F.cross_entropy))
    if criteria[name].needs in ("gates", "curvature"):
        with pytest.raises(ConfigError, match="needs the loss of the task, and this look has no `loss`"):
            method.plan(small(), replace(LOOK, loss=None))


def test_dcp_needs_one_label_an_image() -> None:
    batches = [(x, F.one_hot(y).double()) for x, y in LOOK.need_batches("a test")]
    with pytest.raises(ConfigError, match="needs one label an image"):
        Channels(keep=0.5, criterion="dcp").plan(small(), replace(LOOK, batches=batches))


def test_broken_weights_are_not_ranked() -> None:
    model = small()
    with torch.no_grad():
        model.wide.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="wide: `l1` is not a number"):
        Channels(keep=0.5).plan(model, LOOK)


def test_gated_weights_at_one_are_the_network() -> None:
    model, (x, _) = small(), all_images()
    found, atoms = every_atom(model)
    weights = gated(model, found, atoms, torch.ones(len(atoms), dtype=torch.double))
    assert torch.equal(torch.func.functional_call(model, weights, (x,)), model(x))
