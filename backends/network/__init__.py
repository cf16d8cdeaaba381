"""Whole networks compiled from site kernels."""

from backends.network.build import CompiledNetwork, compile_network
from backends.network.layouts import with_layouts

__all__ = ["CompiledNetwork", "compile_network", "with_layouts"]
