from __future__ import annotations

import json
import re

import pytest

from engine.bench import metaschedule_network, metaschedule_records, metaschedule_tuning
from engine.bench.metaschedule_network import main, metaschedule
from engine.network import relative_error

EXPERIMENT = """
name: tiny
model: {spec: "net.py:make", input_shape: [1, 3, 6, 6]}
data: {kind: digits}
backend: {name: cpu, threads: 1}
"""
NETWORK = """
from torch import nn


def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
"""


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A folder with a network, its experiment, and the records of a search of two trials."""
    folder = tmp_path_factory.mktemp("network")
    (folder / "net.py").write_text(NETWORK)
    (folder / "net.yaml").write_text(EXPERIMENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(metaschedule_tuning, "POPULATION", 8)
        options = ["net.yaml", "--records", "records.json", "--threads", "1"]
        assert main([*options, "--trials", "2"]) == 0
    return folder


def network():
    import torch
    from torch import nn

    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
    ).eval()
    nn.init.uniform_(module[1].running_mean)
    nn.init.uniform_(module[1].running_var, 0.5, 2)
    return module, torch.randn(1, 3, 6, 6)


def test_the_tuned_network_computes_the_same_with_other_weights(tuned) -> None:
    import torch

    module, x = network()
    with torch.no_grad():
        expected = module(x).numpy()
    peer = metaschedule(module, x, 1, tuned / "records.json")
    assert peer is not None
    run, result = peer
    run()
    assert relative_error(result, expected) < 1e-5


def test_functions_are_tuned_once(tuned, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tuned)
    assert len(metaschedule_records.read(tuned / "records.json")) == 1
    assert main(["net.yaml", "--records", "records.json", "--threads", "1"]) == 0
    report = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert report == {"functions": 1, "tuned": 0, "missing": 0}


def test_a_network_without_records_is_no_peer(tmp_path) -> None:
    module, x = network()
    assert metaschedule(module, x, 1, tmp_path / "none.json") is None


def test_convolution_batchnorm_and_relu_are_one_function_with_free_weights() -> None:
    module, x = network()
    target = {"kind": "llvm", "num-cores": 1}
    mod = metaschedule_network.imported(module, x, target)
    (task,) = metaschedule_network.tasks_of(mod, target)
    assert re.match(r"fused_conv2d\d*_add\d*_relu\d* 0x", task.name)
    free = task.mod["main"].attrs["layout_free_buffers"]
    assert [int(i) for i in free] == [1, 2]


def test_equal_functions_of_two_networks_have_equal_stages() -> None:
    import torch
    from torch import nn
    from tvm import s_tir

    target = {"kind": "llvm", "num-cores": 1}
    found = []
    for count in (1, 2):
        module = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1)] * count, nn.AdaptiveAvgPool2d(1))
        mod = metaschedule_network.imported(module.eval(), torch.zeros(1, 3, 6, 6), target)
        found.append({task.key: task for task in metaschedule_network.tasks_of(mod, target)})
    shared = found[0].keys() & found[1].keys()
    assert any("mean" in found[0][key].name for key in shared)
    for key in shared:
        names = []
        for tasks in found:
            sch = s_tir.Schedule(tasks[key].mod)
            stages = sch.get_child_blocks(sch.get_sblock("root"))
            names.append([sch.get(stage).name_hint for stage in stages])
        assert names[0] == names[1] == [f"stage_{i}" for i in range(len(names[0]))]
