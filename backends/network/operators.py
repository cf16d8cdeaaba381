"""How the operators of a captured network become Relax, in whatever layout they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from backends.network.layouts import LANES, pack, unpack

Converter = Callable[[fx.Node, Any], Any]


def converters() -> Mapping[str, Converter]:
    """Converters by the name of the operator, as TVM's importer takes them."""
    return {
        pack.__name__: _pack,
        unpack.__name__: _unpack,
        "max_pool2d.default": _max_pool,
        "avg_pool2d.default": _avg_pool,
        "adaptive_avg_pool2d.default": _adaptive_avg_pool,
    }


def _pack(node: fx.Node, importer: Any) -> Any:
    from tvm import relax

    operand: Any
    lanes: Any
    operand, lanes = node.args
    x = importer.env[operand]
    n, channels, height, width = (int(extent) for extent in x.ty.shape)
    blocks = relax.op.reshape(x, (n, channels // lanes, lanes, height, width))
    return importer.block_builder.emit(relax.op.permute_dims(blocks, (0, 1, 3, 4, 2)))


def _unpack(node: fx.Node, importer: Any) -> Any:
    from tvm import relax

    x = importer.env[node.args[0]]
    n, blocks, height, width, lanes = (int(extent) for extent in x.ty.shape)
    planes = relax.op.permute_dims(x, (0, 1, 4, 2, 3))
    return importer.block_builder.emit(
        relax.op.reshape(planes, (n, blocks * lanes, height, width))
    )


def _max_pool(node: fx.Node, importer: Any) -> Any:
    from tvm import relax

    x, size, strides, padding, dilation, ceil = _arguments(node, [None, None, [], 0, 1, False])
    pooled = relax.op.nn.max_pool2d(
        importer.env[x], size, strides or size, padding, dilation, ceil, layout=_layout(node)
    )
    return importer.block_builder.emit(pooled)


def _avg_pool(node: fx.Node, importer: Any) -> Any:
    from tvm import relax

    defaults: list[Any] = [None, None, [], 0, False, True]
    x, size, strides, padding, ceil, counts_padding = _arguments(node, defaults)
    pooled = relax.op.nn.avg_pool2d(
        importer.env[x],
        size,
        strides or size,
        padding,
        ceil_mode=ceil,
        count_include_pad=counts_padding,
        layout=_layout(node),
    )
    return importer.block_builder.emit(pooled)


def _adaptive_avg_pool(node: fx.Node, importer: Any) -> Any:
    from tvm import relax

    x, size = node.args
    pooled = relax.op.nn.adaptive_avg_pool2d(importer.env[x], size, layout=_layout(node))
    return importer.block_builder.emit(pooled)


def _arguments(node: fx.Node, defaults: list[Any]) -> list[Any]:
    """The positional arguments of an operator, with its defaults for those left out."""
    given = list(node.args)
    return given + defaults[len(given) :]


def _layout(node: fx.Node) -> str:
    lanes = node.meta.get(LANES)
    return f"NCHW{lanes}c" if lanes else "NCHW"
