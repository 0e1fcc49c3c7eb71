"""Other estimates beside one: which are matched, what the page and the files say, and what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from fake_reports import EVIL, Page, changed, make_summary, make_target, render

from sourcewise.core.errors import SourcewiseError
from sourcewise.report.formatting import display_unit
from sourcewise.study import comparison


def estimates(folder: Path, study: str, target: str = "digits", seed: int = 0) -> xr.Dataset:
    """An estimate in a folder, of the same true influences as those of other studies."""
    dataset, _ = make_target(name=target, examples=3, seed=seed)
    dataset.attrs["study"] = study
    rng = np.random.default_rng([seed, len(study)])
    for suffix in ("class", "overall"):
        truth, error = make_target(examples=3)[0][f"influence_{suffix}"], dataset[f"stderr_{suffix}"]
        dataset[f"influence_{suffix}"] = truth + error * rng.normal(size=error.shape)
    (folder / study / target).mkdir(parents=True)
    names = [name for name in dataset.data_vars if name.endswith(("_class", "_overall"))]
    dataset[names].to_netcdf(folder / study / target / "influences.nc", engine="h5netcdf")
    return dataset


def test_studies_of_the_same_truth_agree_and_a_planted_difference_is_on_the_page(tmp_path: Path) -> None:
    here = estimates(tmp_path, "here", seed=1)
    for number, name in enumerate(("wide", EVIL.replace("/", "")), 2):
        there = estimates(tmp_path, name, seed=number)
    there["influence_class"][3, 5] += 0.5
    shuffled = there.isel(group=np.random.default_rng(0).permutation(36))
    shuffled.to_netcdf(tmp_path / name / "digits" / "influences.nc", engine="h5netcdf")
    others = comparison.read_studies([str(tmp_path / "wide"), str(tmp_path / name)], "here")
    found = comparison.compare(here, others, 0.05)
    assert found is not None
    assert [(item.study, item.level) for item in found.agreements] == [
        (study, level) for study in ("wide", name) for level in ("class", "overall")
    ]
    first, second = found.agreements[0], found.agreements[2]
    assert first.agreement.corrected > 0.9
    assert first.agreement.groups == 36
    assert (second.differences[0].group, second.differences[0].class_name) == ("5", "3")
    assert second.differences[0].difference == pytest.approx(-0.5 * 35 / 36, abs=0.05)
    assert np.shape(found.matrix) == (3, 3)
    assert found.matrix[0][1] == first.agreement.corrected
    comparison.write(tmp_path, found)
    assert pd.read_csv(tmp_path / "compare.csv")["corrected"][0] == pytest.approx(first.agreement.corrected)
    assert pd.read_csv(tmp_path / "disagreements.csv")["group"].astype(str).iloc[len(first.differences)] == "5"
    _, facts = make_target(examples=3)
    summary = changed(make_summary({"digits": facts}), compared=found)
    text = render({"digits": here}, summary, ["compare"])
    assert EVIL.replace("/", "") not in text
    page = Page(text)
    assert "Noise allows" in page.text
    difference = second.differences[0]
    assert display_unit("prob").pair(difference.difference, difference.stderr)[0] in page.text


def test_the_target_of_the_same_name_counts_or_all_overall(tmp_path: Path) -> None:
    here = estimates(tmp_path, "here", seed=1)
    estimates(tmp_path, "two", seed=2)
    estimates(tmp_path, "two", target="letters", seed=3)
    others = comparison.read_studies([str(tmp_path / "two")], "here")
    found = comparison.compare(here, others, 0.05)
    assert found is not None
    assert {item.target for item in found.agreements} == {"digits"}
    other_target = here.assign_attrs(target="signs").assign_coords({"class": [f"sign {i}" for i in range(10)]})
    found = comparison.compare(other_target, others, 0.05)
    assert found is not None
    assert [(item.target, item.level) for item in found.agreements] == [("digits", "overall"), ("letters", "overall")]
    assert np.isnan(found.matrix[1][2])  # both of the same models
    assert found.studies[1:] == ("two on digits", "two on letters")


def test_places_that_cannot_be_compared_are_one_line(tmp_path: Path) -> None:
    here = estimates(tmp_path, "here", seed=1)
    estimates(tmp_path, "wide", seed=2)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "influences.nc").write_bytes(b"torn")
    for places, reason in {
        ("here",): "compare=.*here: this is the study itself",
        ("gone",): "compare=.*gone: there is no influences.nc here",
        ("torn/influences.nc",): "compare=.*torn/influences.nc: .* is not an influences.nc",
        ("wide", "wide/digits"): "compare=.*wide/digits: wide on digits is there twice",
    }.items():
        with pytest.raises(SourcewiseError, match=reason) as raised:
            comparison.compare(here, comparison.read_studies([str(tmp_path / place) for place in places], "here"), 0.05)
        assert "\n" not in str(raised.value)
    other = here.assign_coords(group=[f"x{i}" for i in range(36)]).assign_attrs(study="other")
    with pytest.raises(SourcewiseError, match="compare=there: it has no groups in common"):
        comparison.compare(here, {"there": [other]}, 0.05)
