from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.cli.conftest import Cli


def row(text: str, site: str) -> list[str]:
    (line,) = [x for x in text.splitlines() if x.split()[:1] == [site]]
    return line.split()


def test_a_network_of_ones_own(cli: Cli, work: Path) -> None:
    result = cli("inspect", "net.py:make", "--input-shape", "1,3,8,8", "--no-measure")
    assert result.exit_code == 0, result.output
    text = result.stdout
    assert text.startswith("net.py:make, input (1, 3, 8, 8): 4 sites of 4 distinct shapes\n")
    macs = {"0": 13824, "2": 36864, "5": 18432, "7": 36864}
    total = sum(macs.values())
    for name, count in macs.items():
        assert f"{100 * count / total:.1f}" in row(text, name)
    assert "1 left alone:\n  8: ConvTranspose2d is not a plain torch.nn.Conv2d" in text
    assert not (work / "loopgene-runs").exists()


def test_measured_through_the_backend_of_an_experiment(cli: Cli, work: Path) -> None:
    result = cli("inspect", "tiny.yaml")
    assert result.exit_code == 0, result.output
    assert "median of the site's kernel on latency table (modelled, not measured)" in result.stdout
    shares = [float(row(result.stdout, name)[-3]) for name in ("0", "2", "5", "7")]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    assert (work / "loopgene-runs" / "measurements.sqlite").is_file()
    assert cli("inspect", "tiny.yaml").stdout == result.stdout


def test_kernels_that_fail_say_how(cli: Cli, work: Path) -> None:
    text = (work / "tiny.yaml").read_text()
    new = text.replace("name: table", "name: table\n  failures: {build_error: 1.0}")
    (work / "tiny.yaml").write_text(new)
    result = cli("inspect", "tiny.yaml")
    assert result.exit_code == 0
    assert row(result.stdout, "2")[-3:-1] == ["build_error", "-"]


def test_a_built_in_network_has_a_usual_shape(cli: Cli, work: Path) -> None:
    result = cli("inspect", "resnet20_cifar", "--no-measure")
    assert result.stdout.startswith("resnet20_cifar, input (1, 3, 32, 32): 19 sites of 6")
    assert "Every convolution is a site." in result.stdout


def test_a_network_without_sites(cli: Cli, work: Path) -> None:
    result = cli("inspect", "net.py:flat", "--input-shape", "1,3,8,8")
    assert result.exit_code == 0
    assert "0 sites" in result.stdout


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["net.py:make"], 2, "needs the shape of its input"),
        (["net.py:make", "--input-shape", "3,8,8"], 1, "expected four whole numbers N, C, H, W"),
        (["net.py:make", "--input-shape", "1,1,8,8"], 1, "the network fails on an input of"),
        (["net.py:nope", "--input-shape", "1,3,8,8"], 1, "has no 'nope'"),
        (["resnet20_cifra"], 1, "did you mean 'resnet20_cifar'?"),
        (["none.yaml"], 1, "none.yaml: no such file"),
        (["net.py"], 1, "net.py"),
        ([""], 1, "unknown model"),
    ],
)
def test_bad_input(cli: Cli, work: Path, args: list[str], code: int, message: str) -> None:
    result = cli("inspect", *args)
    assert result.exit_code == code, result.output
    assert message in " ".join(result.stderr.replace("│", " ").split())
