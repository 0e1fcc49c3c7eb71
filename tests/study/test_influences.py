from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from fake_records import CLASSES, GROUPS, make, write_study
from fake_reports import build
from scipy import stats
from statsmodels.stats.multitest import multipletests

from sourcewise.core.errors import SourcewiseError
from sourcewise.records import record
from sourcewise.records.reading import Records
from sourcewise.records.record import Record
from sourcewise.report import contents
from sourcewise.report.summary import summarise
from sourcewise.study import writing
from sourcewise.study.collect import collect
from sourcewise.study.influences import estimate
from sourcewise.study.outputs import output_values

MODELS = [make(seed) for seed in range(40)]


def brute_force(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """influence and stderr of outputs [models, columns], one group at a time; of even noise on both sides."""
    masks = np.array([item.mask for item in MODELS])
    influence, stderr = np.empty((2, values.shape[1], masks.shape[1]))
    for g in range(masks.shape[1]):
        kept, dropped = values[masks[:, g]], values[~masks[:, g]]
        influence[:, g] = kept.mean(0) - dropped.mean(0)
        squares = kept.var(0) * len(kept) + dropped.var(0) * len(dropped)
        stderr[:, g] = np.sqrt(squares / (len(masks) - 2) * (1 / len(kept) + 1 / len(dropped)))
    return influence, stderr


def test_a_disk_that_is_too_small_is_told_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = collect([*MODELS[:8]])
    found = {"pets": estimate(study, "difference")["pets"].dataset}
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(SourcewiseError, match="the disk has 1,000 left"):
        writing.write(found, tmp_path)
    assert not list(tmp_path.rglob("*.*"))


def test_paths_of_examples_reach_the_results_from_the_first_record_that_has_them(tmp_path: Path) -> None:
    paths: list[str | None] = [None, *(f"eels/{i}.jpg" for i in range(1, 12))]
    packed = record.pack_paths(paths)
    named = [
        replace(item, targets={"pets": replace(item.targets["pets"], packed_paths=packed)}) for item in MODELS[1:9]
    ]
    found = {"pets": estimate(collect([MODELS[0], *named]), "difference")["pets"].dataset}
    writing.write(found, tmp_path, top=1)
    with xr.open_dataset(tmp_path / "pets" / "influences.nc") as dataset:
        assert dataset["path"].dims == ("example",)
        assert dataset["path"].values.tolist() == ["", *paths[1:]]
    top = pd.read_parquet(tmp_path / "pets" / "top.parquet")
    assert (top["path"] == [paths[example // 3] or "" for example in top["example"]]).all()
    assert "path" not in estimate(collect(MODELS[:9]), "difference")["pets"].dataset.coords


def test_q_values_hold_over_several_looks_and_the_page_says_where_a_study_grew() -> None:
    ends = np.arange(40) * 60.0 + (np.arange(40) >= 16) * 90_000 + (np.arange(40) >= 32) * 90_000
    times = zip(MODELS, ends, strict=True)
    grown = [Record(item.mask, item.targets, replace(item.header, finished=end)) for item, end in times]
    study = collect(grown)
    assert study.stretches == 3
    once, thrice = (estimate(study, "difference", looks=looks) for looks in (1, 3))
    for suffix in ("", "_class", "_overall"):
        key = f"qvalue{suffix}"
        expected = np.minimum(3 * once["pets"].dataset[key].values, 1)
        np.testing.assert_allclose(thrice["pets"].dataset[key].values, expected)
    assert thrice["pets"].dataset.attrs["looks"] == 3
    assert "looks" not in once["pets"].dataset.attrs
    notes = [" ".join(summarise(study, item, [], 0.05, looks).notes) for looks, item in ((1, once), (3, thrice))]
    assert "The models were trained in 3 stretches of time" in notes[0]
    assert "looks=3 gives q-values" in notes[0]
    assert "holds over 3 looks together" in notes[1]
    assert "stretches" not in notes[1]


@pytest.mark.parametrize("output", ["prob", "margin", "correct"])
def test_all_levels_agree_with_brute_force(output: str) -> None:
    estimated = estimate(collect(MODELS, output), "difference")["pets"]
    found = estimated.dataset
    last = {level: checks.curve[-1].split_half for level, checks in estimated.checks.items() if checks.curve}
    assert last == {level: estimated.checks[level].split_half for level in ("example", "class")}
    values = np.array([output_values(item.targets["pets"], output) for item in MODELS]).astype(float)
    labels = MODELS[0].targets["pets"].labels
    by_class = np.stack([values[:, labels == c].mean(1) for c in range(3)], axis=1)
    for suffix, columns in {"": values, "_class": by_class, "_overall": values.mean(1, keepdims=True)}.items():
        influence, stderr = brute_force(columns)
        tables = {
            key: found[f"{key}{suffix}"].values.reshape(stderr.shape) for key in ("influence", "stderr", "qvalue")
        }
        np.testing.assert_allclose(tables["influence"], influence, atol=1e-6)
        even = np.abs(2 * np.sum([item.mask for item in MODELS], axis=0) - len(MODELS)) <= 4
        np.testing.assert_allclose(tables["stderr"][:, even], stderr[:, even], atol=1e-6)
        if output != "correct":
            p = 2 * stats.t(len(MODELS) - 2).sf(np.abs(influence) / tables["stderr"])
            q = multipletests(p.ravel(), method="fdr_bh")[1].reshape(p.shape)
            np.testing.assert_allclose(tables["qvalue"], q, atol=1e-6)


def test_many_outputs_are_summed_as_they_are_stored_with_the_same_results(monkeypatch: pytest.MonkeyPatch) -> None:
    study = collect(MODELS)
    exact = estimate(study, "difference")["pets"].dataset
    monkeypatch.setattr("sourcewise.study.collect.EXACT", 0)
    assert study.in_precision("pets", study.targets["pets"].examples).dtype == np.float16
    stored = estimate(study, "difference")["pets"].dataset
    for key in ("influence", "stderr"):
        np.testing.assert_allclose(stored[key], exact[key], rtol=1e-4, atol=1e-6)


def test_layout(tmp_path: Path) -> None:
    found = estimate(collect(MODELS))
    writing.write({name: item.dataset for name, item in found.items()}, tmp_path)
    with xr.open_dataset(tmp_path / "pets" / "influences.nc") as dataset:
        dataset.load()
    for name in ("influence", "stderr", "qvalue"):
        assert dataset[name].dims == ("example", "group")
        assert dataset[f"{name}_class"].dims == ("class", "group")
        assert dataset[f"{name}_overall"].dims == ("group",)
        np.testing.assert_allclose(dataset[name], found["pets"].dataset[name], rtol=1e-6)
    assert list(dataset["group"].values) == GROUPS
    assert list(dataset["class"].values) == CLASSES
    assert dataset["example"].values.tolist() == MODELS[0].targets["pets"].ids.tolist()
    assert dataset["label"].values.tolist() == MODELS[0].targets["pets"].labels.tolist()
    assert dataset.attrs["models"] == 40
    assert "positive" in dataset.attrs["sign"]
    assert sorted(path.name for path in (tmp_path / "pets").iterdir()) == ["influences.nc", "top.parquet"]


def test_only_random_subsets_count() -> None:
    full = Record(np.ones(14, dtype=bool), MODELS[0].targets, make(0, design="full", run="full").header)
    study = collect([full, *MODELS, full])
    assert study.models == 40
    assert study.designs == {"random": 40, "full": 2}
    xr.testing.assert_identical(estimate(study)["pets"].dataset, estimate(collect(MODELS))["pets"].dataset)
    with pytest.raises(SourcewiseError, match="no record has a randomly drawn subset"):
        collect([full])


def test_a_group_always_kept_is_nan_and_said_so() -> None:
    always = [Record(item.mask | (np.arange(14) == 2), item.targets, item.header) for item in MODELS]
    study = collect(always)
    found = estimate(study)["pets"].dataset
    assert np.isnan(found["influence"].sel(group="g2")).all()
    assert np.isfinite(found["influence"].drop_sel(group="g2")).all()
    summary = summarise(study, estimate(study), [], 0.05)
    assert any("g2" in note for note in summary.notes)


def test_two_records_are_enough_and_claim_nothing() -> None:
    study = collect(MODELS[:2])
    found = estimate(study)
    summary = summarise(study, found, [], 0.05)
    assert summary.targets["pets"].significant_class == 0
    shown = build({name: item.dataset for name, item in found.items()}, summary)
    assert "cannot support a claim" in contents.as_text(shown)


def test_a_class_without_examples_has_no_influence() -> None:
    named = {"pets": [*CLASSES, "fox"]}
    found = estimate(collect([Record(m.mask, m.targets, make(0, class_names=named).header) for m in MODELS]))[
        "pets"
    ].dataset
    assert np.isnan(found["influence_class"].sel({"class": "fox"})).all()
    assert np.isfinite(found["influence_class"].sel({"class": "dog"})).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: collect(MODELS, "probs"), "outputs=probs"),
        (
            lambda: estimate(collect(MODELS), "best"),
            "estimator=best: there is no such estimator; choose auto, difference",
        ),
    ],
)
def test_bad_settings_are_one_clear_line(call, message: str) -> None:
    with pytest.raises(SourcewiseError, match=message):
        call()


def test_the_summary_s_table_is_the_dataset_s(tmp_path: Path) -> None:
    write_study(tmp_path, 40)
    study = collect(MODELS)
    found = estimate(study)
    summary = summarise(study, found, [], 0.05)
    for row in summary.targets["pets"].table:
        column = found["pets"].dataset["influence_class"].sel({"class": row.class_name})
        best = column.max()
        if best > 0:
            assert row.helps[0].influence == pytest.approx(float(best))
            assert row.helps[0].group == str(column["group"][int(column.values.argmax())].values)
        assert all(effect.influence < 0 for effect in row.hurts)
    order = [effect.influence for effect in summary.targets["pets"].overall]
    assert order == sorted(order, reverse=True)


def test_a_scalar_is_estimated_like_an_output(tmp_path: Path) -> None:
    for seed in range(40):
        score = float(MODELS[seed].targets["pets"].prob.mean(dtype=np.float64))
        item = make(seed, metrics={"target/pets/prob": score})
        record.write(item, tmp_path / item.header.run / "record.safetensors")
    scalars = Records(str(tmp_path), progress=False).with_output("metric:target/pets/prob")
    found = estimate(collect(scalars, "metric:target/pets/prob"), "difference")["target.pets.prob"].dataset
    expected = estimate(collect(MODELS), "difference")["pets"].dataset
    for name in ("influence", "stderr", "qvalue"):
        np.testing.assert_allclose(found[f"{name}_overall"], expected[f"{name}_overall"], atol=1e-6)
    assert list(found["group"].values) == GROUPS


def test_top_holds_the_groups_that_matter_most_for_each_example(tmp_path: Path) -> None:
    found = estimate(collect(MODELS), "difference")["pets"].dataset
    writing.write({"pets": found}, tmp_path, top=3)
    table = pd.read_parquet(tmp_path / "pets" / "top.parquet")
    for example, rows in table.groupby("example"):
        values = found["posterior"].sel(example=example).values
        for sign in (1, -1):
            side = rows[np.sign(rows["rank"]) == sign].sort_values("rank", key=abs)
            best = np.sort(values[np.sign(values) == sign] * -sign)[:3] * -sign
            np.testing.assert_allclose(side["posterior"], best)
            names = [str(found["group"].values[np.flatnonzero(values == v)[0]]) for v in best]
            assert list(side["group"]) == names
