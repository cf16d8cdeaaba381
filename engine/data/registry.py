"""The kinds of data sets, by name or by what lies at a path."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from engine.data import cifar, cifar_python, folder
from engine.data.base import DataError, ImageData
from engine.data.digits import load_digits
from genomes.suggest import nearest

logger = logging.getLogger(__name__)

AUTO = "auto"


@dataclass(frozen=True)
class DataKind:
    """A kind of data set that lies at a path.

    Attributes:
        name: Its name in experiments.
        description: What the path has to be, one line.
        load: Reads it; raises `DataError`.
        detects: Whether an existing path looks like it; raises `DataError` where the path is
            a damaged file of this kind's format.
        dataset: The data set that it always holds; None if it may hold any.
    """

    name: str
    description: str
    load: Callable[[Path], ImageData]
    detects: Callable[[Path], bool]
    dataset: str | None = None


def _holds_archive(keys: frozenset[str], path: Path) -> bool:
    if path.is_file() and path.suffix != ".npz":
        return False
    return bool(cifar.archives_with(path, keys))


EMBEDDED: dict[str, Callable[[], ImageData]] = {"digits": load_digits}
"""Data sets that need no path; the first one is the default."""

KINDS: dict[str, DataKind] = {
    kind.name: kind
    for kind in (
        DataKind(
            "cifar10_python",
            "cifar-10-python.tar.gz, or the folder cifar-10-batches-py",
            cifar_python.load_python,
            cifar_python.holds_batches,
            dataset="CIFAR-10",
        ),
        DataKind(
            "cifar10_npz",
            "a .npz file with CIFAR-10 pixels: {train,test}_{x,y}",
            cifar.load_pixel_npz,
            partial(_holds_archive, cifar.PIXEL_KEYS),
            dataset="CIFAR-10",
        ),
        DataKind(
            "cifar10_npz_jpeg",
            "a .npz file with CIFAR-10 JPEGs: header, {train,test}_{data,offsets,labels}",
            cifar.load_jpeg_npz,
            partial(_holds_archive, cifar.JPEG_KEYS),
            dataset="CIFAR-10",
        ),
        DataKind(
            "image_folder",
            "a folder with train/<class>/ and test/<class>/ or val/<class>/, or <class>/",
            folder.load_folder,
            folder.holds_classes,
        ),
    )
}
"""In the order in which `auto` prefers forms of one data set: the most faithful first."""


def data_kinds() -> tuple[str, ...]:
    """All names that `load_data` takes."""
    return (AUTO, *EMBEDDED, *KINDS)


def load_data(kind: str = AUTO, path: str | Path | None = None) -> ImageData:
    """Open a data set.

    Args:
        kind: One of `data_kinds()`.  `auto` tells from what lies at `path`; without a path it
            is the embedded data set.
        path: File or folder; needed by all kinds but the embedded ones, which take none.

    Raises:
        DataError: The kind is unknown, or the path is missing, damaged or of another kind.
    """
    if kind not in data_kinds():
        raise DataError(f"unknown data kind {kind!r}; {nearest(kind, data_kinds())}")
    if path is None:
        embedded = next(iter(EMBEDDED)) if kind == AUTO else kind
        if embedded not in EMBEDDED:
            raise DataError(
                f"data kind {kind!r} needs a path: {KINDS[kind].description}; "
                f"set data.path, or use kind {next(iter(EMBEDDED))!r}, which needs none"
            )
        return EMBEDDED[embedded]()
    if kind in EMBEDDED:
        raise DataError(
            f"data kind {kind!r} is embedded and takes no path; remove the path {str(path)!r} "
            f"or choose among {', '.join((AUTO, *KINDS))}"
        )
    where = Path(path).expanduser().absolute()
    try:
        if not where.exists():
            raise DataError(f"{where}: no such file or folder; check data.path")
        return (_detect(where) if kind == AUTO else KINDS[kind]).load(where)
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error}); check data.path") from error


def _detect(path: Path) -> DataKind:
    found = [kind for kind in KINDS.values() if kind.detects(path)]
    if len(found) == 1:
        return found[0]
    if found:
        first, names = found[0], ", ".join(kind.name for kind in found)
        if first.dataset is None or {kind.dataset for kind in found} != {first.dataset}:
            raise DataError(f"{path}: holds several kinds of data ({names}); name the kind")
        _say(
            f"{path}: holds {first.dataset} in several forms ({names}); using {first.name}, "
            "the most faithful one; set data.kind to use another"
        )
        return first
    layouts = "; ".join(f"{kind.name}: {kind.description}" for kind in KINDS.values())
    raise DataError(f"{path}: not a data set that LoopGene knows; known layouts are {layouts}")


@cache
def _say(message: str) -> None:
    """Warn once: a search opens its data more than once."""
    logger.warning(message)
