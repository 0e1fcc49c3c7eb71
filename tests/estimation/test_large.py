"""Tables that memory should not hold: made part by part on disk, with the numbers of one pass."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from fake_records import make

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation import arrays, fitting, score_interval, tables
from sourcewise.estimation.estimators import Estimate, Estimator, ridge
from sourcewise.estimation.fitting import fit
from sourcewise.estimation.inference import pvalues, qvalues, qvalues_in_place
from sourcewise.estimation.moments import Moments
from sourcewise.records.record import Record
from sourcewise.report.summary import summarise
from sourcewise.study import writing
from sourcewise.study.collect import collect
from sourcewise.study.influences import estimate


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (arrays, fitting, score_interval, tables):
        monkeypatch.setattr(module, "CELLS", 2**17)


def example_level(groups: int, examples: int, models: int) -> Iterator[Record]:
    """Records whose groups are examples; the first group helps."""
    for seed in range(models):
        item, mask = make(seed, examples=examples, group_names=None), np.random.default_rng(seed).random(groups) < 0.5
        outputs = item.targets["pets"]
        outputs.prob[:] = np.clip(outputs.prob + np.float16(0.3) * mask[0], 0, 1)
        yield Record(mask, item.targets, item.header)


@pytest.mark.slow  # half a minute under tracemalloc
def test_example_level_groups_are_estimated_in_memory_that_does_not_hold_their_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, little_memory: None
) -> None:
    groups, examples, models = 4200, 1500, 60  # more groups than ridge and lasso can do
    table = 4 * groups * examples
    tracemalloc.start()
    study = collect(example_level(groups, examples, models))
    result = estimate(study)
    summary = summarise(study, result, [], 0.05)
    writing.write({name: item.dataset for name, item in result.items()}, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < table, f"{peak / 2**20:.0f} MiB, and the table of influences alone has {table / 2**20:.0f} MiB"
    assert summary.targets["pets"].cells_example == groups * examples
    dataset = result["pets"].dataset
    assert len(summary.targets["pets"].overall) == writing.listed_groups(dataset).sizes["group"] == 2000
    hidden = sorted(set(dataset["group"].values) - set(writing.listed_groups(dataset)["group"].values))[:2]
    also = writing.listed_groups(dataset, hidden)
    assert also.sizes["group"] == 2002
    assert set(hidden) <= set(also["group"].values)
    assert any("Of 4,200 groups" in note for note in summary.notes)

    monkeypatch.setattr(tables, "CELLS", 2**24)
    whole = estimate(study)["pets"].dataset
    with xr.open_dataset(tmp_path / "pets" / "influences.nc") as dataset:
        for name in ("influence", "stderr"):
            np.testing.assert_allclose(dataset[name], whole[name], rtol=1e-4, atol=1e-6)
        ratio = dataset["qvalue"].values / whole["qvalue"].values
        assert ratio.min() > 1 - 1e-5
        assert ratio.max() < 1 + 1 / 2048 + 1e-5
        assert (dataset["qvalue"][:, 0] < 0.05).mean() > (dataset["qvalue"][:, 1:] < 0.05).mean()
        top = pd.read_parquet(tmp_path / "pets" / "top.parquet")
        best = top[top["rank"] == 1].set_index("example")["posterior"].loc[dataset["example"].values]
        np.testing.assert_allclose(best, dataset["posterior"].values.max(1), rtol=1e-6)
        np.testing.assert_allclose(dataset["posterior"], whole["posterior"], atol=0.25 * whole["stderr"].values.max())


@pytest.mark.parametrize("name", ["difference", "ridge", "ols", "lasso", "hierarchical"])
def test_a_table_made_by_examples_is_that_of_one_pass(
    name: str, monkeypatch: pytest.MonkeyPatch, little_memory: None
) -> None:
    rng = np.random.default_rng(0)
    masks, outputs = rng.random((150, 40)) < 0.5, rng.normal(size=(150, 4000))
    outputs += masks[:, :1]
    parts = fit(masks, outputs, name)
    monkeypatch.setattr(tables, "CELLS", 2**24)
    whole = fit(masks, outputs, name)
    for key in ("influence", "stderr", "dof", "coefficients"):
        ours, theirs = getattr(parts.estimate, key), getattr(whole.estimate, key)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.dtype == np.float32
            # The hierarchy pools the variance of rests over the columns that it sees at a time.
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-3 if name == "hierarchical" else 1e-6)
    np.testing.assert_allclose(parts.qvalue, whole.qvalue, rtol=1 / 2048 + 1e-4)
    np.testing.assert_allclose(parts.predict(masks[:3]), whole.predict(masks[:3]), atol=5e-3)


def test_an_estimator_that_cannot_do_parts_gets_the_whole_table(little_memory: None) -> None:
    rng = np.random.default_rng(0)
    masks, outputs = rng.random((60, 40)) < 0.5, rng.normal(size=(60, 4000))
    columns = []

    def counted(moments: Moments) -> Estimate:
        columns.append(moments.columns)
        return ridge(moments)

    parts, pooled = Estimator("parts", counted), Estimator("pooled", counted, by_parts=False)
    assert fit(masks, outputs, parts).influence.dtype == np.float32
    assert max(columns) < 4000
    assert fit(masks, outputs, pooled).influence.dtype == np.float64
    assert max(columns) == 4000


def test_q_values_of_a_histogram_are_at_least_the_exact_ones_and_hardly_more() -> None:
    rng = np.random.default_rng(1)
    t = np.where(rng.random(40_000) < 0.1, 6, 0) + rng.normal(size=40_000)
    p = pvalues(t, np.ones(40_000), np.full(40_000, 50.0)).astype(np.float32)
    p[[3, 70, 71, 72]] = np.nan, 0, 1e-44, 1
    table = p.reshape(400, 100).copy()
    qvalues_in_place(table, [slice(0, 150), slice(150, 400)])
    exact = qvalues(p.astype(np.float64)).reshape(400, 100)
    assert np.isnan(table[0, 3])
    assert np.nanmin(table - exact * (1 - 1e-6)) >= 0
    assert np.nanmax(table - exact * (1 + 1 / 2048) - 1e-40) <= 1e-6


def test_what_many_groups_cannot_have_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, little_memory: None) -> None:
    rng = np.random.default_rng(0)
    masks, outputs = rng.random((30, 5000)) < 0.5, rng.normal(size=(30, 300))
    with pytest.raises(SourcewiseError, match="estimator=ridge can do 4096 groups, not 5000: use difference"):
        fit(masks, outputs, "ridge")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables.os, "posix_fallocate", full)
    with pytest.raises(SourcewiseError, match=r"no room for 0.0 GiB \(No space left on device\); set TMPDIR"):
        fit(masks, outputs)
