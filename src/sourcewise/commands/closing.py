"""The last lines of a sweep: where its records are, how to estimate influences from them, and what W&B lacks."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sourcewise.core import names
from sourcewise.core.overrides import called_as, quote
from sourcewise.designs import DESIGNS, find_design

LISTED = 5
"""Studies that a sweep names at its end."""


def closing(configs: Sequence[Mapping[str, Any]]) -> str:
    """Return the last lines of a sweep. configs: of its complete runs, resolved, at least one."""
    from hydra.utils import instantiate

    folders = [names.run_dir(config) for config in configs]
    studies = {folder.parent: config for folder, config in zip(folders, configs, strict=True)}
    lines = [line for study in list(studies)[:LISTED] for line in _lines(study, studies[study])]
    lines += [f"and {len(studies) - LISTED} more studies"] * (len(studies) > LISTED)
    lines.append(instantiate(configs[0]["logger"], _convert_="all").closing_line(folders))
    return "\n".join(line for line in lines if line)


def _lines(study: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield where the records of a study are and the command that estimates from them, if there are enough."""
    records = [path.parent.name for path in study.glob(f"*/{names.RECORD}")]
    yield f"records of this study: {len(records)}, in {study}"
    designs = {*DESIGNS, config["subset"]["design"]}
    random = tuple(f"{design}-" for design in designs if find_design(design).is_random)
    if sum(name.startswith(random) for name in records) > 1:
        yield f"to estimate influences: {estimate_command(study, config)}"


def estimate_command(study: Path, config: Mapping[str, Any]) -> str:
    """Return the command that estimates influences from a study's records, into a folder of its own."""
    *words, program = called_as()
    program = str(Path(program).with_name(Path(program).name.replace("train", "estimate")))
    runs = study.parent
    has_own_folder = runs.name == "runs" and runs.parent.name  # as outputs/demo/runs
    settings = [f"records={quote(str(study))}"]
    settings += [f"out={quote(str(runs.parent if has_own_folder else Path('outputs', study.name)))}"]
    settings += ["logger=none"] * str(config["logger"]["_target_"]).endswith(".NoTracker")
    return shlex.join([*words, program, *settings])
