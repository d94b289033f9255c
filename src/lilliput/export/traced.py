"""A traced network while it is rewritten: its quantizers, its constants, and rules applied until nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from lilliput.export.levels import Grid, operations

Node = Any  # of a graph; fx gives what a node reads a type that nothing can be done with


class Traced:
    """A graph while it is rewritten."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module, self.graph = module, module.graph
        ops = operations()
        self.quantize, self.dequantize = ops.quantize_per_tensor.default, ops.dequantize_per_tensor.default
        self.weight_of = ops.dequantize_per_channel.default

    def rewrite(self, *rules: Callable[[Traced, Node], bool]) -> None:
        """Apply rules to every node until none changes anything."""
        changed = True
        while changed:
            changed = False
            for node in list(self.graph.nodes):
                for rule in rules:
                    if node.op == "call_function" and not node._erased and rule(self, node):
                        changed = True
            self.graph.eliminate_dead_code()

    def is_a(self, node: Any, target: Any) -> bool:
        """Whether a value is made by this operation."""
        return isinstance(node, fx.Node) and node.op == "call_function" and node.target == target

    def grid(self, node: Any) -> Grid | None:
        """The grid of a quantizer or dequantizer; None for anything else."""
        if self.is_a(node, self.quantize) or self.is_a(node, self.dequantize):
            return grid_of(node)
        return None

    def level(self, value: Node, grid: Grid) -> Node:
        """A quantizer and a dequantizer behind a value; nothing reads them yet."""
        with self.graph.inserting_after(value):
            codes = self.graph.call_function(self.quantize, (value, *grid.arguments))
        codes.meta = {"val": value.meta.get("val")}
        return self.values(codes, grid)

    def values(self, codes: Node, grid: Grid) -> Node:
        """A dequantizer behind bytes."""
        with self.graph.inserting_after(codes):
            made = self.graph.call_function(self.dequantize, (codes, *grid.arguments))
        made.meta = {"val": codes.meta.get("val")}
        return made

    def constant(self, near: Node, name: str, value: torch.Tensor) -> Node:
        """A tensor of the network, read before a node."""
        name = name.replace(".", "_")
        while hasattr(self.module, name):
            name += "_"
        self.module.register_buffer(name, value)
        with self.graph.inserting_before(near):
            return self.graph.get_attr(name)

    def tensor(self, node: Node) -> torch.Tensor:
        """What a constant holds."""
        value: Any = self.module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value.detach()

    def replace(self, node: Node, new: Node) -> bool:
        """Everything that read a node reads another one."""
        node.replace_all_uses_with(new, delete_user_cb=lambda reader: reader is not new)
        self.graph.erase_node(node)
        return True

    def data(self, node: Node) -> list[Node]:
        """The inputs of a move that are moved."""
        first = node.args[0]
        return [*dict.fromkeys(first)] if isinstance(first, list | tuple) else [first]

    def only_reader(self, node: Node) -> Node:
        """What reads a value, if it is one; else None."""
        return next(iter(node.users)) if len(node.users) == 1 else None

    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape of a value that was traced."""
        return tuple(node.meta["val"].shape)

    def path(self, node: Node) -> str:
        """The layer that runs an operation; outside of any, the operation's kind."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        return (stack[-1][0] if stack else "") or kind(node)


def kind(node: Node) -> str:
    """An operation's name: `aten.mul`, for one."""
    return ".".join(str(node.target).split(".")[:2])


def grid_of(node: Node) -> Grid:
    """The grid of what is known to be a quantizer or dequantizer."""
    return Grid(*node.args[1:5])
