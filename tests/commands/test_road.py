"""From folders of images to a subset that was verified, by the commands that the product prints and no others.

Only the first sweep of each kind of data is typed. It is a sweep as the docs have it, made tiny.
"""

import csv
import re
from pathlib import Path

import pytest
from test_printed_commands import (
    PLACES,
    Shell,
    printed,
    shell_beside_folders,
    shortened,
    spelled,
    the_one,
    typed,
    written,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TINY_MODELS = (
    "source.pretraining.epochs=1",
    "source.train.side=12",
    "model=small_cnn",
    "model.width=4",
    "transfer.epochs=1",
    "transfer.batch_size=16",
)
FOLDERS = (
    "experiment=folders",
    PLACES[0],
    "target=[]",
    "+target@target.birds=named_folder",
    "target.birds.root='my photos/target'",
    "target.birds.train.side=12",
    "+target@target.pets=named_folder",
    "target.pets.root='my photos/pets'",
    "target.pets.train.side=12",
    *TINY_MODELS,
)
TABLE = (
    "experiment=folders",
    "source=table",
    "source.root='my photos'",
    "source.train.dataset.file=source.csv",
    PLACES[1],
    "target.imagefolder.train.side=12",
    "source.train.format=raw",
    *TINY_MODELS,
)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return shell_beside_folders(tmp_path)


def results(command: str, shell: Shell) -> Path:
    """Return the folder where a command puts the results of an estimate."""
    (match,) = re.findall(r"\bout=(\S+)", command)
    return shell.folder / match


def the_estimate(text: str) -> str:
    """Return the command for an estimate that a sweep prints at its end."""
    (line,) = [line for line in printed(text) if "estimate.py" in line]
    return line


def test_two_folders_lead_to_a_verified_subset(shell: Shell) -> None:
    (shell.folder / "my photos" / "pets").symlink_to("target")

    estimate = the_estimate(shell(typed(*FOLDERS, "subset.seed=range(0,10)")))
    look = shell(estimate)
    out = results(estimate, shell)
    page = printed(f"{look}\n{written(out)}")
    for line, words in page.items():
        assert "estimate.py" in words or set(map(spelled, FOLDERS)) <= set(map(spelled, words)), line

    (more,) = [line for line, words in printed(look).items() if "subset=random" in words]
    assert "10 of " in shell(more)
    curate = the_one(printed(look), "curate=true")
    (full,) = printed(shell(curate, status=2))
    shell(full)
    proposed = printed(shell(f"{curate} remove=2"))  # of models as bad as these, no removal promises a gain
    assert (out / "drop.txt").is_file()

    (verify,) = [line for line, words in proposed.items() if "subset=ranked" in words]
    shell(shortened(verify, "range(0,20)", "0,1"))
    (removal,) = [
        line
        for line, words in page.items()
        if f"subset.ranking={out.relative_to(shell.folder)}/pets/influences.nc" in words
    ]
    shell(shortened(removal, "range(0,5)", "0"))
    after = shell(the_one(proposed, "curate=true"))
    assert "Verified on birds" in after
    assert "Verified on pets" in after
    assert re.search(r"^ +best, influences/pets +6 ", after, re.MULTILINE)
    assert len(shell.studies()) == 1

    examples = the_one(page, "source.groups=example")
    estimate = the_estimate(shell(shortened(examples, "range(0,200)", "range(0,8)")))
    shell(estimate)
    with (results(estimate, shell) / "review.csv").open() as file:
        assert {row["target"] for row in csv.DictReader(file)} == {"birds", "pets"}


def test_a_table_leads_from_models_of_the_full_source_to_influences(shell: Shell) -> None:
    rows = [
        f"source/{path.parent.name}/{path.name},{path.parent.name}\n"
        for path in sorted((shell.folder / "my photos/source").glob("*/*.png"))
        if "," not in path.parent.name
    ]
    (shell.folder / "my photos/source.csv").write_text("path,label\n" + "".join(rows))

    full = shell(typed(*TABLE, "subset=full", "seed=0,1"))
    assert "estimate.py" not in full  # of two models of one subset there is nothing to estimate
    error = shell("python estimate.py records=runs out=outputs/first logger=none", status=2)
    (more,) = printed(error)
    estimate = the_estimate(shell(shortened(more, "range(0,96)", "range(0,10)")))
    assert "10 models of subsets of 11 groups" in shell(estimate)
