"""An estimate that writes a bank, one that reads it, and one of plain arrays."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import compose_config
from fake_records import GROUPS, write_study
from fake_reports import Page

from sourcewise.commands.estimate import estimate
from sourcewise.core.errors import SourcewiseError


def run(tmp_path: Path, out: str, *overrides: str) -> Path:
    estimate(compose_config(*overrides, f"out={tmp_path / out}", "logger=none", name="estimate"))
    return tmp_path / out


def test_a_bank_gives_the_results_of_its_records_and_its_card_says_what_it_holds(tmp_path: Path) -> None:
    write_study(tmp_path / "runs", 24, group_names=["```", *GROUPS[1:]])
    bank = tmp_path / "shared" / "pets.safetensors"
    first = run(tmp_path, "first", f"records={tmp_path / 'runs'}", f"bank={bank}", "estimator=ridge")
    second = run(tmp_path, "second", f"records={bank}", "estimator=ridge")
    with (
        xr.open_dataset(first / "pets" / "influences.nc") as a,
        xr.open_dataset(second / "pets" / "influences.nc") as b,
    ):
        assert a.identical(b)
    for table in ("pets-influence_class.csv", "pets-by-class.csv"):
        assert (first / "tables" / table).read_bytes() == (second / "tables" / table).read_bytes()
    assert (second / "records.txt").read_text().splitlines()[3] == f"{bank}/random-11-seed0"
    card = bank.with_suffix(".md").read_text()
    assert "# pets\n" in card
    assert "24 runs" in card
    snippet = card.partition("```python\n")[2].partition("\n```")[0]
    names: dict[str, np.ndarray] = {}
    exec(snippet.replace('"pets.safetensors"', repr(str(bank))), names)  # what the card tells to run
    assert names["masks"].shape == (24, 14)
    assert names["prob"].shape == (24, 12)
    assert "````json" in card


def test_a_bank_with_no_place_is_one_line_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(SourcewiseError, match=r"bank=x\.bin: choose a name that ends with \.safetensors"):
        run(tmp_path, "out", "records=/nowhere", "bank=x.bin")
    with pytest.raises(SourcewiseError, match="these are plain arrays"):
        run(tmp_path, "out", "records={masks: a.csv, outputs: b.csv}", "bank=x.safetensors")


def test_plain_arrays_are_estimated_are_no_points_and_stand_beside_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    effects = rng.normal(size=(6, 30)) * 9
    for name in ("first", "second"):
        masks = rng.random((60, 6)) < 0.5
        outputs = masks @ effects + rng.normal(size=(60, 30))
        (tmp_path / name).mkdir()
        pd.DataFrame(masks.astype(int), columns=list("abcdef")).to_csv(tmp_path / name / "m.csv", index=False)
        table = pd.DataFrame(outputs, columns=[f"{i}.png" for i in range(30)])
        table.to_csv(tmp_path / name / "y.csv", index=False)
        places = f"records={{masks: {tmp_path / name / 'm.csv'}, outputs: {tmp_path / name / 'y.csv'}}}"
        compare = [f"compare={tmp_path / 'first'}"] if name == "second" else []
        out = run(tmp_path, name, places, "outputs=value", "estimator=ridge", *compare)
    page = Page((out / "report.html").read_text()).text
    assert "units of the output" in page
    assert "percentage points" not in page
    assert "Accuracy" not in page
    assert "Studies side by side" in page
    compared = pd.read_csv(out / "y" / "compare.csv")
    assert compared["level"].tolist() == ["class", "overall"]
    assert (compared["corrected"] > 0.95).all()
    assert (out / "tables" / "y-compare.csv").exists()
