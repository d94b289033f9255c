"""What has been published of the efficient networks, and docs/zoo_mobile.md made from it.

PYTHONPATH=src python tests/zoo/published_mobile.py > docs/zoo_mobile.md
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import nn

from lilliput import zoo
from lilliput.measure.counts import profile


@dataclass(frozen=True)
class Row:
    """One line of a published table: numbers in millions as they are printed there, empty where none is.

    `bare` leaves the parameters of batch normalization out, as the table does. `reason` says why a printed number is
    not that of the network; it may only stand where that is so.
    """

    spec: str
    size: int
    params: str
    macs: str
    source: str
    reason: str = ""
    bare: bool = False

    def agrees(self) -> bool:
        """Whether both numbers are those of the network."""
        params, bare, macs = count(self.spec, self.size)
        return close(bare if self.bare else params, self.params) and close(macs, self.macs)


def close(counted: int, printed: str) -> bool:
    """Within 1 % or one unit of the last printed digit (tables round or cut off); all digits where all are printed."""
    if not printed:
        return True
    decimals = len(printed.partition(".")[2])
    unit = 10.0**-decimals
    off = abs(counted / 1e6 - float(printed))
    return off < 5e-7 if decimals >= 6 else off <= max(0.01 * float(printed), unit)


@cache
def count(spec: str, size: int) -> tuple[int, int, int]:
    """Parameters, parameters without those of batch normalization, multiply-adds.

    `spec` may end in `@0.5`: the network that a slimmable one becomes at that width.
    """
    model = build(spec)
    params = sum(p.numel() for p in model.parameters())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    bare = params - sum(p.numel() for m in norms for p in m.parameters())
    counted = profile(model, torch.zeros(1, 3, size, size))
    assert not counted.uncounted, counted.uncounted
    return params, bare, counted.macs


@lru_cache(1)
def build(spec: str) -> nn.Module:
    """The network of a row, one at a time."""
    name, _, width = spec.partition("@")
    model = zoo.create(name)
    return model.slim(float(width)) if width else model


SQUEEZE, SQUEEZE_V11 = "Iandola et al. 2016; README of its authors", "README of its authors"
SURVEY = "a survey"
TF_V1, PAPER_V1 = "tensorflow/models mobilenet_v1.md", "Howard et al. 2017"
TF_V2, PAPER_V2 = "tensorflow/models nets/mobilenet", "Sandler et al. 2018"
TF_V3, PAPER_V3 = TF_V2, "Howard et al. 2019"
MEGVII, OSMR = "megvii-model/ShuffleNet-Series", "osmr/imgclsmob"
GHOST, SHIFT = "Han et al. 2019; huawei-noah", "Wu et al. 2017; alvinwan/shiftresnet-cifar"
SLIM, UNIVERSAL = "JiahuiYu/slimmable_networks", "JiahuiYu/slimmable_networks, universally slimmable"

V1_075 = "The checkpoint table prints 2.6 % less than its own layers cost; the paper's 325 M at 224 is what they cost."
V1_192 = "41 M · (192/224)² is 30 M, as for every other width of that table; 34 M is a slip."
V2_14 = "The paper's 6.9 M is not what its table 2 costs at width 1.4; its authors' checkpoints have 6.06 M, as here."
V3_66 = "Its layers in the same repository cost 56.9 M, and the paper prints 56 M for them; 66 M is unexplained."
V3_65 = "Its layers in the same repository cost 52.3 M; 65 M is unexplained, as the row of the full network."
V2_299 = "The paper's layers cost 295.8 M (the same network in torchvision, too); 299 M is 1.1 % above that."
V2_591 = "The paper's layers cost 583.3 M (the same network in torchvision, too); 591 M is 1.3 % above that."
HALVED = (
    "Half of all operations, those of normalization, ReLU, pools and shuffle included; counted so, every row of that "
    "table comes out to the digit."
)
WIDER = "That collection scales the last convolution and the stages otherwise; the paper's table 5 is built here."
STEM = "The authors' counter takes 0.59 M for the stem, which costs 0.44 M; the rest agrees to the last operation."
SURVEYED = "Second-hand, without its way of counting; the layers its authors released hold 0.72 M, normalization included."

ROWS = (
    Row("squeezenet1_0", 224, "1.248", "820", SQUEEZE),
    Row("squeezenet1_1", 224, "1.235", "350", SQUEEZE_V11),
    Row("squeezenet_simple", 224, "1.248", "820", SQUEEZE),
    Row("squeezenet_complex", 224, "1.59", "", SQUEEZE),
    Row("squeezenext23", 224, "", "282", SURVEY),
    Row("squeezenext23", 224, "0.69", "", SURVEY, SURVEYED),
    *(
        Row(f"mobilenet_v1:width={width}", size, params, macs, TF_V1, V1_075 if width == "0.75" else "")
        for width, params, costs in (
            ("1.0", "4.24", ("569", "418", "291", "186")),
            ("0.75", "2.59", ("317", "233", "162", "104")),
            ("0.5", "1.34", ("150", "110", "77", "49")),
        )
        for size, macs in zip((224, 192, 160, 128), costs, strict=True)
    ),
    Row("mobilenet_v1:width=0.25", 224, "0.47", "41", TF_V1),
    Row("mobilenet_v1:width=0.25", 192, "0.47", "34", TF_V1, V1_192),
    Row("mobilenet_v1:width=0.25", 160, "0.47", "21", TF_V1),
    Row("mobilenet_v1:width=0.25", 128, "0.47", "14", TF_V1),
    Row("mobilenet_v1", 224, "4.2", "569", PAPER_V1),
    Row("mobilenet_v1:width=0.75", 224, "2.6", "325", PAPER_V1),
    Row("mobilenet_v1:width=0.5", 224, "1.3", "149", PAPER_V1),
    Row("mobilenet_v1:width=0.25", 224, "0.5", "41", PAPER_V1),
    Row("mobilenet_v1:shallow=true", 224, "2.9", "307", PAPER_V1),
    Row("mobilenet_v2:width=1.4", 224, "6.06", "582", TF_V2, bare=True),
    Row("mobilenet_v2:width=1.4", 224, "6.9", "585", f"{PAPER_V2}, in {MEGVII}", V2_14),
    Row("mobilenet_v2:width=1.3", 224, "5.34", "509", TF_V2, bare=True),
    Row("mobilenet_v2", 224, "3.4", "300", PAPER_V2, bare=True),
    *(
        Row(f"mobilenet_v2:width={width}", size, params, macs, TF_V2, bare=True)
        for width, params, costs in (
            ("1.0", "3.47", ("300", "221", "154", "99", "56")),
            ("0.75", "2.61", ("209", "153", "107", "69", "39")),
            ("0.5", "1.95", ("97", "71", "50", "32", "18")),
            ("0.35", "1.66", ("59", "43", "30", "20", "11")),
        )
        for size, macs in zip((224, 192, 160, 128, 96), costs, strict=True)
    ),
    Row("mobilenet_v3_large", 224, "5.4", "217", TF_V3),
    Row("mobilenet_v3_large:width=0.75", 224, "4.0", "155", TF_V3),
    Row("mobilenet_v3_large:width=1.25", 224, "7.5", "356", f"{PAPER_V3}, in {MEGVII}"),
    Row("mobilenet_v3_large:minimal=true", 224, "3.9", "209", TF_V3),
    Row("mobilenet_v3_small", 224, "2.5", "56", PAPER_V3),
    Row("mobilenet_v3_small:hidden=1280", 224, "2.9", "66", TF_V3, V3_66),
    Row("mobilenet_v3_small:hidden=1280,width=0.75", 224, "2.4", "44", TF_V3),
    Row("mobilenet_v3_small:minimal=true", 224, "2.0", "65", TF_V3, V3_65),
    Row("shufflenet_v1:groups=3,width=2.0", 224, "5.4", "524", MEGVII),
    Row("shufflenet_v1:groups=8,width=2.0", 224, "6.5", "522", MEGVII),
    Row("shufflenet_v1:groups=3,width=1.5", 224, "3.4", "292", MEGVII),
    Row("shufflenet_v1:groups=8,width=1.5", 224, "4.3", "290", MEGVII),
    Row("shufflenet_v1:groups=3", 224, "1.9", "138", MEGVII),
    Row("shufflenet_v1:groups=8", 224, "2.4", "138", MEGVII),
    Row("shufflenet_v1:groups=3,width=0.5", 224, "0.7", "38", MEGVII),
    Row("shufflenet_v1:groups=8,width=0.5", 224, "1.0", "40", MEGVII),
    Row("shufflenet_v2:width=2.0", 224, "7.4", "591", MEGVII, V2_591),
    Row("shufflenet_v2:width=1.5", 224, "3.5", "299", MEGVII, V2_299),
    Row("shufflenet_v2:width=1.0", 224, "2.3", "146", MEGVII),
    Row("shufflenet_v2:width=0.5", 224, "1.4", "41", MEGVII),
    Row("shufflenet_v2_plus:size=large", 224, "6.7", "360", MEGVII),
    Row("shufflenet_v2_plus:size=medium", 224, "5.6", "222", MEGVII),
    Row("shufflenet_v2_plus:size=small", 224, "5.1", "156", MEGVII),
    *(
        row
        for groups, width, params, macs in (
            (1, 1.0, "1.531936", "148.1"),
            (2, 1.0, "1.733848", "147.6"),
            (3, 1.0, "1.865728", "145.5"),
            (4, 1.0, "1.968344", "143.3"),
            (8, 1.0, "2.434768", "150.8"),
            (1, 0.75, "0.975214", "86.4"),
            (3, 0.75, "1.238266", "85.8"),
            (1, 0.5, "0.534484", "41.2"),
            (3, 0.5, "0.718324", "41.7"),
            (1, 0.25, "0.209746", "12.4"),
            (3, 0.25, "0.305902", "13.1"),
        )
        for row in (
            Row(f"shufflenet_v1:groups={groups},width={width}", 224, params, "", OSMR),
            Row(f"shufflenet_v1:groups={groups},width={width}", 224, "", macs, OSMR, HALVED),
        )
    ),
    Row("shufflenet_v2:width=0.5", 224, "1.366792", "", OSMR),
    Row("shufflenet_v2:width=0.5", 224, "", "43.3", OSMR, HALVED),
    Row("shufflenet_v2:width=1.0", 224, "2.278604", "", OSMR),
    Row("shufflenet_v2:width=1.0", 224, "", "149.7", OSMR, HALVED),
    Row("shufflenet_v2:width=1.5", 224, "4.406098", "320.8", OSMR, WIDER),
    Row("shufflenet_v2:width=2.0", 224, "7.601686", "595.8", OSMR, WIDER),
    Row("ghostnet:width=0.5", 224, "2.6", "42", GHOST),
    Row("ghostnet:width=1.0", 224, "5.2", "142", GHOST),
    Row("ghostnet:width=1.3", 224, "7.3", "226", GHOST),
    Row("effnet", 32, "", "5.7", "Freeman et al. 2018: 11.4 M operations, two a multiply-add"),
    Row("shiftnet_a", 224, "4.1", "1424", SHIFT),
    Row("shiftnet_b", 224, "1.1", "371", SHIFT),
    Row("shift_resnet20:expansion=3", 32, "", "16.6", SHIFT, STEM),
    *(
        Row(f"shift_resnet{depth}:expansion={e}", 32, params, "", SHIFT)
        for depth, sizes in (
            (20, ("0.03", "0.10", "0.19", "0.28")),
            (56, ("0.10", "0.29", "0.58", "0.87")),
            (110, ("0.20", "0.59", "1.18", "1.76")),
        )
        for e, params in zip((1, 3, 6, 9), sizes, strict=True)
    ),
    *(
        Row(f"{name}@{width}", 224, "", macs, source)
        for name, source, widths, costs in (
            ("slimmable_mobilenet_v1", SLIM, "1.0 0.75 0.5 0.25", "569 325 150 41"),
            ("slimmable_mobilenet_v2", SLIM, "1.0 0.75 0.5 0.35", "301 209 97 59"),
            ("slimmable_shufflenet_v1", SLIM, "2.0 1.0 0.5", "524 138 38"),
            ("slimmable_mobilenet_v1", UNIVERSAL, "1.0 0.75 0.5 0.25", "568 325 149 41"),
            ("slimmable_mobilenet_v2", UNIVERSAL, "1.0 0.75 0.5 0.35", "300 209 97 59"),
        )
        for width, macs in zip(widths.split(), costs.split(), strict=True)
    ),
)

HEAD = """# The efficient networks and their published costs

