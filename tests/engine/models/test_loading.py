from __future__ import annotations

import json
import os
import pickle
import sys

import pytest
import torch
from torch import nn

from engine.models import load_model
from genomes.errors import ModelError

SOURCE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 1)

    def forward(self, x):
        return self.conv(x)

class Zoo:
    @staticmethod
    def small():
        return Net(2)

def late():
    import neighbour
    return Net(neighbour.WIDTH)

def broken():
    raise RuntimeError("two\\nlines")

def number():
    return 3

def leaves():
    raise SystemExit("usage: net.py")

built = Net()
width = 4
"""


@pytest.fixture
def net_file(tmp_path):
    file = tmp_path / "my_net.py"
    file.write_text(SOURCE)
    (tmp_path / "neighbour.py").write_text("WIDTH = 6\n")
    modules, path = set(sys.modules), list(sys.path)
    yield file
    assert sys.path == path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def in_folder(net_file, monkeypatch):
    monkeypatch.chdir(net_file.parent)
    return net_file


def message(spec, **kwargs):
    with pytest.raises(ModelError) as caught:
        load_model(str(spec), **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_registry_name_with_arguments():
    network = load_model("resnet20_cifar", num_classes=4, in_channels=1)
    assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 4)


def test_file(net_file):
    network = load_model(f"{net_file}:Net", width=5)
    assert isinstance(network, nn.Module)
    assert network.conv.out_channels == 5


def test_relative_file(in_folder):
    assert load_model("my_net.py:Net").conv.out_channels == 4
    assert load_model(os.path.join(".", "my_net.py") + ":Net").conv.out_channels == 4


def test_module_of_the_current_directory(in_folder):
    assert load_model("my_net:Net", width=7).conv.out_channels == 7


def test_module_that_is_installed():
    assert isinstance(load_model("torch.nn:Identity"), nn.Identity)


def test_dotted_factory(net_file):
    assert load_model(f"{net_file}:Zoo.small").conv.out_channels == 2


def test_factory_may_import_its_neighbours(net_file):
    assert load_model(f"{net_file}:late").conv.out_channels == 6


def test_every_call_builds_a_fresh_network_of_one_class(net_file):
    first, second = load_model(f"{net_file}:Net"), load_model(f"{net_file}:Net")
    assert first is not second
    assert type(first) is type(second)
    assert pickle.loads(pickle.dumps(first)).conv.out_channels == 4


def test_file_named_like_a_module_does_not_replace_it(tmp_path):
    (tmp_path / "json.py").write_text(SOURCE)
    assert load_model(f"{tmp_path / 'json.py'}:Net").conv.out_channels == 4
    assert sys.modules["json"] is json


def test_unknown_name_mentions_the_other_forms():
    text = message("resnet19")
    assert "did you mean 'resnet" in text
    assert "path/to/file.py:factory" in text


def test_file_without_factory(net_file):
    assert "say which factory of the file" in message(net_file)


@pytest.mark.parametrize("spec", [":factory", "module:", ":", ""])
def test_half_a_specification(spec):
    assert "path/to/file.py:factory" in message(spec)


def test_missing_file(tmp_path):
    assert f"no such file: {tmp_path / 'nothing.py'}" in message(tmp_path / "nothing.py:net")


def test_folder_is_not_a_python_file(tmp_path):
    (tmp_path / "net.txt").write_text(SOURCE)
    assert "is not a Python file" in message(tmp_path / "net.txt:Net")


def test_missing_module(in_folder):
    text = message("no_such_module:net")
    assert "cannot import 'no_such_module'" in text
    assert str(in_folder.parent) in text


def test_missing_attribute_answers_with_the_nearest(net_file):
    assert "has no 'net'; did you mean 'Net'?" in message(f"{net_file}:net")
    assert "has no 'Zoo.smal'; did you mean 'small'?" in message(f"{net_file}:Zoo.smal")
    assert message(f"{net_file}:qqqq").endswith("has no 'qqqq'")


def test_not_callable(net_file):
    assert "'width' of type int cannot be called" in message(f"{net_file}:width")


def test_network_instead_of_a_factory(net_file):
    assert "'built' is a network already" in message(f"{net_file}:built")


def test_factory_that_raises_is_one_line(net_file):
    assert message(f"{net_file}:broken").endswith("called with (): RuntimeError: two lines")


def test_factory_that_exits(net_file):
    assert "SystemExit: usage: net.py" in message(f"{net_file}:leaves")


def test_factory_that_refuses_its_arguments(net_file):
    text = message(f"{net_file}:Net", depth=3)
    assert "called with (depth=3): TypeError" in text
    assert "unexpected keyword argument 'depth'" in text
    assert "unexpected keyword argument 'depth'" in message("resnet18", depth=3)


def test_factory_that_returns_something_else(net_file):
    assert "returned an object of type int, not a torch.nn.Module" in message(f"{net_file}:number")


def test_file_that_fails_at_import_can_be_mended(tmp_path):
    file = tmp_path / "bad_net.py"
    file.write_text("import no_such_package\n")
    assert "ModuleNotFoundError: No module named 'no_such_package'" in message(f"{file}:Net")
    file.write_text("def broken(:\n")
    assert "SyntaxError" in message(f"{file}:Net")
    file.write_text("# mended\n" + SOURCE)
    assert load_model(f"{file}:Net").conv.out_channels == 4
