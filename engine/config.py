"""Experiment configs: what is searched, where, how and for how long; one YAML file each.

`load_config` reads and checks a file, `resolve` checks the names that other registries own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    Strict,
    ValidationError,
    model_validator,
)

from engine.config_errors import ConfigError
from engine.config_sections import NamedSection, Section
from engine.yaml_text import dump_yaml, parse_yaml, read_yaml
from genomes.explain import explain

__all__ = [
    "BackendConfig",
    "BudgetConfig",
    "CapacityConfig",
    "ConfigError",
    "DataConfig",
    "ExecutorConfig",
    "ExperimentConfig",
    "InputShape",
    "ModelConfig",
    "SearchConfig",
    "TrackingConfig",
    "config_hash",
    "diff",
    "dump_config",
    "load_config",
    "parse_config",
    "parse_shape",
]

InputShape = tuple[int, int, int, int]
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"


def parse_shape(value: Any) -> Any:
    """A shape (N, C, H, W) from a list of four whole numbers or the text "1,3,32,32".

    Raises:
        ValueError: It is no such shape.
    """
    parts = value
    if isinstance(value, str):
        parts = [int(p) if p.strip().isdecimal() else p for p in value.strip("()[] ").split(",")]
    good = (
        isinstance(parts, list | tuple)
        and len(parts) == 4
        and all(type(p) is int and p >= 1 for p in parts)
    )
    if not good:
        raise ValueError(f"expected four whole numbers N, C, H, W like 1,3,32,32, got {value!r}")
    return tuple(parts)


Shape = Annotated[InputShape, BeforeValidator(parse_shape)]
UserPath = Annotated[Path, Strict(False), AfterValidator(Path.expanduser)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class ModelConfig(Section):
    """The network that is made faster."""

    spec: str = Field(
        min_length=1,
        description="A name of the built-in networks, `module:factory`, or "
        "`path/to/file.py:factory` (relative to the current directory).",
    )
    kwargs: dict[str, JsonValue] = Field(
        default={}, description="Arguments of the factory, by name."
    )
    input_shape: Shape = Field(
        description="Shape (N, C, H, W) of one input: batch, channels, height and width in pixels."
    )
    weights: UserPath | None = Field(
        default=None,
        description="A state_dict saved with torch.save; read with weights_only=True. "
        "Without it the weights are random.",
    )
    seed: Seed = Field(default=0, description="Seed of the random weights.")


class DataConfig(Section):
    """The images on which capacity is computed."""

    kind: str = Field(
        default="digits",
        description="`digits` is embedded; the other kinds read `path`; `auto` tells by itself.",
    )
    path: UserPath | None = Field(
        default=None,
        description="File or folder of the images; the environment variable LOOPGENE_DATA "
        "where the kind needs a path and none is given.",
    )
    seed: Seed = Field(default=0, description="Seed of the draw of the minibatch.")


class BackendConfig(NamedSection):
    """Where candidates run; the backend's own options stand beside `name`."""

    name: str = Field(default="cpu", description="A registered backend.")


class ExecutorConfig(NamedSection):
    """Where capacities are computed and kernels for boards built.

    Just the name, or the executor's own options beside it.
    """

    alone: ClassVar[bool] = True

    name: str = Field(default="local", description="A registered executor.")


class SearchConfig(Section):
    """How candidates are proposed and selected."""

    strategy: str = Field(default="evolution", description="A registered search strategy.")
    mode: Literal["constrained", "pareto"] = Field(
        default="constrained",
        description="`constrained`: latency with a penalty below the original's capacity; "
        "`pareto`: NSGA-II over latency, capacity loss and parameters.",
    )
    population: int = Field(default=32, ge=2, description="Survivors of every generation.")
    offspring: int | None = Field(
        default=None, ge=1, description="Children of every generation; null: as the population."
    )
    generations: int = Field(default=20, ge=1, description="Generations after the initial one.")
    mate: float = Field(
        default=0.4, ge=0, le=1, description="Probability that a child comes from two parents."
    )
    mutate: float = Field(
        default=0.6,
        ge=0,
        le=1,
        description="Probability that a child is a mutated copy; the rest are unchanged copies.",
    )
    changes: int = Field(default=2, ge=1, description="Mutations of one child, at most.")
    share: float = Field(
        default=0.3, ge=0, le=1, description="Share of sites transformed in a random genome."
    )
    transformations: list[str] | None = Field(
        default=None,
        description="Transformations that may be used; null: every neural and domain one, and "
        "the schedule ones that the backend lowers. See `loopgene transforms`.",
    )
    presets: list[str] | None = Field(
        default=None, description="Preset families that may be used; null: all."
    )
    max_genes: int = Field(default=8, ge=1, description="Domain genes of one site, at most.")
    schedules: int = Field(
        default=2, ge=1, description="Schedule candidates measured for each new kernel."
    )
    tune: int = Field(
        default=16,
        ge=0,
        description="Measurements for each kernel of the original and the finalists, when the "
        "search is over, to find faster schedules; 15 % of the wall-clock budget is kept for "
        "it. 0: none.",
    )
    tournament: int = Field(default=3, ge=1, description="Candidates in one tournament.")
    patience: int | None = Field(
        default=None, ge=1, description="Generations without improvement before it stops."
    )
    seed: Seed = Field(default=0, description="Seed of the search.")

    @model_validator(mode="after")
    def _probabilities(self) -> SearchConfig:
        if self.mate + self.mutate > 1 + 1e-9:
            raise ValueError(
                f"mate ({self.mate:g}) and mutate ({self.mutate:g}) are probabilities of one "
                "choice: their sum must not exceed 1"
            )
        return self


