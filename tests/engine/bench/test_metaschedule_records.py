from __future__ import annotations

import pytest

from engine.bench.metaschedule_records import Record, add, read
from engine.bench.metaschedule_tuning import Best, TuningError

TARGET = {"kind": "llvm", "mcpu": "znver4", "num-cores": 2}


def record(key: str = "a", time_s: float = 1e-4) -> Record:
    trace = [[["GetSBlock", [], ["conv", "main"], ["b0"]]], []]
    best = {64: Best(trace, 2 * time_s), 256: Best(trace, time_s)}
    return Record(key, TARGET, "0.27.0.post1", 0, 99.5, best)


def test_records_come_back_as_they_were(tmp_path) -> None:
    path = tmp_path / "records.json"
    assert read(path) == {}
    add(path, "second", record("b"))
    add(path, "first", record("a"))
    add(path, "second", record("b", 3e-4))
    assert read(path) == {"first": record("a"), "second": record("b", 3e-4)}
    assert [line[:9] for line in path.read_text().splitlines()[1:-1]] == ['"first": ', '"second":']
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_fits_its_function_target_and_version() -> None:
    import tvm

    one = Record("a", TARGET, tvm.__version__, 0, 99.5, record().best)
    assert one.trials == 256
    assert one.fits("a", dict(TARGET))
    assert not one.fits("b", TARGET)
    assert not one.fits("a", {**TARGET, "num-cores": 1})
    assert not Record("a", TARGET, "0.1", 0, 99.5, one.best).fits("a", TARGET)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": {"key"',
        "[1]",
        '{"a": 1}',
        '{"a": {"best": {}}}',
        '{"a": {"best": {"many": {"trace": [], "time_s": 1}}}}',
        '{"a": {"best": {"64": {"trace": [], "time_s": 1}}, "unknown": 1}}',
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, text) -> None:
    path = tmp_path / "records.json"
    path.write_text(text)
    with pytest.raises(
        TuningError, match=r"cannot read MetaSchedule's records .*; remove"
    ) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(TuningError):
        add(path, "b", record())
    assert path.read_text() == text
