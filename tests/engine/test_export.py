"""What a user takes away from a run works without the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from backends.network import CompiledNetwork
from engine.export import ExportError, _quiet_scopes, export_run
from engine.network import build_model
from engine.runs import RunDir, RunError
from genomes.gene import Gene
from genomes.genome import Genome
from genomes.sites import find_sites, transform
from tests.engine.toys import experiment
from tests.needs import needs_nvcc

GENES = {"2": (Gene.of("group", over="co", groups=4, layout="interleaved"),)}


def finished_run(home, **overrides) -> RunDir:
    run = RunDir.create(experiment(home, **overrides))
    genome = Genome.of(GENES)
    run.result_path.write_text(json.dumps({"found": {"genome": genome.to_json()}}))
    return run


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run, what was exported of it, and the file of what came out on stderr meanwhile."""
    home = tmp_path_factory.mktemp("export")
    run = finished_run(home, backend={"name": "cpu", "threads": 1})
    before = os.dup(2)
    with (home / "stderr").open("wb") as file:
        os.dup2(file.fileno(), 2)
        try:
            result = export_run(run, home / "out")
        finally:
            os.dup2(before, 2)
            os.close(before)
    return run, result, home / "stderr"


def test_tvm_does_not_clutter_the_terminal(exported) -> None:
    *_, stderr = exported
    assert stderr.read_text() == ""


def test_what_is_no_clutter_comes_through(capfd) -> None:
    scope = b"[18:03:32] /project/src/runtime/vm/executable.cc:276: Warning: Scope Saving:\n"
    error = b"[18:03:33] /project/src/runtime/vm/executable.cc:99: Error: the disk is full\n"

    def fail() -> None:
        os.write(2, scope + b"before\n" + scope + error)
        raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"), _quiet_scopes():
        fail()
    os.write(2, b"behind\n")
    assert capfd.readouterr().err == f"before\n{error.decode()}behind\n"


def expected(run: RunDir) -> torch.nn.Module:
    config = run.config()
    model = build_model(config.model)
    sites = find_sites(model, config.model.input_shape)
    return transform(model, sites, Genome.of(GENES)).eval()


def test_every_form_is_written_and_agrees(exported) -> None:
    _, result, _ = exported
    assert result.files == (
        "factory.py",
        "genome.json",
        "network.onnx",
        "network.so",
        "run_compiled.py",
        "state.pt",
    )
    assert set(result.deviations) == {"network.onnx", "network.so"}
    assert max(result.deviations.values()) < 1e-4
    assert result.notes == ()


def test_the_factory_rebuilds_the_network_anywhere(exported, tmp_path) -> None:
    run, result, _ = exported
    script = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); from factory import network; "
        "torch.save(network().eval()(torch.ones(1, 1, 8, 8)), 'y.pt')"
    )
    command = [sys.executable, "-c", script, str(result.folder)]
    subprocess.run(command, cwd=tmp_path, check=True)
    with torch.no_grad():
        y = expected(run)(torch.ones(1, 1, 8, 8))
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), y)


def test_the_loading_example_runs(exported, tmp_path) -> None:
    run, result, _ = exported
    example = result.folder / "run_compiled.py"
    code = [line for line in example.read_text().splitlines() if line and '"""' not in line]
    assert len(code) <= 10
    command = [sys.executable, str(example)]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    shown = np.array(done.stdout.replace("[", " ").replace("]", " ").split(), dtype=float)
    with torch.no_grad():
        y = expected(run)(torch.zeros(1, 1, 8, 8)).numpy().ravel()
    np.testing.assert_allclose(shown, y, atol=1e-5)


def test_a_backend_without_networks_says_so(tmp_path) -> None:
    run = finished_run(tmp_path)
    result = export_run(run)
    assert result.folder == run.path / "export"
    assert "network.so" not in result.files
    assert result.notes == ("network.so: this backend does not compile whole networks",)


def test_an_unfinished_run_has_nothing_to_export(tmp_path) -> None:
    run = RunDir.create(experiment(tmp_path))
    with pytest.raises(RunError, match="has no result yet"):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["{}", '{"found": {}}', '{"found": null}'])
def test_a_result_without_a_network_is_one_clear_error(tmp_path, content) -> None:
    run = RunDir.create(experiment(tmp_path))
    run.result_path.write_text(content)
    with pytest.raises(ExportError, match="has no found network"):
        export_run(run)


@pytest.mark.usefixtures("without_nvcc")
def test_without_nvcc_a_network_for_a_gpu_is_exported_but_for_its_library(tmp_path) -> None:
    run = finished_run(tmp_path, backend={"name": "cuda", "arch": "sm_90"})
    result = export_run(run, tmp_path / "out")
    (note,) = result.notes
    assert note.startswith("network.so was not written: there is no nvcc on the PATH")
    assert "factory.py" in result.files
    assert not {"network.so", "run_compiled.py"} & set(result.files)


@needs_nvcc
def test_a_network_for_a_gpu_is_exported_where_there_is_none(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(CompiledNetwork, "trouble", lambda _: "there is no GPU")
    run = finished_run(tmp_path, backend={"name": "cuda", "arch": "sm_90"})
    result = export_run(run, tmp_path / "out")
    assert result.notes == ("network.so was not checked: there is no GPU",)
    assert "network.so" not in result.deviations
    assert (result.folder / "network.so").stat().st_size > 0
    loader = (result.folder / "run_compiled.py").read_text()
    assert "relax.VirtualMachine(library, tvm.cuda())" in loader
    assert "nvcc" not in loader
    compile(loader, "run_compiled.py", "exec")
