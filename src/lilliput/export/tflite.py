"""LiteRT, which was TensorFlow Lite: for phones and boards, on integers where the network has them, read back and run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, fx, nn

from lilliput.errors import ExportError
from lilliput.export.agree import agree
from lilliput.export.batches import in_batches
from lilliput.export.levels import operations
from lilliput.export.program import cannot, folded, formed
from lilliput.export.targets import Exported, replacing, targets
from lilliput.export.traced import Traced
from lilliput.measure.lite import INSTALL, Lite, Operation
from lilliput.measure.quiet import quiet, unheard

_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@targets.register(".tflite")
def write(model: nn.Module, example: Tensor, path: Path) -> Exported:
    """For inputs of the example's size, one tensor out; norms are folded before.

    Quantizers of activations become bytes, as in a `.pte`, and so does the file's input where its first reader quantizes it;
    weight maps are computed in. LiteRT's converter drops quantizers between two operations in floats. How far the file may be
    from PyTorch, `export.agree` says. Raises `ExportError` where LiteRT is missing, and for activations that no byte can hold.
    """
    ready, whole = folded(model, example, path)
    with quiet(), unheard():
        library = _library(path)
        network, stays = formed(ready, example, whole, weights_quantized)
        written = _written(library, network, example, whole)
    with replacing(path) as sibling:
        sibling.write_bytes(written)
        lite = Lite(sibling)
        error = agree(model, example, lite(example))
        integer, floats = counted(lite.operations)
    if not whole:
        return Exported(path, len(written), error)
    return Exported(path, len(written), error, integer, _named(floats, len(stays)) | stays)


def predictor(path: str | Path, threads: int = 1) -> Callable[[Tensor], Tensor]:
    """A function from a batch of images to the outputs of a `.tflite`, which takes as many at a time as it was made for."""
    return in_batches(Lite(path, threads))


def input_shape(path: str | Path) -> tuple[int, ...]:
    """The shape of one input of a `.tflite`, without the batch: (c, h, w)."""
    return Lite(path).shape[1:]


def counted(found: Sequence[Operation]) -> tuple[dict[str, int], dict[str, int]]:
    """Operations by kind: those that make integers, and those that make floats.

    Conversions between the two belong to the operation in floats; where they stand alone they are named themselves.
    """
    whole, floats = Counter[str](), Counter[str]()
    restored = {number for each in found if each.kind == "DEQUANTIZE" for number in each.outputs}
    for each in found:
        converts = each.kind == "DEQUANTIZE" or (each.kind == "QUANTIZE" and "float32" in each.reads)
        if converts and not (each.kind == "QUANTIZE" and restored & {*each.inputs}):
            continue
        (floats if converts or "float32" in each.makes else whole)[each.kind] += 1
    return dict(whole), dict(floats)


def weights_quantized(network: fx.GraphModule) -> None:
    """Where codes of a weight are stored, store its values and a quantizer, the one form that LiteRT's converter knows."""
    net = Traced(network)
    for node in [n for n in net.graph.nodes if net.is_a(n, net.weight_of)]:
        codes, *rest = node.args
        values = node.target(*(net.tensor(each) if isinstance(each, fx.Node) else each for each in node.args))
        kept = net.constant(node, f"{codes.target}_values", values)
        with net.graph.inserting_before(node):
            made = net.graph.call_function(operations().quantize_per_channel.default, (kept, *rest))
        node.args = (made, *rest)
    net.graph.lint()
    network.recompile()


def _written(library: Any, network: nn.Module, example: Tensor, whole: bool) -> bytes:
    try:
        with _silent(library):
            made = library.convert(network, (example,), quant_config=_on_integers() if whole else None)
            return bytes(made.model_content())
    except Exception as error:  # its errors share no base
        raise cannot("LiteRT", error) from error


@contextmanager
def _silent(library: Any) -> Iterator[None]:
    """Without the converter's account of its steps on the standard output."""
    shows = library.config.show_progress
    library.config.show_progress = False
    try:
        yield
    finally:
        library.config.show_progress = shows


def _on_integers() -> Any:
    """What makes the converter turn the quantizers it finds into integers; it adds none itself."""
    from litert_torch.quantize import pt2e_quantizer as pt2e  # type: ignore[import-not-found]
    from litert_torch.quantize.quant_config import QuantConfig  # type: ignore[import-not-found]

    found = pt2e.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
    return QuantConfig(pt2e_quantizer=pt2e.PT2EQuantizer().set_global(found))


def _named(floats: dict[str, int], layers: int) -> dict[str, str]:
    """Operations in floats, by kind; layers only where they are more than those that are named anyway."""
    more = sum(floats.get(kind, 0) for kind in _LAYERS) > layers
    return {kind: f"`{n}` run in floats" for kind, n in sorted(floats.items()) if more or kind not in _LAYERS}


def _library(path: Path) -> Any:
    """What converts programs of torch.export to LiteRT's."""
    try:
        import litert_torch  # type: ignore[import-not-found]
    except ImportError as error:
        raise ExportError(f"{path}: `{error.name}` is not installed; {INSTALL}") from None
    return litert_torch
