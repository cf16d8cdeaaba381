"""YAML that people write and read: safe, numbers like 1e-3 understood, doubled keys refused."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from engine.config_errors import ConfigError

MAX_BYTES = 1 << 20


class _Loader(yaml.SafeLoader):
    """Safe loader; `construct_mapping` refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} stands twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-3 as text, because it wants a dot in it.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


class _Dumper(yaml.SafeDumper):
    """Safe dumper that writes a list on one line."""


_Dumper.add_representer(
    list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, True)
)


def dump_yaml(data: Any) -> str:
    """YAML text of plain data, keys in their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=99)


def parse_yaml(text: str, source: str) -> Any:
    """Plain data from YAML text; None when it is empty.

    Raises:
        ConfigError: It is no valid YAML; the message says where.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is no valid YAML: {_one_line(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{source} is no valid YAML: nested too deeply") from error


def read_yaml(path: Path) -> Any:
    """Plain data from a YAML file.

    Raises:
        ConfigError: There is no such file, it cannot be read, or it is no YAML.
    """
    try:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; give the YAML file of an experiment")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path} is too large for an experiment; give its YAML file")
        text = content.decode("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such file; give the YAML file of an experiment, like "
            "experiments/quickstart.yaml"
        ) from error
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise ConfigError(f"{path} is no text file; give a YAML file in UTF-8") from error
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return parse_yaml(text, str(path))


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    problem = getattr(error, "problem", None) or str(error)
    return where + " ".join(str(problem).split())