Parameters and multiply-adds in millions, of the networks of `lilliput.zoo` and as published. A row agrees when both
numbers are within 1 % or one unit of the last printed digit, since tables round or cut off; numbers printed in full
agree in full. Rows that do not agree say why. Multiply-adds are those of convolutions and matrix products, one for each
multiplication with its addition. `@0.5` is the ordinary network that a slimmable one gives at that width. MobileNetV2's
tables leave the parameters of batch normalization out, and so does the column beside them (marked *).

Written by `python tests/zoo/published_mobile.py`; a test fails when it no longer says what the networks cost.
"""

TAIL = """
## Published, and not built

| network | published | why it is missing |
|---|---|---|
| ShiftNet-C | 0.78 M parameters | Its table of layers was not to be had; what is told of it does not come to 0.78 M. |
| EffNet-large, the EffNet paper's baseline | 79.8 M, 80.3 M operations | No source with their layers was to be had. |
| AddressNet, sparse shift layers | 0.1 and 0.2 M parameters | Quoted by a survey without layers. |
| Slimmable ResNet-50 | 4.1 G to 278 M | `resnet50` has no width; `Slimmable` takes any builder with one. |
| AutoSlim MobileNetV1, V2, ResNet-50 | 150 M to 3 G | Results of a search, not architectures. |

`shift_attention_resnet20` is built; nothing of it was published that could be compared.
"""


def table() -> str:
    """The page of the documentation."""
    lines = [
        HEAD,
        "| network | pixels | parameters | published | multiply-adds | published | source | |",
        "|" + "---|" * 8,
    ]
    for row in ROWS:
        params, bare, macs = count(row.spec, row.size)
        ours = f"{bare / 1e6:.3f}*" if row.bare else f"{params / 1e6:.3f}"
        printed = (row.params or "–", f"{macs / 1e6:.1f}", row.macs or "–")
        lines.append(f"| `{row.spec}` | {row.size} | {ours} | {' | '.join(printed)} | {row.source} | {row.reason} |")
    return "\n".join(lines) + "\n" + TAIL


if __name__ == "__main__":
    print(table(), end="")
