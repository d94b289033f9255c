"""ExecuTorch, for phones: XNNPACK's kernels, on integers where the network has them, read back and run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lilliput.errors import ExportError
from lilliput.export.agree import agree
from lilliput.export.batches import in_batches
from lilliput.export.bytes import move_bytes
from lilliput.export.delegated import delegated
from lilliput.export.program import cannot, exported, folded, formed
from lilliput.export.targets import Exported, replacing, targets
from lilliput.measure.phone import INSTALL, Phone
from lilliput.measure.quiet import quiet


@targets.register(".pte")
def write(model: nn.Module, example: Tensor, path: Path) -> Exported:
    """For inputs of the example's size, one tensor out; norms are folded before.

    Quantizers of activations become bytes, and whatever stands between two of them one of XNNPACK's integer kernels; weight
    maps are computed in. What XNNPACK does not run, ExecuTorch's own kernels do. How far the file may be from PyTorch,
    `export.agree` says. Raises `ExportError` where ExecuTorch is missing, and for activations that no byte can hold.
    """
    ready, whole = folded(model, example, path)
    with quiet():
        partitioner, to_edge = _executorch(path)
        network, stays = formed(ready, example, whole, move_bytes)
        program = _lowered(network, example, partitioner, to_edge)
        integer, floats, beside = delegated(program.exported_program())
        with replacing(path) as sibling:
            sibling.write_bytes(_finished(program))
            error = agree(model, example, Phone(sibling)(example))
            size = sibling.stat().st_size
    if not whole:
        return Exported(path, size, error)
    return Exported(path, size, error, integer, _named(floats, beside) | stays)


def predictor(path: str | Path, threads: int = 1) -> Callable[[Tensor], Tensor]:
    """A function from a batch of images to the outputs of a `.pte`, which takes as many at a time as it was made for."""
    return in_batches(Phone(path, threads))


def input_shape(path: str | Path) -> tuple[int, ...]:
    """The shape of one input of a `.pte`, without the batch: (c, h, w)."""
    return Phone(path).shape[1:]


def _lowered(network: nn.Module, example: Tensor, partitioner: Any, to_edge: Any) -> Any:
    program = exported(network, example)
    try:
        return to_edge(program, partitioner=[partitioner])
    except Exception as error:  # its errors share no base
        raise cannot("ExecuTorch", error) from error


def _finished(program: Any) -> bytes:
    try:
        return bytes(program.to_executorch().buffer)
    except Exception as error:  # its errors share no base
        raise cannot("ExecuTorch", error) from error


def _named(floats: dict[str, int], beside: dict[str, int]) -> dict[str, str]:
    """Why operations beside the layers, which have names, do not run on bytes in XNNPACK, by kind."""
    layers = ("convolution", "linear")
    named = {kind: f"`{n}` run in XNNPACK's float kernels" for kind, n in sorted(floats.items()) if kind not in layers}
    for kind, n in sorted(beside.items()):
        named[kind] = "; ".join([*([named[kind]] if kind in named else []), f"`{n}` run outside of XNNPACK"])
    return named


def _executorch(path: Path) -> tuple[Any, Any]:
    """XNNPACK's partitioner, which also takes padding on bytes, and what lowers an exported program."""
    try:
        from executorch.backends.xnnpack.partition import config as found  # type: ignore[import-not-found]
        from executorch.backends.xnnpack.partition.config.xnnpack_config import (  # type: ignore[import-not-found]
            ConfigPrecisionType,
        )
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import (  # type: ignore[import-not-found]
            XnnpackPartitioner,
        )
        from executorch.exir import to_edge_transform_and_lower  # type: ignore[import-not-found]
    except ImportError as error:
        raise ExportError(f"{path}: `{error.name}` is not installed; {INSTALL}") from None

    class Padding(found.generic_node_configs.ConstantPadConfig):  # type: ignore[misc]
        """XNNPACK pads bytes as well; its partitioner only says so for floats."""

        def supported_precision_types(self) -> list[Any]:
            """Both."""
            return [ConfigPrecisionType.FP32, ConfigPrecisionType.STATIC_QUANT]

    known = found.ALL_PARTITIONER_CONFIGS
    configs = [Padding if each.__name__ == "ConstantPadConfig" else each for each in known]
    return XnnpackPartitioner(configs=configs), to_edge_transform_and_lower
