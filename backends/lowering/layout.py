"""Activations in memory: NCHW, or NCHW[x]c with x channels innermost."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stored(shape: tuple[int, int, int, int], lanes: int) -> tuple[int, ...]:
    """The shape in which an activation (N, C, H, W) is stored: itself, or NCHW[lanes]c."""
    n, channels, height, width = shape
    return (n, channels // lanes, height, width, lanes) if lanes else shape


def pack_channels(x: NDArray[np.float32], lanes: int) -> NDArray[np.float32]:
    """(N, C, H, W) as (N, C / lanes, H, W, lanes); unchanged for 0 lanes."""
    if not lanes:
        return x
    n, channels, height, width = x.shape
    blocks = x.reshape(n, channels // lanes, lanes, height, width)
    return np.ascontiguousarray(blocks.transpose(0, 1, 3, 4, 2))


def unpack_channels(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, C / lanes, H, W, lanes) as (N, C, H, W); the inverse of `pack_channels`."""
    if x.ndim == 4:
        return x
    n, blocks, height, width, lanes = x.shape
    return np.ascontiguousarray(x.transpose(0, 1, 4, 2, 3)).reshape(
        n, blocks * lanes, height, width
    )
