"""Networks of timm and torchvision by name: what the library builds, stored as its name, and never random without a word."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

import lilliput as lp
from lilliput.cli import main
from lilliput.errors import ConfigError, LilliputError, ModelError, UnknownName, UsageError
from lilliput.opening import is_fresh, open_model
from lilliput.zoo import libraries

SMALL = {"torchvision": "torchvision:shufflenet_v2_x0_5:classes=5", "timm": "timm:lcnet_035:channels=1,classes=5"}


def needs(library: str) -> Any:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install --no-deps {library}")
    return libraries.require(library)


@pytest.mark.parametrize("library", SMALL)
def test_it_is_the_librarys_own_network(library: str) -> None:
    module, text = needs(library), SMALL[library]
    ours = open_model(text, seed=3)
    torch.manual_seed(3)
    name = text.split(":")[1]
    theirs = (
        module.create_model(name, num_classes=5, in_chans=1)
        if library == "timm"
        else module.models.get_model(name, num_classes=5)
    )
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    assert not ours.training and is_fresh(text)
    x = torch.randn(1, *vars(ours)["input_shape"])
    assert x.shape == (1, 1 if library == "timm" else 3, 224, 224) and torch.equal(ours(x), theirs.eval()(x))


@pytest.mark.parametrize("library", SMALL)
def test_what_became_of_it_opens_again_from_a_file_without_trust(library: str, tmp_path: Path) -> None:
    needs(library)
    network = open_model(SMALL[library])
    x = torch.randn(1, vars(network)["input_shape"][0], 64, 64)
    small = lp.prune.Channels(keep=0.5)(network, lp.Look(x))
    lp.save(small, tmp_path / "small.lil")
    again = lp.load(tmp_path / "small.lil")
    assert lp.edits(again) == lp.edits(small) != () and torch.equal(again(x), small.eval()(x))
    assert lp.profile(small, x).params < lp.profile(network, x).params


@pytest.mark.parametrize(
    ("text", "fault", "says"),
    [
        ("torchvision:resnet19", UnknownName, "network of torchvision is called `resnet19`. Did you mean `resnet1"),
        ("torchvision:fasterrcnn_resnet50_fpn", UnknownName, "no network of torchvision"),
        ("torchvision:resnet18:channels=1", ConfigError, "no option is called `channels`. Options: classes"),
        ("torchvision:resnet18:weights=DEFAULT", ConfigError, "no option is called `weights`"),
        ("torchvision:resnet18:classes=0", ConfigError, r"`classes` \(=0\)"),
        ("timm:resnet19z", UnknownName, "no network of timm"),
        ("timm:hf_hub", UnknownName, "no network of timm"),
        ("timm:resnet18:pretrained=true", ConfigError, "no option is called `pretrained`"),
        ("timm:local-dir", ConfigError, "is not `timm:NAME`"),
    ],
)
def test_only_what_the_library_lists_can_be_named(text: str, fault: type[LilliputError], says: str) -> None:
    if fault is UnknownName:
        needs(text.partition(":")[0])
    with pytest.raises(fault, match=says):
        open_model(text)


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in SMALL else found(name, *rest))


def test_where_the_library_is_missing_a_name_and_a_file_say_what_to_install(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    needs("torchvision")
    lp.save(open_model(SMALL["torchvision"]), tmp_path / "it.lil")
    request.getfixturevalue("missing")
    for opened in (SMALL["torchvision"], str(tmp_path / "it.lil")):
        with pytest.raises(ModelError, match=r"not installed: pip install torchvision"):
            open_model(opened)


def test_published_weights_fit_as_they_are_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    module = needs("torchvision")
    name = SMALL["torchvision"].split(":")[1]
    trained = module.models.get_model(name).state_dict()
    monkeypatch.setattr(module.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.__class__, "get_state_dict", lambda *a, **k: trained)
    found = open_model(f"torchvision:{name}", weights="pretrained").state_dict()
    assert all(torch.equal(value, found[key]) for key, value in trained.items())
    with pytest.raises(ModelError, match=r"pretrained: fc.weight is \[1000, 1024\] in the file and \[5, 1024\]"):
        open_model(SMALL["torchvision"], weights="pretrained")
    with pytest.raises(ModelError, match="inputs of another range"):
        open_model("torchvision:googlenet", weights="pretrained")
    with pytest.raises(UsageError, match="only networks of timm and torchvision"):
        open_model("resnet20", weights="pretrained")


def test_weights_that_cannot_be_had_are_an_error_and_never_random(monkeypatch: pytest.MonkeyPatch) -> None:
    module = needs("torchvision")

    def refuse(*given: Any, **named: Any) -> None:
        raise OSError("no network here")

    monkeypatch.setattr(module.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.__class__, "get_state_dict", refuse)
    with pytest.raises(ModelError, match=r"no published weights in torchvision's cache.*\(no network here\)"):
        open_model("torchvision:shufflenet_v2_x0_5", weights="pretrained")


def test_compressing_fresh_weights_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["compress", "torchvision:resnet18", "--data", "digits", "--bits", "8", "--out", str(tmp_path)])
    assert stopped.value.code == 2 and "has fresh weights: give `--weights pretrained`" in capsys.readouterr().err


def test_a_function_in_a_module_of_a_library_is_still_code() -> None:
    from lilliput.store import factory

    with pytest.raises(LilliputError, match="is code"):
        factory("torchvision.models:resnet18", trust=False)
