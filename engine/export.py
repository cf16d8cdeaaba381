"""Export of a run's result: what a user takes away.

genome.json       the transformations, readable
state.pt          the weights of the transformed network
factory.py        `network()`: the transformed `torch.nn.Module` with these weights
network.onnx      checked by ONNX Runtime against the module, where it is installed
network.so        compiled for the device of the run
run_compiled.py   loads and runs network.so with TVM alone
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.runs import RunDir
from genomes.errors import LoopGeneError
from genomes.genome import Genome

if TYPE_CHECKING:
    from torch import Tensor, nn


TOLERANCE = 1e-3
"""Largest accepted deviation from PyTorch, relative to the largest output."""

_SCOPE = re.compile(rb"\[[\d:]+\] \S+/executable\.cc:\d+: Warning: Scope Saving:\n?")
"""What TVM prints for every constant that it saves; it has no switch for that."""

_FACTORY = '''"""The network found by LoopGene's run {run}."""

from pathlib import Path

import torch

from engine.models import load_model
from genomes.genome import Genome
from genomes.sites import find_sites, transform

HERE = Path(__file__).parent


def network() -> torch.nn.Module:
    """The transformed {spec}, input {shape}, with the exported weights."""
    original = load_model({spec!r}, **{kwargs!r})
    genome = Genome.loads((HERE / "genome.json").read_text())
    model = transform(original, find_sites(original, {shape!r}), genome)
    model.load_state_dict(torch.load(HERE / "state.pt", weights_only=True))
    return model


if __name__ == "__main__":
    print(network().eval()(torch.zeros({shape!r})))
'''

_LOADER = '''"""Run the compiled network; needs {needs}.

TVM warns "Scope Loaded" harmlessly{about}"""

{start}import numpy as np
import tvm
from tvm import relax

