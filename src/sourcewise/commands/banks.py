"""The records of an estimate as a bank, one file, with a card that says what it holds and how it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.files import check_place, write_atomically
from sourcewise.records import bank
from sourcewise.report.formatting import count
from sourcewise.study.recipes import train_command

if TYPE_CHECKING:
    from sourcewise.records.reading import Records
    from sourcewise.records.record import Record
    from sourcewise.study.collect import Study


def check_bank(name: str | None, records: Any) -> None:
    """Raise SourcewiseError when a bank of this name could not be read, or written to its folder from these places."""
    if name is None:
        return
    if isinstance(records, Mapping):
        raise SourcewiseError(f"bank={name}: a bank holds records, and these are plain arrays")
    if not name.endswith(bank.SUFFIX):
        raise SourcewiseError(f"bank={name}: choose a name that ends with {bank.SUFFIX}")
    check_place(Path(name).parent)


def write_bank(path: Path, records: Records, used: Sequence[str], study: Study) -> None:
    """Write the records in the places `used` as a bank, and its card beside it. They are read once more."""
    bank.write(path, _chosen(records, set(used)))
    write_atomically(path.with_name(f"{path.name.removesuffix(bank.SUFFIX)}.md"), card(path.name, study).encode())


def _chosen(records: Records, used: set[str]) -> Iterator[Record]:
    reading = iter(records)
    return (item for item in reading if reading.used[-1] in used)


def card(name: str, study: Study) -> str:
    """Return what a bank of this name holds, in Markdown; all that comes from records stands in blocks of code."""
    header, sizes = study.header, study.masks.sizes()
    kept = f"{sizes.min()} to {sizes.max()}" if sizes.min() < sizes.max() else str(sizes[0])
    targets = {
        name: {
            "examples": len(outputs.ids),
            "classes": len(outputs.class_names),
            "mean score": float(outputs.scores.mean()),
        }
        for name, outputs in study.targets.items()
    }
    contents = {
        "study": header.study,
        "source": header.config["source"]["name"],
        "targets": targets,
        "runs by design": dict(study.designs),
        "groups": header.group_names or study.groups,
        "datasets, by a hash of their content": dict(header.fingerprints),
    }
    trained = {"recipe": header.recipe, "config": header.config, "versions": header.versions, "commit": header.commit}
    runs = count(sum(study.designs.values()), "run")
    return "\n".join(
        [
            f"# {name.removesuffix(bank.SUFFIX)}",
            "",
            f"A bank of sourcewise: {runs}. Each pretrained a model on a subset of {study.groups:,} groups of the",
            f"source, of which random subsets keep {kept}, and transferred it to {count(len(targets), 'target')}.",
            "The bank holds which groups each run kept and its outputs on every test example; no images, no weights.",
            "sourcewise estimates from it how each group of the source helps or hurts each example:",
            "",
            *_block(f"python estimate.py records={name} out=outputs/bank", "bash"),
            "",
            "Without sourcewise:",
            "",
            *_block(_READ.format(name=json.dumps(name), target=json.dumps(next(iter(targets)))), "python"),
            "",
            "## What it holds",
            "",
            *_block(json.dumps(contents, indent=1)),
            "",
            "## How it was trained",
            "",
            *_block(train_command(header), "bash"),
            "",
            *_block(json.dumps(trained, indent=1)),
            "",
        ]
    )


_READ = """import json
import numpy as np
from safetensors.numpy import load_file, safe_open

bank, target = load_file({name}), {target}
with safe_open({name}, "np") as file:
    header = json.loads(file.metadata()["sourcewise"])
masks = np.unpackbits(bank["mask"], axis=1, count=header["groups"]).astype(bool)  # [runs, groups]
prob = bank[target + "/prob"]  # [runs, examples], probability of the correct class; also margin and prediction
ids, labels = bank[target + "/ids"], bank[target + "/labels"]  # [examples]
groups, runs = header["shared"]["group_names"], header["runs"]  # names, and what differs between runs, as seeds"""


def _block(text: str, language: str = "json") -> list[str]:
    """Return a block of code in Markdown, whose fence no text can close: it is longer than any in it."""
    fence = "`" * (max([2, *map(len, re.findall("`+", text))]) + 1)
    return [f"{fence}{language}", text, fence]
