from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import (
    BackendConfig,
    ConfigError,
    ExperimentConfig,
    config_hash,
    diff,
    dump_config,
    load_config,
    parse_config,
)

SMALL = """
name: small
model:
  spec: resnet20_cifar
  input_shape: [1, 3, 32, 32]
backend: {name: cpu, threads: 2}
capacity:
  tolerance: 1e-3
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def problem(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


class TestReading:
    def test_what_the_file_says(self, path: Path) -> None:
        config = load_config(path)
        assert config.name == "small"
        assert config.model.input_shape == (1, 3, 32, 32)
        assert config.backend == BackendConfig(name="cpu", options={"threads": 2})
        assert config.capacity.tolerance == 0.001
        assert config.search.population == 32

    def test_dump_reads_back_to_an_equal_config(self, path: Path, tmp_path: Path) -> None:
        overrides = [
            "model.kwargs.widths=[8, 16]",
            "model.weights=weights.pt",
            "search.transformations=[group, depthwise]",
            "capacity.penalty=1e-7",
            "budget.wall_clock_s=90",
            "capacity.options.note='on: \"é\"'",
            "tracking.uri=sqlite:///x.db",
        ]
        config = load_config(path, overrides)
        dumped = tmp_path / "dumped.yaml"
        dumped.write_text(dump_config(config), encoding="utf-8")
        assert load_config(dumped) == config
        assert "input_shape: [1, 3, 32, 32]" in dumped.read_text()

    def test_backend_options_stand_beside_the_name(self, path: Path) -> None:
        text = dump_config(load_config(path))
        assert "backend:\n  name: cpu\n  threads: 2\n" in text

    def test_home_is_expanded(self, path: Path) -> None:
        assert load_config(path, ["home=~/runs"]).home == Path.home() / "runs"

    def test_a_config_cannot_be_changed(self, path: Path) -> None:
        with pytest.raises(ValueError, match="frozen"):
            load_config(path).search.seed = 3  # type: ignore[misc]

    def test_every_field_of_the_schema_is_described(self) -> None:
        schema = ExperimentConfig.model_json_schema()
        sections = [*schema["$defs"].values(), schema]
        fields = [f for s in sections for f in s.get("properties", {}).items()]
        assert len(fields) > 30
        assert not [n for n, f in fields if "description" not in f and "$ref" not in f]


class TestOverrides:
    def test_any_field(self, path: Path) -> None:
        config = load_config(
            path,
            [
                "search.population=64",
                "search.offspring=null",
                "backend.threads=1",
                "model.kwargs.num_classes=100",
                "model.input_shape=2,3,8,8",
                "budget={evaluations: 9}",
            ],
        )
        assert config.search.population == 64
        assert config.search.offspring is None
        assert config.backend.options == {"threads": 1}
        assert config.model.kwargs == {"num_classes": 100}
        assert config.model.input_shape == (2, 3, 8, 8)
        assert config.budget.evaluations == 9

    def test_the_last_one_wins(self, path: Path) -> None:
        assert load_config(path, ["search.seed=1", "search.seed=2"]).search.seed == 2

    @pytest.mark.parametrize("text", ["search.population", "=3", "search..x=1", ".=1"])
    def test_no_assignment(self, path: Path, text: str) -> None:
        assert "expected field=value, like search.population=64" in problem(path, text)

    def test_below_a_plain_value(self, path: Path) -> None:
        assert "model.spec is 'resnet20_cifar' and has no fields" in problem(
            path, "model.spec.x=1"
        )

    def test_invalid_value(self, path: Path) -> None:
        assert "--set search.seed=[1 is no valid YAML: line 1" in problem(path, "search.seed=[1")


class TestProblems:
    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("search.popluation=4", "unknown key search.popluation; did you mean 'population'?"),
            ("serach.population=4", "unknown key serach; did you mean 'search'?"),
            ("budget.zzz=4", "unknown key budget.zzz; known: evaluations, wall_clock_s"),
            ("search.population=many", "search.population: expected a whole number, got 'many'"),
            ("search.population=6.5", "search.population: expected a whole number, got 6.5"),
            ("search.population=1", "search.population: must be at least 2, got 1"),
            ("search.seed=true", "search.seed: expected a whole number, got True"),
            ("search.seed=-1", "search.seed: must be at least 0, got -1"),
            ("search.mode=best", "search.mode: expected 'constrained' or 'pareto', got 'best'"),
            ("search.share=1.5", "search.share: must be at most 1, got 1.5"),
            ("search.transformations=group", "search.transformations: expected a list"),
            ("search=3", "search: expected a mapping (key: value), got 3"),
            ("capacity.tolerance=1", "capacity.tolerance: must be less than 1, got 1"),
            ("budget.wall_clock_s=.inf", "budget.wall_clock_s: expected a finite number"),
            ("budget.wall_clock_s=0", "budget.wall_clock_s: must be greater than 0"),
            ("tracking.mlflow=maybe", "tracking.mlflow: expected true or false, got 'maybe'"),
            ("tracking.experiment=''", "tracking.experiment: must not be empty"),
            ("model.spec=null", "model.spec: expected text, got None"),
            ("model.weights=3", "model.weights: expected a path, got 3"),
            ("model.kwargs=[1]", "model.kwargs: expected a mapping (key: value), got [1]"),
            ("model.input_shape=3,32,32", "expected four whole numbers N, C, H, W"),
            ("model.input_shape=[1, 3, 0, 32]", "expected four whole numbers N, C, H, W"),
            ("name=a/b", "name: must consist of letters, digits, '.', '_' and '-', got 'a/b'"),
            ("name=../up", "name: must consist of letters"),
            ("backend=cpu", "backend: expected a mapping (key: value), got 'cpu'"),
        ],
    )
    def test_one_line_with_the_path(self, path: Path, override: str, message: str) -> None:
        text = problem(path, override)
        assert message in text
        assert text.startswith(f"{path}: ")
        assert "\n" not in text

    def test_probabilities(self, path: Path) -> None:
        text = problem(path, "search.mate=0.9")
        assert "search: mate (0.9) and mutate (0.6)" in text
        assert "must not exceed 1" in text

    def test_several_at_once(self, path: Path) -> None:
        lines = problem(path, "search.x=1", "finalists=none").splitlines()
        assert lines[0] == f"{path}: 2 problems"
        assert [line.split(";")[0].split(":")[0].strip() for line in lines[1:]] == [
            "unknown key search.x",
            "finalists",
        ]

    def test_missing_sections(self, path: Path) -> None:
        path.write_text("name: x\nmodel: {spec: y}\n")
        assert problem(path) == f"{path}: model.input_shape is missing"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"# nothing\n", "is empty"),
            (b"- a\n- b\n", "holds a list"),
            (b"word", "holds a str"),
            (b"a: [1\nb: 2", "is no valid YAML: line 2"),
            (b"name: a\nname: b\n", "the key 'name' stands twice"),
            (b"a: !!python/object/apply:os.system [ls]", "is no valid YAML"),
            (b"[" * 1200, "is no valid YAML"),
            (b"\x89PNG\r\n\x1a\n\xff\xfe\x00", "is no text file"),
            (b"a: \x00", "is no valid YAML"),
            (b"x: y\n" * 300_000, "is too large"),
            (b"? [a]\n: b\n", "is no valid YAML"),
            (b"1: 2\n", "unknown key 1"),
        ],
    )
    def test_bad_files(self, path: Path, content: bytes, message: str) -> None:
        path.write_bytes(content)
        assert message in problem(path)

    def test_no_file(self, tmp_path: Path) -> None:
        assert "no such file" in problem(tmp_path / "none.yaml")
        assert "is a folder" in problem(tmp_path)


class TestHash:
    @pytest.mark.parametrize(
        "override",
        [
            "name=other",
            "home=elsewhere",
            "budget.evaluations=9",
            "tracking.mlflow=false",
            "search.generations=99",
            "search.patience=3",
            "finalists=1",
        ],
    )
    def test_what_a_resumption_may_change(self, path: Path, override: str) -> None:
        old, new = load_config(path), load_config(path, [override])
        assert old != new
        assert config_hash(old) == config_hash(new)
        assert diff(old, new) == []

    @pytest.mark.parametrize(
        ("override", "line"),
        [
            ("search.population=64", "search.population: 32 -> 64"),
            ("backend.threads=1", "backend.threads: 2 -> 1"),
            ("backend.target=llvm", 'backend.target: (not given) -> "llvm"'),
            ("model.kwargs.depth=3", "model.kwargs.depth: (not given) -> 3"),
            ("model.input_shape=2,3,32,32", "model.input_shape: [1, 3, 32, 32] -> [2, 3, 32, 32]"),
        ],
    )
    def test_what_it_may_not(self, path: Path, override: str, line: str) -> None:
        old, new = load_config(path), load_config(path, [override])
        assert config_hash(old) != config_hash(new)
        assert diff(old, new) == [line]

    def test_defaults_count_like_given_values(self, path: Path) -> None:
        explicit = load_config(path, ["search.population=32"])
        assert config_hash(explicit) == config_hash(load_config(path))

    def test_plain_data(self, path: Path) -> None:
        config = load_config(path)
        assert parse_config(config.model_dump(mode="json")) == config
