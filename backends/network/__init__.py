"""Whole networks compiled from site kernels."""

from backends.network.build import CompiledNetwork, compile_network
from backends.network.layouts import with_layouts
from backends.network.platforms import Platform, platform_of

__all__ = ["CompiledNetwork", "Platform", "compile_network", "platform_of", "with_layouts"]
