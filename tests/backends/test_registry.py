from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from backends import registry
from backends.base import BackendError
from backends.registry import backend_names, backend_type, create_backend
from backends.store import MeasurementStore
from backends.stored import StoredBackend
from backends.table import TableBackend, TableOptions
from tests.backends.samples import fresh, scheduled


class PluginBackend(TableBackend):
    name = "plugin"


class NoOptions(TableBackend):
    Options = None


@pytest.fixture
def plugins(monkeypatch):
    def install(**values):
        points = [EntryPoint(name, value, registry.GROUP) for name, value in values.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: points)

    return install


def test_built_in_backends_are_made_by_name():
    assert {"cpu", "table"} <= set(backend_names())
    backend = create_backend("table", {"repeats": 3})
    assert isinstance(backend, TableBackend)
    assert backend.measure_options.repeats == 3


def test_a_store_gives_a_backend_with_a_memory(tmp_path):
    with MeasurementStore(tmp_path / "store.db") as store:
        backend = create_backend("table", store=store, run_id="run-1")
        assert isinstance(backend, StoredBackend)
        backend.measure([scheduled(fresh(), 1)])
        assert [row.run_id for row in store.rows()] == ["run-1"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tabel", {}, r"Unknown backend 'tabel'; did you mean 'table'\?"),
        ("quantum", {}, r"Unknown backend 'quantum'; known: cpu, .*table"),
        ("table", {"repeat": 3}, r"unknown option 'repeat'; did you mean 'repeats'\?"),
        ("table", {"repeats": 0}, "repeats = 0: Input should be greater than or equal to 1"),
        ("table", {"repeats": "many", "rtol": -1}, "repeats = 'many': .*; rtol = -1: "),
        ("table", {"failures": {"bored": 0.5}}, "failures.bored"),
        ("table", {"failures": {"crashed": 1.5}}, "sum up to at most 1"),
        ("cpu", {"thread": 1}, r"Backend 'cpu': unknown option 'thread'; did you mean 'threads'"),
        ("cpu", {"threads": 4096}, r"threads = 4096, but this process may use \d+ CPUs"),
        ("cpu", {"mcpu": "znver44"}, "did you mean 'znver4'"),
    ],
)
def test_wrong_names_and_options_are_explained_in_one_line(name, options, message):
    with pytest.raises(BackendError, match=message) as caught:
        create_backend(name, options)
    assert "\n" not in str(caught.value)


def test_entry_points_add_backends(plugins):
    plugins(plugin="tests.backends.test_registry:PluginBackend")
    assert "plugin" in backend_names()
    assert create_backend("plugin").name == "plugin"
    assert backend_type("plugin").Options is TableOptions


def test_an_entry_point_does_not_replace_a_built_in_backend(plugins):
    plugins(table="tests.backends.test_registry:PluginBackend")
    assert create_backend("table").name == "table"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_package:Backend", "cannot be imported: No module named 'no_such_package'"),
        ("tests.backends.samples:Missing", "cannot be imported: .*Missing"),
        ("tests.backends.samples:fresh", "is not a Backend with Options"),
        ("tests.backends.test_registry:NoOptions", "is not a Backend with Options"),
    ],
)
def test_a_broken_entry_point_is_explained_when_it_is_used(plugins, value, message):
    plugins(broken=value)
    assert "broken" in backend_names()
    with pytest.raises(BackendError, match=message):
        create_backend("broken")
