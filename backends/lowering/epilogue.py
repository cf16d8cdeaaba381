"""What a kernel does to its result before it leaves the registers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ACTIVATIONS = ("", "relu", "relu6", "silu")


@dataclass(frozen=True)
class Epilogue:
    """activation(result + residual), elementwise on the site's output.

    Attributes:
        residual: Whether a tensor of the output's shape is added; it is the argument after the
            input.
        activation: One of `ACTIVATIONS`.
    """

    residual: bool = False
    activation: str = ""

    def __bool__(self) -> bool:
        return self.residual or bool(self.activation)

    def apply(self, value: Any, residual: Any) -> Any:
        """The TIR expression of the epilogue of `value`."""
        from tvm import tirx

        if self.residual:
            value = value + residual
        zero = tirx.FloatImm("float32", 0.0)
        if self.activation == "relu":
            return tirx.max(value, zero)
        if self.activation == "relu6":
            return tirx.min(tirx.max(value, zero), tirx.FloatImm("float32", 6.0))
        if self.activation == "silu":
            return value / (tirx.FloatImm("float32", 1.0) + tirx.exp(-value))
        return value


NO_EPILOGUE = Epilogue()
