"""Genes: one transformation with its arguments, as frozen data without behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Value = str | int | tuple[int, ...] | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gene:
    """One transformation applied to one statement of a nest.

    Attributes:
        op: Name of a registered transformation.
        statement: Index of the statement it acts on, at the time it is applied.
        args: (name, value) pairs, sorted by name.
    """

    op: str
    statement: int = 0
    args: tuple[tuple[str, Value], ...] = ()
    # Every cache of genes hashes them again and again.
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.op, self.statement, self.args)))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        # Hashes of text differ between processes.
        return Gene, (self.op, self.statement, self.args)

    @classmethod
    def of(cls, op: str, statement: int = 0, **args: Value) -> Gene:
        """A gene from keyword arguments: `Gene.of("group", over="co", groups=4)`."""
        return cls(op, statement, tuple(sorted(args.items())))

    @property
    def arguments(self) -> dict[str, Value]:
        return dict(self.args)

    def to_json(self) -> dict[str, Any]:
        """Plain data: {"op": ..., "statement": ..., "args": {...}}."""
        args = {k: list(v) if isinstance(v, tuple) else v for k, v in self.args}
        return {"op": self.op, "statement": self.statement, "args": args}

    def __str__(self) -> str:
        args = ", ".join(
            f"{k}={'(' + ','.join(map(str, v)) + ')' if isinstance(v, tuple) else v}"
            for k, v in self.args
        )
        prefix = f"s{self.statement}." if self.statement else ""
        return f"{prefix}{self.op}({args})"
