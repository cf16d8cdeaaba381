from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from backends.base import BackendError
from backends.registry import BACKENDS, backend_type, create_backend
from backends.table import TableBackend, TableOptions
from genomes import plugins as loader


class PluginBackend(TableBackend):
    name = "plugin"


class NoOptions(TableBackend):
    Options = None


@pytest.fixture
def plugins(monkeypatch):
    def install(**values):
        points = [EntryPoint(name, value, BACKENDS.group) for name, value in values.items()]
        monkeypatch.setattr(loader, "entry_points", lambda group: points)

    return install


def test_built_in_backends_are_made_by_name():
    assert {"cpu", "table"} <= set(BACKENDS.names())
    backend = create_backend("table", {"repeats": 3})
    assert isinstance(backend, TableBackend)
    assert backend.measure_options.repeats == 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tabel", {}, r"unknown backend 'tabel'; did you mean 'table'\?"),
        ("quantum", {}, r"unknown backend 'quantum'; known: .*cpu, .*table"),
        ("table", {"repeat": 3}, r"unknown key repeat; did you mean 'repeats'\?"),
        ("table", {"repeats": 0}, "repeats: must be at least 1, got 0"),
        (
            "table",
            {"repeats": "many", "rtol": -1},
            r"2 problems\n  repeats: .*, got 'many'\n  rtol: .*, got -1$",
        ),
        ("table", {"failures": {"bored": 0.5}}, "failures.bored"),
        ("table", {"failures": {"crashed": 1.5}}, "sum up to at most 1"),
        ("cpu", {"thread": 1}, r"backend 'cpu': unknown key thread; did you mean 'threads'"),
        ("cpu", {"threads": 4096}, r"threads = 4096, but this process may use \d+ CPUs"),
        ("cpu", {"mcpu": "znver44"}, "did you mean 'znver4'"),
    ],
)
def test_wrong_names_and_options_are_explained(name, options, message):
    with pytest.raises(BackendError, match=message):
        create_backend(name, options)


def test_entry_points_add_backends(plugins):
    plugins(plugin="tests.backends.test_registry:PluginBackend")
    assert "plugin" in BACKENDS.names()
    assert create_backend("plugin").name == "plugin"
    assert backend_type("plugin").Options is TableOptions


def test_a_backend_without_options_is_refused(plugins):
    plugins(broken="tests.backends.test_registry:NoOptions")
    with pytest.raises(BackendError, match="no class attribute Options"):
        create_backend("broken")
