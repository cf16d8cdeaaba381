"""What is said to somebody whose options are wrong: one line for each problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from genomes.suggest import nearest

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

_MESSAGES: Mapping[str, str] = {
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "string_type": "expected text",
    "string_too_short": "must not be empty",
    "bool_type": "expected true or false",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping (key: value)",
    "model_type": "expected a mapping (key: value)",
    "model_attributes_type": "expected a mapping (key: value)",
    "path_type": "expected a path",
    "literal_error": "expected {expected}",
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be greater than {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be less than {lt:g}",
    "string_pattern_mismatch": "must consist of letters, digits, '.', '_' and '-'",
    "value_error": "{error}",
}
_WITHOUT_INPUT = frozenset({"value_error", "string_too_short"})


def explain(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """The problems that pydantic found, each with its dotted path, as one message."""
    problems = list(_problems(error, model))
    if len(problems) == 1:
        return f"{source}: {problems[0]}"
    return "\n  ".join([f"{source}: {len(problems)} problems", *problems])


def _problems(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    for item in error.errors(include_url=False):
        kind, where = item["type"], tuple(item["loc"])
        path = ".".join(str(part) for part in where)
        if kind in ("extra_forbidden", "invalid_key"):
            siblings = _fields_at(model, where[:-1])
            yield f"unknown key {path}; {nearest(str(where[-1]), siblings)}"
        elif kind == "missing":
            yield f"{path} is missing"
        else:
            text = _MESSAGES.get(kind, item["msg"]).format(**item.get("ctx", {}))
            given = "" if kind in _WITHOUT_INPUT else f", got {_short(item['input'])}"
            yield f"{path}: {text}{given}"


def _fields_at(model: type[BaseModel], where: tuple[Any, ...]) -> list[str]:
    """Names of the fields of the section at a path."""
    at: Any = model
    for part in where:
        at = at.model_fields[part].annotation
    return list(at.model_fields)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