class CapacityConfig(Section):
    """What a candidate has to keep of the original's representational capacity."""

    metric: str = Field(default="fisher", description="A registered capacity metric.")
    batch: int = Field(default=32, ge=1, description="Images in the minibatch.")
    seed: Seed = Field(default=0, description="Seed of what the metric draws.")
    tolerance: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Relative loss of capacity that is still legal: 0.05 allows 5 %.",
    )
    penalty: float = Field(
        default=10.0,
        gt=0,
        description="Factor of the relative capacity loss in the fitness of illegal candidates.",
    )
    parameters: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Least share of the convolutions' parameters that a legal candidate keeps; "
        "0 sets no bound. Fisher potential alone hardly bounds a network with BatchNorm.",
    )
    options: dict[str, JsonValue] = Field(default={}, description="Options of the metric.")


class BudgetConfig(Section):
    """When the search stops, besides `search.generations`; null means no limit."""

    evaluations: int | None = Field(default=None, ge=1, description="Candidates evaluated.")
    wall_clock_s: float | None = Field(
        default=None, gt=0, description="Seconds of search, over all resumptions."
    )


class TrackingConfig(Section):
    """Where the search is recorded, besides its run folder."""

    mlflow: bool = Field(default=True, description="Whether an MLflow run is written.")
    uri: str | None = Field(
        default=None, description="MLflow tracking URI; null: the file mlflow.db in `home`."
    )
    experiment: str = Field(
        default="loopgene", min_length=1, description="Name of the MLflow experiment."
    )


class ExperimentConfig(Section):
    """One experiment, as its YAML file describes it."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)] = Field(
        description="Name of the experiment, and beginning of its run folders' names: letters, "
        "digits, `.`, `_` and `-`."
    )
    model: ModelConfig
    data: DataConfig = DataConfig()
    backend: BackendConfig = BackendConfig()
    executor: ExecutorConfig = ExecutorConfig()
    search: SearchConfig = SearchConfig()
    capacity: CapacityConfig = CapacityConfig()
    budget: BudgetConfig = BudgetConfig()
    tracking: TrackingConfig = TrackingConfig()
    finalists: int = Field(
        default=3,
        ge=1,
        description="Best candidates that are compiled and measured end to end after the search.",
    )
    home: UserPath = Field(
        default=Path("loopgene-runs"),
        description="Folder of the run folders, measurements.sqlite, mlflow.db and artifacts.",
    )


NOT_HASHED = (
    "name",
    "home",
    "executor",
    "budget",
    "tracking",
    "finalists",
    "search.generations",
    "search.patience",
)
"""What may change between a run and its resumption: names, places, who computes, when to stop."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read an experiment.

    Args:
        path: YAML file.
        overrides: `search.population=64` each; the value is YAML.

    Raises:
        ConfigError: The file cannot be read, or says something that is not allowed; one line
            for each problem, with the dotted path of the field.
    """
    return parse_config(read_yaml(Path(path)), overrides, str(path))


def parse_config(
    data: Any, overrides: Sequence[str] = (), source: str = "config"
) -> ExperimentConfig:
    """An experiment from plain data; `source` names it in messages.

    Raises:
        ConfigError: As `load_config`.
    """
    if data is None:
        raise ConfigError(f"{source} is empty; an experiment needs at least name and model")
    if not isinstance(data, dict):
        raise ConfigError(
            f"{source} holds a {'list' if isinstance(data, list) else type(data).__name__}; "
            "an experiment is a mapping with at least name and model"
        )
    for override in overrides:
        data = _overridden(data, override)
    try:
        return ExperimentConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, ExperimentConfig, source)) from error


def _overridden(data: dict[str, Any], override: str) -> dict[str, Any]:
    """A copy of `data` with `a.b=value` applied."""
    dotted, equals, text = override.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: expected field=value, like search.population=64")
    value = parse_yaml(text, f"--set {override}")
    new = dict(data)
    at = new
    for depth, key in enumerate(keys[:-1]):
        inner = at.get(key)
        if inner is not None and not isinstance(inner, dict):
            raise ConfigError(
                f"--set {override}: {'.'.join(keys[: depth + 1])} is {inner!r} and has no fields"
            )
        at[key] = dict(inner or {})
        at = at[key]
    at[keys[-1]] = value
    return new


def dump_config(config: ExperimentConfig) -> str:
    """YAML text that `load_config` reads back to an equal config."""
    return dump_yaml(config.model_dump(mode="json"))


def config_hash(config: ExperimentConfig) -> str:
    """Content hash of all that decides what the search does; see `NOT_HASHED` for the rest."""
    content = dict(_leaves(config.model_dump(mode="json")))
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def diff(old: ExperimentConfig, new: ExperimentConfig) -> list[str]:
    """The fields in which two configs differ so that `new` cannot resume a run of `old`.

    Returns:
        Lines like `search.population: 32 -> 64`, in the order of the fields.
    """
    before = dict(_leaves(old.model_dump(mode="json")))
    after = dict(_leaves(new.model_dump(mode="json")))
    sections = list(ExperimentConfig.model_fields)
    keys = sorted({**before, **after}, key=lambda key: sections.index(key.partition(".")[0]))
    return [
        f"{key}: {_shown(before, key)} -> {_shown(after, key)}"
        for key in keys
        if before.get(key, ...) != after.get(key, ...)
    ]


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key]) if key in leaves else "(not given)"


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every hashed field."""
    for key, value in data.items():
        path = f"{prefix}{key}"
        if path in NOT_HASHED:
            continue
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value