library = tvm.runtime.load_module(str(Path(__file__).with_name("network.so")))
network = relax.VirtualMachine(library, tvm.{device}())["main"]
image = np.zeros({shape!r}, dtype="float32")
print(network(tvm.runtime.tensor(image, tvm.{device}())).numpy())
'''

_LOADING: Mapping[str, Mapping[str, str]] = {
    "llvm": {
        "device": "cpu",
        "needs": "apache-tvm and numpy only, runs on TVM_NUM_THREADS threads",
        "about": "; unbound, it leaves other thread pools their cores.",
        "start": (
            "import os\nfrom pathlib import Path\n\n"
            'os.environ.setdefault("TVM_BIND_THREADS", "0")\n\n'
        ),
    },
    "cuda": {
        "device": "cuda",
        "needs": "apache-tvm, numpy and libcudart.so.13",
        "about": ".",
        "start": "from pathlib import Path\n\n",
    },
}
"""What the loader says and does, by the kind of the target."""


class ExportError(LoopGeneError):
    """A run has nothing to export, or an exported file does not agree with the network."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where it is.
        files: File names.
        deviations: Largest deviation from PyTorch by file, relative to the largest output.
        notes: What was not done, and why.
    """

    folder: Path
    files: tuple[str, ...]
    deviations: Mapping[str, float]
    notes: tuple[str, ...] = ()


def export_run(run: RunDir, output: Path | None = None) -> Exported:
    """Export the found network of a finished run.

    Args:
        run: The run's folder.
        output: Target folder; `<run>/export` by default. Existing files are replaced only when
            everything has succeeded.

    Raises:
        ExportError: The run has no result, or an exported file computes something else.
        LoopGeneError: The network cannot be rebuilt.
    """
    import torch

    from engine.network import build_model
    from genomes.sites import find_sites, transform

    config, result = run.config(), run.result()
    genome = _found_genome(run, result)
    original = build_model(config.model)
    shape = config.model.input_shape
    model = transform(original, find_sites(original, shape), genome).eval()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(x)
    folder = output if output is not None else run.path / "export"
    with tempfile.TemporaryDirectory(prefix="loopgene-export-") as name:
        work = Path(name)
        (work / "genome.json").write_text(genome.dumps())
        torch.save(model.state_dict(), work / "state.pt")
        spec = _absolute_spec(config.model.spec)
        text = _FACTORY.format(
            run=run.name, spec=spec, kwargs=dict(config.model.kwargs), shape=tuple(shape)
        )
        (work / "factory.py").write_text(text)
        deviations, notes = _write_onnx(model, x, expected, work / "network.onnx")
        library = _write_library(run, result, model, x, expected, work / "network.so")
        if library.deviation is not None:
            deviations["network.so"] = library.deviation
        if library.note:
            notes.append(library.note)
        if (work / "network.so").exists():
            loading = _LOADING[library.kind]
            loader = _LOADER.format(shape=tuple(shape), **loading)
            (work / "run_compiled.py").write_text(loader)
        _check(deviations)
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(work.iterdir()):
            shutil.copy(path, folder / path.name)
        files = tuple(sorted(path.name for path in work.iterdir()))
    return Exported(folder, files, deviations, tuple(notes))


def _found_genome(run: RunDir, result: Mapping[str, Any]) -> Genome:
    try:
        return Genome.from_json(result["found"]["genome"])
    except (KeyError, TypeError) as error:
        raise ExportError(
            f"run {run.name} has no found network in result.json; "
            "let it finish with `loopgene run CONFIG --resume`"
        ) from error


def _absolute_spec(spec: str) -> str:
    """A spec that can be loaded from any folder: file paths become absolute."""
    source, _, factory = spec.rpartition(":")
    return f"{Path(source).resolve()}:{factory}" if source.endswith(".py") else spec


def _write_onnx(
    model: nn.Module, x: Tensor, expected: Tensor, path: Path
) -> tuple[dict[str, float], list[str]]:
    from engine.network import relative_error

    try:
        program = _onnx_program(model, x)
    except ExportError as error:
        return {}, [str(error)]
    program.save(str(path))
    if importlib.util.find_spec("onnxruntime") is None:
        return {}, ["network.onnx was not checked: pip install onnxruntime and export again"]
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = (i.name for i in session.get_inputs())
    (y,) = session.run(None, {name: x.numpy()})
    return {"network.onnx": relative_error(y, expected.numpy())}, []


def _onnx_program(model: nn.Module, x: Tensor) -> Any:
    import torch

    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        # The exporter prints its progress; none of it is of use to the user.
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    except Exception as error:  # the exporter raises a large family of unrelated types
        line = (str(error).strip().splitlines() or [""])[0]
        raise ExportError(f"network.onnx: torch.onnx cannot export this: {line}") from error
    finally:
        log.setLevel(level)


@dataclass(frozen=True)
class _Library:
    """What became of network.so.

    Attributes:
        deviation: From PyTorch, relative to the largest output; None if it did not run.
        note: What was not done, and why; "" when all was.
        kind: Of the target that it is compiled for.
    """

    deviation: float | None = None
    note: str = ""
    kind: str = ""


def _write_library(
    run: RunDir,
    result: Mapping[str, Any],
    model: nn.Module,
    x: Tensor,
    expected: Tensor,
    path: Path,
) -> _Library:
    """Compile, write and check the library, if the backend has whole networks."""
    from backends.base import BackendError
    from backends.lowering import LoweringError
    from backends.network import compile_network
    from backends.registry import create_backend
    from engine.network import network_schedules, relative_error, schedule_of

    config = run.config()
    with create_backend(config.backend.name, config.backend.options) as backend:
        here, elsewhere = backend.network_target(), backend.library_target()
    target = elsewhere or here
    if target is None:
        return _Library(note="network.so: this backend does not compile whole networks")
    compiled = compile_network(
        model,
        config.model.input_shape,
        dict(target.target),
        schedule_of(target, network_schedules(result)),
        target.features.lanes,
    )
    try:
        with _quiet_scopes():
            compiled.export_library(path, None if elsewhere is None else elsewhere.link)
    except LoweringError as error:
        return _Library(note=f"network.so was not written: {error}")
    kind = str(target.target["kind"])
    if elsewhere is None:
        if trouble := compiled.trouble():
            return _Library(note=f"network.so was not checked: {trouble}", kind=kind)
        return _Library(relative_error(compiled(x.numpy()), expected.numpy()), kind=kind)
    try:
        there = elsewhere.run({path.name: path}, x.numpy(), 0)[path.name]
    except BackendError as error:
        return _Library(note=f"network.so was not checked: {error}", kind=kind)
    return _Library(relative_error(there.output, expected.numpy()), kind=kind)


@contextmanager
def _quiet_scopes() -> Iterator[None]:
    """Keep `_SCOPE` off the standard error; all else comes through, at the end of the block."""
    # TVM writes from C++: nothing but the file descriptor can be redirected.
    with os.fdopen(os.dup(2), "wb") as stderr, tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr.fileno(), 2)
            written.seek(0)
            stderr.write(_SCOPE.sub(b"", written.read()))


def _check(deviations: Mapping[str, float]) -> None:
    for name, deviation in deviations.items():
        if not deviation <= TOLERANCE:
            raise ExportError(
                f"{name} deviates from PyTorch by {deviation:.1e} of the largest output "
                f"(at most {TOLERANCE:.0e}); nothing was exported"
            )
