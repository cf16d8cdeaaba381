"""Whole networks compiled from site kernels."""

from backends.network.build import CompiledNetwork, compile_network

__all__ = ["CompiledNetwork", "compile_network"]
