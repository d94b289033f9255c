"""The profile of a sparse network: multiply-adds with and without the zeros, and who would gain."""

from __future__ import annotations

import pytest

import lilliput as lp
from lilliput import testing
from lilliput.prune import Weights

LOOK = testing.subject_look()


def test_a_sparse_network_shows_what_is_left_and_who_gains() -> None:
    found = lp.profile(Weights(rate=0.8)(testing.subject_model(), LOOK), LOOK.example)
    dense = lp.profile(testing.subject_model(), LOOK.example)
    assert found.macs == dense.macs and found.params == dense.params and found.bytes == dense.bytes
    assert found.effective_macs == pytest.approx(0.2 * dense.macs, rel=0.01)
    head = next(line for line in str(found).splitlines() if "MACs" in line)
    assert head.split()[-7:] == ["MACs", "nonzero", "bytes", "peak", "bits", "density", "calls"]
    words = " ".join(str(found).split())
    assert "80.0% of the multiply-adds have a weight of zero. ONNX Runtime, PyTorch and ExecuTorch execute these too" in words


def test_a_dense_network_says_nothing_of_zeros() -> None:
    text = str(lp.profile(testing.subject_model(), LOOK.example))
    assert "nonzero" not in text and "weight of zero" not in text


def test_bits_and_bytes_of_a_sparse_integer_network() -> None:
    sparse = Weights(rate=0.8)(testing.subject_model(), LOOK)
    rows = lp.profile(lp.quant.Quantize(activations=32)(sparse, LOOK), LOOK.example).layers
    layer = next(r for r in rows if r.name == "layer2.0.conv2")
    assert layer.bits == 8 and layer.density <= 0.21
