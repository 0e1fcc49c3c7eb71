"""The demo's claims, on the demo's own 98 models."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_commands import command

from sourcewise.records.reading import Records
from sourcewise.records.record import Record
from sourcewise.study.collect import collect
from sourcewise.study.influences import estimate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    runs = tmp_path_factory.mktemp("demo")
    done = command("train.py", "-m", "experiment=demo", f"runs_dir={runs}", "logger=none", timeout=850)
    assert done.returncode == 0, done.stderr
    found = list(Records(str(runs), progress=False))
    assert sorted(Counter(record.header.design for record in found).items()) == [("full", 2), ("random", 96)]
    return found


def permuted(records: list[Record], seed: int) -> Iterator[Record]:
    """The same outputs under the masks of other records: all influences are zero."""
    random = [record for record in records if record.header.is_random]
    order = np.random.default_rng(seed).permutation(len(random))
    for item, other in zip(random, order, strict=True):
        yield replace(item, mask=random[other].mask)


def test_every_digit_helps_itself_significantly(records: list[Record]) -> None:
    found = estimate(collect(records))["digits"].dataset
    for digit in "0123456789":
        own = found.sel({"class": digit, "group": digit})
        assert own["influence_class"] > 0, digit
        assert own["qvalue_class"] <= 0.05, digit


def test_a_null_table_gives_few_discoveries(records: list[Record]) -> None:
    tables = [estimate(collect(permuted(records, seed)))["digits"].dataset for seed in range(20)]
    for suffix in ("", "_class", "_overall"):
        discoveries = np.array([(table[f"qvalue{suffix}"].values <= 0.05).mean() for table in tables])
        assert discoveries.max() <= 0.05, suffix
        # Under a null every discovery is false, so at 5% FDR one table in 20 has any: 4 are within chance (p = 0.003).
        assert (discoveries > 0).sum() <= 4, suffix


def test_the_demo_leaves_what_the_readme_says(records: list[Record], tmp_path: Path) -> None:
    runs = Path(records[0].header.config["runs_dir"])
    done = command("estimate.py", f"records={runs}", f"out={tmp_path}", "logger=none")
    assert done.returncode == 0, done.stderr
    for name in ("report.html", "summary.json", "digits/influences.nc"):
        assert (tmp_path / name).stat().st_size > 1000
