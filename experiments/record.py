"""Record what a run has found beside its experiment: the result as .json, the report as .md.

python experiments/record.py experiments/quickstart.yaml [RUN]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from engine.config import load_config
from engine.report import render_result
from engine.runs import LATEST, find_run
from genomes.errors import LoopGeneError


def main(experiment: Path, run: str = LATEST) -> None:
    config = load_config(experiment)
    found = find_run(config.home, run)
    result = found.result()
    if result["name"] != config.name:
        sys.exit(f"{found.name} is a run of {result['name']!r}, not of {config.name!r}")
    # Where the images lie is the business of who runs it.
    result["config"]["data"]["path"] = config.data.path and str(config.data.path)
    experiment.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    report = render_result(result, config=str(experiment), run=found.name)
    experiment.with_suffix(".md").write_text(report)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), *sys.argv[2:])
    except LoopGeneError as error:
        sys.exit(str(error))
