from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from tests.engine.cli.conftest import Cli

COMMANDS = ("inspect", "transforms", "run", "runs", "show", "export", "ui")


def test_help_names_every_command(cli: Cli) -> None:
    result = cli("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert command in result.stdout
        assert cli(command, "--help").exit_code == 0


def test_no_command_is_help(cli: Cli) -> None:
    result = cli()
    assert "Usage: loopgene" in result.output
    assert result.exit_code == 2


def test_version(cli: Cli) -> None:
    assert cli("--version").stdout == f"loopgene {version('loopgene')}\n"


def test_usage_errors_exit_with_2(cli: Cli) -> None:
    assert cli("rnu").exit_code == 2
    assert cli("run").exit_code == 2
    assert cli("run", "a.yaml", "--nope").exit_code == 2
    assert cli("ui", "--port", "0").exit_code == 2


def test_help_imports_nothing_slow() -> None:
    """`loopgene --help` answers at once: libraries are imported where they are used."""
    slow = "{'torch', 'tvm', 'mlflow', 'sklearn', 'matplotlib', 'deap', 'numpy'}"
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from engine.cli import app\n"
        "assert CliRunner().invoke(app, ['run', '--help']).exit_code == 0\n"
        f"print(sorted({slow} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_error_is_one_line_on_stderr(tmp_path: Path) -> None:
    """Through the installed command's entry point, as a shell sees it."""
    code = "import sys; sys.argv = ['loopgene', 'show', 'x']; from engine.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "loopgene: error: there are no runs in loopgene-runs; "
        "start one with: loopgene run CONFIG\n"
    )
