"""The estimate of GPU schedules agrees with what was measured on a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.bench import gpu_schedules
from engine.bench.gpu_schedules import Kernel, read

RECORDED = Path("experiments/gpu_schedules_h200.jsonl")


def test_of_what_was_measured_the_best_estimate_is_among_the_fastest(capfd) -> None:
    assert gpu_schedules.main([str(RECORDED)]) == 0
    report = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert report["kernels"] == len(RECORDED.read_text().splitlines())
    assert report["chosen_over_best"] <= 1.2
    assert report["spearman"] >= 0.55
    assert report["error"] <= 0.15


def test_a_kernel_is_written_as_it_is_read() -> None:
    kernels = read(RECORDED)
    assert [Kernel.from_json(kernel.to_json()) for kernel in kernels[:5]] == kernels[:5]


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ('{"shape": {}}\n', [], "cannot read FILE: 'genes'; write it with --measure"),
        ("[\n", [], "cannot read FILE: Expecting value"),
        ("", [], "no workload has 4 kernels with an estimate for sm_90"),
        ("", ["--arch", "sm_1"], "unknown arch 'sm_1'; known: sm_75"),
        ("kept", ["--measure"], "there is no CUDA device"),
    ],
)
def test_mistakes_are_one_line(request, tmp_path, capfd, text, arguments, message) -> None:
    if "--measure" in arguments:
        request.getfixturevalue("no_gpu")
    file = tmp_path / "kernels.jsonl"
    file.write_text(text)
    assert gpu_schedules.main([str(file), *arguments]) == 1
    said = capfd.readouterr().out
    assert message.replace("FILE", str(file)) in said
    assert said.count("\n") == 1
    assert file.read_text() == text
