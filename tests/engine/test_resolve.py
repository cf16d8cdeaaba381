from __future__ import annotations

from pathlib import Path

import pytest

from backends.base import BackendError
from engine.config import ConfigError, ExperimentConfig, parse_config
from engine.resolve import resolve


def config(**sections: object) -> ExperimentConfig:
    model = {"spec": "resnet20_cifar", "input_shape": [1, 3, 32, 32]}
    return parse_config({"name": "x", "model": model, **sections})


def test_known_names_change_nothing() -> None:
    given = config(
        backend={"name": "table", "repeats": 2},
        search={"transformations": ["group", "split"], "presets": ["seq1"]},
    )
    assert resolve(given) == given


def test_a_network_of_ones_own_is_not_looked_up() -> None:
    given = config(model={"spec": "no.such.module:make", "input_shape": [1, 3, 8, 8]})
    assert resolve(given) == given


def test_every_unknown_name_on_its_line() -> None:
    given = config(
        model={"spec": "resnet20_cifra", "input_shape": [1, 3, 8, 8]},
        search={"transformations": ["group", "grup", "untied"], "presets": []},
    )
    with pytest.raises(ConfigError) as caught:
        resolve(given)
    assert str(caught.value).splitlines() == [
        "unknown names",
        "  model.spec: unknown name 'resnet20_cifra'; did you mean 'resnet20_cifar'? (a network "
        "of your own is given as module:factory or path/to/file.py:factory)",
        "  search.transformations: unknown name 'grup'; did you mean 'group'?",
        "  search.transformations: unknown name 'untied'; did you mean 'untie'?",
    ]


def test_options_of_the_backend() -> None:
    with pytest.raises(BackendError, match=r"^backend 'table': unknown key repeat; did you mean"):
        resolve(config(backend={"name": "table", "repeat": 3}))


class TestData:
    @pytest.fixture
    def variable(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        monkeypatch.setenv("LOOPGENE_DATA", str(tmp_path))
        return tmp_path

    def test_the_variable_fills_in(self, variable: Path) -> None:
        assert resolve(config(data={"kind": "image_folder"})).data.path == variable
        assert resolve(config(data={"kind": "auto"})).data.path == variable

    def test_not_what_is_embedded_or_given(self, variable: Path) -> None:
        assert resolve(config()).data.path is None
        (variable / "other").mkdir()
        given = {"kind": "image_folder", "path": str(variable / "other")}
        assert resolve(config(data=given)).data.path == variable / "other"

    def test_missing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("LOOPGENE_DATA", raising=False)
        assert resolve(config(data={"kind": "auto"})).data.path is None
        with pytest.raises(ConfigError, match=r"give data\.path, or set the environment variable"):
            resolve(config(data={"kind": "image_folder"}))
        absent = {"kind": "image_folder", "path": str(tmp_path / "none")}
        with pytest.raises(ConfigError, match=r"data\.path: no such file or folder: .*none$"):
            resolve(config(data=absent))
