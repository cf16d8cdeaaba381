from __future__ import annotations

import abc
from importlib.metadata import EntryPoint

import pytest
from pydantic import BaseModel

from genomes import plugins
from genomes.errors import LoopGeneError
from genomes.plugins import Plugins

HERE = __name__


class ToyError(LoopGeneError):
    pass


class Options(BaseModel):
    pass


class Toy(abc.ABC):
    Options = Options

    @abc.abstractmethod
    def play(self) -> str: ...

    @abc.abstractmethod
    def stop(self) -> str: ...


class Ball(Toy):
    def play(self) -> str:
        return "bounces"

    def stop(self) -> str:
        return "lies"


class Half(Toy):
    def play(self) -> str:
        return "starts"


class Careless(Ball):
    Options = dict  # type: ignore[assignment]


TOYS = Plugins[Toy](
    group="loopgene.toys",
    noun="toy",
    base=Toy,  # type: ignore[type-abstract]
    error=ToyError,
    shipped={"ball": f"{HERE}:Ball"},
    options=Options,
)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "second": f"{HERE}:Ball",
        "ball": f"{HERE}:Half",
        "missing": "no.such.module:Toy",
        "attribute": f"{HERE}:Nothing",
        "raises": "tests.genomes.raising:Toy",
        "function": "json:loads",
        "half": f"{HERE}:Half",
        "careless": f"{HERE}:Careless",
    }
    points = [EntryPoint(name, value, TOYS.group) for name, value in values.items()]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)


@pytest.mark.usefixtures("installed")
def test_shipped_and_installed_classes_are_known_by_name() -> None:
    assert {"ball", "second"} <= set(TOYS.names())
    assert TOYS.load("second") is Ball


@pytest.mark.usefixtures("installed")
def test_an_entry_point_does_not_replace_what_is_shipped() -> None:
    assert TOYS.load("ball") is Ball


def test_an_unknown_name_answers_with_the_nearest() -> None:
    with pytest.raises(ToyError, match=r"unknown toy 'bal'; did you mean 'ball'\?"):
        TOYS.load("bal")
    with pytest.raises(ToyError, match="unknown toy 'xyz'; known: ball"):
        TOYS.load("xyz")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", r"toy 'missing' \(no.such.module:Toy\) cannot be imported: ModuleNotFound"),
        ("attribute", "cannot be imported: AttributeError: .*Nothing"),
        ("raises", "cannot be imported: ZeroDivisionError: division by zero; repair or remove"),
        ("function", rf"is no subclass of {HERE}.Toy; repair or remove the package"),
        ("half", "does not implement stop; repair or remove"),
        ("careless", rf"no class attribute Options derived from {HERE}.Options"),
    ],
)
def test_a_package_that_does_not_fit_is_named_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ToyError, match=message) as caught:
        TOYS.load(name)
    assert "\n" not in str(caught.value)
