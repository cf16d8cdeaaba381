"""`loopgene inspect`: what may be transformed in a network, what it costs, and what may not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.common import HOME, console, waiting
from engine.numbers import count_text, share_text, time_text

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from backends.base import Failed
    from engine.config import ExperimentConfig
    from engine.survey import Survey
    from genomes.sites import NotASite, Sites

EXPERIMENT = (".yaml", ".yml")
SHOWN = 12
"""Convolutions left alone that are named for one reason."""


def inspect(
    target: Annotated[
        str,
        typer.Argument(
            help="A built-in network, `module:factory`, `path/to/file.py:factory`, or an "
            "experiment's YAML file.",
            metavar="MODEL_OR_CONFIG",
        ),
    ],
    input_shape: Annotated[
        str | None,
        typer.Option(
            help="Shape N,C,H,W of the input, like 1,3,32,32; needed for a network of your own."
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option(help="Measure the kernel of each site on this device.")
    ] = True,
) -> None:
    """Show the convolutions of a network: sizes, measured times, what may be done to them.

    Also says why any other convolution is left alone. Measured times are kept, so that a
    search does not measure them again.
    """
    from engine.network import build_model
    from engine.survey import survey
    from genomes.sites import find_sites

    config = _experiment(target, input_shape)
    with waiting("building the network"):
        model = build_model(config.model)
        sites = find_sites(model, config.model.input_shape)
    found = survey(sites, config.search)
    out = console()
    shape = ", ".join(map(str, config.model.input_shape))
    out.print(
        f"{config.model.spec}, input ({shape}): {len(found.sites)} sites of "
        f"{found.distinct_shapes} distinct shapes",
        markup=False,
    )
    times, device = _measured(config, model, sites) if measure and found.sites else ({}, "")
    if found.sites:
        out.print(_table(found, times))
        out.print("options: ready-made changes (presets) that apply to the site")
    if device:
        out.print(f"time: median of the site's kernel on {device}, all calls", soft_wrap=True)
    for line in _left_alone(sites.others):
        out.print(line, soft_wrap=True)


def _experiment(target: str, input_shape: str | None) -> ExperimentConfig:
    """The experiment of a YAML file, or one with defaults for a network."""
    from engine.config import load_config, parse_config
    from engine.resolve import resolve

    if target.endswith(EXPERIMENT) or (Path(target).is_file() and ":" not in target):
        shape = [f"model.input_shape={input_shape}"] if input_shape is not None else []
        return resolve(load_config(target, shape))
    if input_shape is None:
        input_shape = _usual_shape(target)
    model = {"spec": target, "input_shape": input_shape}
    return parse_config({"name": "inspect", "model": model, "home": str(HOME)}, source="inspect")


def _usual_shape(spec: str) -> str:
    """One image of the size for which a built-in network was designed."""
    from engine.models import MODELS, get_model

    if spec not in MODELS and ":" in spec:
        raise typer.BadParameter(
            f"{spec} needs the shape of its input, like 1,3,32,32", param_hint="--input-shape"
        )
    return ",".join(map(str, (1, *get_model(spec).input_shape)))


def _measured(
    config: ExperimentConfig, model: nn.Module, sites: Sites
) -> tuple[Mapping[str, float | Failed], str]:
    """Seconds per call of every site's kernel, by site name, and the name of the device."""
    from backends.base import Measured
    from backends.store import MeasurementStore
    from backends.stored import StoredBackend
    from engine.kernels import Kernels
    from engine.network import laid_out, search_backend
    from engine.problem import STORE_NAME
    from engine.stages import Stages
    from genomes.nest import LoopNest

    with (
        waiting("starting the backend") as status,
        search_backend(config, sites) as backend,
        MeasurementStore(config.home / STORE_NAME) as store,
    ):
        target = backend.network_target() or backend.library_target()
        laid = laid_out(model, sites, target)
        nests = {site.name: LoopNest.fresh(site.shape) for site in laid.sites}
        stored = StoredBackend(backend, store)
        kernels = Kernels(stored, config.search.schedules, Stages())

        def between() -> None:
            status.update(f"measuring kernels, {stored.hits + stored.misses} done")

        kernels.measure(nests.values(), between)
        found = {name: kernels.best(nest) for name, nest in nests.items()}
        measured = {name: o for name, o in found.items() if isinstance(o, Measured)}
        seconds = dict(zip(measured, kernels.together(list(measured.values())), strict=True))
        failed = {name: o for name, o in found.items() if not isinstance(o, Measured)}
        return {**seconds, **failed}, stored.describe().name


def _table(found: Survey, measured: Mapping[str, float | Failed]) -> Table:
    from rich import box
    from rich.table import Table

    from backends.base import Failed

    times = {
        site.name: site.calls * seconds
        for site in found.sites
        if isinstance(seconds := measured.get(site.name), float)
    }
    macs = {site.name: site.calls * site.shape.macs for site in found.sites}
    repeated = any(site.calls > 1 for site in found.sites)
    table = Table("site", "shape", box=box.SIMPLE, show_footer=True)
    for column, footer in (
        *((("calls", ""),) if repeated else ()),
        ("MACs", count_text(sum(macs.values()))),
        ("share", ""),
        *((("time", time_text(sum(times.values()))), ("share", "")) if measured else ()),
        ("options", ""),
    ):
        table.add_column(column, footer, justify="right", no_wrap=True)
    table.columns[0].footer = "all sites"
    for site, choices in zip(found.sites, found.choices, strict=True):
        cells = [site.name, str(site.shape)]
        cells += [str(site.calls)] if repeated else []
        cells += [count_text(macs[site.name]), share_text(macs[site.name], sum(macs.values()))]
        if site.name in times:
            time_s = times[site.name]
            cells += [time_text(time_s), share_text(time_s, sum(times.values()))]
        elif isinstance(failed := measured.get(site.name), Failed):
            cells += [failed.kind.value, "-"]
        table.add_row(*cells, str(choices.presets))
    return table


def _left_alone(others: tuple[NotASite, ...]) -> list[str]:
    """Why convolutions are no sites, one line for each reason."""
    if not others:
        return ["Every convolution is a site."]
    reasons: dict[str, list[str]] = defaultdict(list)
    for other in others:
        reasons[other.reason].append(other.name)
    lines = [f"{len(others)} left alone:"]
    for reason, names in reasons.items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        lines.append(f"  {', '.join(names[:SHOWN])}{more}: {reason}")
    return lines
