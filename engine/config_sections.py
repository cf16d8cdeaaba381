"""What the sections of a config have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_serializer, model_validator


class Section(BaseModel):
    """Part of a config: immutable, unknown keys refused, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _options_beside_name(schema: dict[str, Any]) -> None:
    del schema["properties"]["options"]
    schema["additionalProperties"] = True


class NamedSection(Section):
    """Something registered under a name, whose own options stand beside `name` in a file.

    Attributes:
        name: Looked up by `resolve`.
        options: Checked by what the name stands for.
    """

    model_config = ConfigDict(json_schema_extra=_options_beside_name)

    alone: ClassVar[bool] = False
    """Whether the name may stand for the whole section where there are no options."""

    name: str = Field(description="A registered name.")
    options: dict[str, JsonValue] = Field(
        default={}, description="Options of what is named; a file writes them beside `name`."
    )

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        if cls.alone and isinstance(data, str):
            return {"name": data}
        if not isinstance(data, Mapping) or isinstance(data.get("options"), Mapping):
            return data
        return {
            **{k: v for k, v in data.items() if k == "name"},
            "options": {k: v for k, v in data.items() if k != "name"},
        }

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}
