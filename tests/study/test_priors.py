"""Tables of prior means: from full runs, estimates and records of other studies, matched by name."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_records import CLASSES, GROUPS, make, write_study
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.fitting import fit
from sourcewise.records import record
from sourcewise.records.record import Record
from sourcewise.study import writing
from sourcewise.study.collect import Study, collect
from sourcewise.study.influences import estimate
from sourcewise.study.priors import PriorSetting, PriorTable, find_priors, score_priors, values

MODELS = [make(seed) for seed in range(12)]
RNG = np.random.default_rng(0)
LABEL, FEATURE = RNG.random((2, 2, len(CLASSES), len(GROUPS))).astype(np.float32)  # of two full runs each


def full_run(seed: int, **changes: object) -> Record:
    item = make(seed, design="full", run=f"full-seed{seed}", subset_seed=None, **changes)
    mapped = replace(item.targets["pets"], label_mapping=LABEL[seed], feature_mapping=FEATURE[seed])
    return Record(np.ones(len(GROUPS), bool), {"pets": mapped}, item.header)


def study(*more: Record) -> Study:
    return collect([*MODELS, *more])


def found(taker: Study, setting: PriorSetting) -> dict[str, dict[str, np.ndarray]]:
    return values(find_priors(taker, setting))


def another(folder: Path, name: str, count: int = 10, **changes: object) -> str:
    write_study(folder / name, count, study=name, **changes)
    return str(folder / name)


@given(
    st.permutations(range(4)), st.lists(st.sampled_from("abcde"), unique=True, min_size=1), st.sets(st.integers(0, 11))
)
def test_tables_are_matched_by_name(order: Sequence[int], classes: list[str], holes: set[int]) -> None:
    table = np.arange(12.0).reshape(3, 4) ** 2
    table.flat[list(holes)] = np.nan
    wanted = [f"g{number}" for number in order]
    aligned = PriorTable("t", "pets", ("a", "b", "c"), ("g0", "g1", "g2", "g3"), table).aligned(classes, wanted)
    assert aligned.shape == (len(classes), 4)
    assert np.isfinite(aligned).all()
    filled = {}
    for name, row in zip("abc", table, strict=True):
        if (known := row[~np.isnan(row)]).size:
            filled[name] = [value if value == value else known.mean() for value in row]
    mean = [np.mean(column) for column in zip(*filled.values(), strict=True)] or [0.0] * 4
    for name, row in zip(classes, aligned, strict=True):
        np.testing.assert_allclose(row, [filled.get(name, mean)[number] for number in order])


def test_auto_is_the_mean_mapping_of_all_full_runs() -> None:
    both = study(full_run(0), full_run(1))
    tables = found(both, "auto")["pets"]
    assert list(tables) == ["label_mapping", "feature_mapping"]
    np.testing.assert_allclose(tables["label_mapping"], LABEL.mean(0), rtol=1e-6)
    np.testing.assert_allclose(tables["feature_mapping"], FEATURE.mean(0), rtol=1e-6)
    np.testing.assert_array_equal(found(study(full_run(1)), "auto")["pets"]["label_mapping"], LABEL[1])
    assert found(study(), "auto") == found(both, None) == {"pets": {}}


def test_records_of_a_proxy_are_a_prior_and_their_groups_may_have_another_order(tmp_path: Path) -> None:
    turned = GROUPS[::-1]
    place = another(tmp_path, "proxy", 9, group_names=turned)
    record.write(full_run(0, study="proxy", group_names=turned), tmp_path / "proxy/full/record.safetensors")
    proxies = find_priors(study(), [place])
    tables = values(proxies)["pets"]
    assert (proxies["pets"]["proxy"].models, proxies["pets"]["proxy"].seconds) == (9, 1.5)
    assert list(tables) == ["label_mapping of proxy", "feature_mapping of proxy", "proxy"]
    items = [make(seed) for seed in range(9)]
    outputs = items[0].targets["pets"]
    prob = np.array([item.targets["pets"].prob for item in items], float)
    means = np.stack([prob[:, outputs.labels == label].mean(1) for label in range(len(CLASSES))], axis=1)
    mappings = {"label": LABEL[0], "feature": FEATURE[0]}
    masks, labels = np.array([item.mask for item in items]), range(len(CLASSES))
    fitted = fit(masks, means, "hierarchical", labels=labels, priors=mappings)
    np.testing.assert_allclose(tables["proxy"], fitted.estimate.slopes[:, ::-1], atol=1e-9)
    without = fit(masks, means, "hierarchical", labels=labels)
    assert not np.allclose(without.estimate.slopes, fitted.estimate.slopes, atol=1e-6)
    np.testing.assert_allclose(tables["label_mapping of proxy"], LABEL[0][:, ::-1])


def test_an_estimate_of_another_study_is_a_prior(tmp_path: Path) -> None:
    neighbour = collect([make(seed, study="other") for seed in range(20)])
    influences = estimate(neighbour, "difference")["pets"].dataset
    posterior = influences.assign(posterior_class=influences["influence_class"] * 2)
    writing.write({"pets": posterior}, tmp_path)
    for place in (tmp_path, tmp_path / "pets", tmp_path / "pets/influences.nc"):
        tables = found(study(full_run(0)), str(place))["pets"]
        assert list(tables) == ["label_mapping", "feature_mapping", "other"]
        np.testing.assert_allclose(tables["other"], 2 * influences["influence_class"], rtol=1e-5)
    posterior.drop_vars("posterior_class").to_netcdf(tmp_path / "pets/influences.nc", engine="h5netcdf")
    np.testing.assert_allclose(found(study(), str(tmp_path))["pets"]["other"], influences["influence_class"])


def test_a_prior_on_another_target_counts_by_its_classes(tmp_path: Path) -> None:
    items = [make(seed, study="other", class_names={"toys": ["dog", "kite", "car"]}) for seed in range(10)]
    items = [Record(item.mask, {"toys": item.targets["pets"]}, item.header) for item in items]
    for item in items:
        record.write(item, tmp_path / item.header.run / "record.safetensors")
    (name, table), *more = found(study(), str(tmp_path))["pets"].items()
    assert (name, more) == ("other on toys", [])
    np.testing.assert_array_equal(table[0], table[2])  # cat and eel are not among the toys
    assert np.ptp(table[0] - table[1]) > 0


def test_what_cannot_be_a_prior_is_one_clear_line(tmp_path: Path) -> None:
    groups = another(tmp_path, "groups", group_names=[*GROUPS[:-1], "other"])
    proxy, itself = another(tmp_path, "proxy"), another(tmp_path, "made-up-0123456789")
    one = another(tmp_path, "one", count=1)
    (tmp_path / "text.nc").write_text("text")
    for places, message in (
        ([groups], f"priors={groups}: its 14 groups are not the 14 of this study: g13 is missing there"),
        ([proxy, f"{proxy}/"], f"priors={proxy}/: a prior from proxy is there twice"),
        ([itself], f"priors={itself}: this is the study itself"),
        ([one], f"priors={one}: neither two random subsets nor a full run"),
        ([str(tmp_path / "text.nc")], "text.nc is not an influences.nc"),
        ([str(tmp_path / "none")], f"priors={tmp_path}/none: there is no such folder"),
    ):
        with pytest.raises(SourcewiseError) as error:
            found(study(), places)
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_a_prior_is_scored_by_the_models_of_the_study(tmp_path: Path) -> None:
    taker, place = study(), another(tmp_path, "proxy", seconds={"pretraining": 0.5})
    priors = find_priors(taker, [place])["pets"]
    score = score_priors(taker, "pets", priors)["proxy"]
    assert (score.models, score.cost) == (10, pytest.approx(10 / 3))
    masks, means = taker.masks.unpack(), taker.targets["pets"].class_means
    predicted = masks @ priors["proxy"].values.T
    expected = np.mean([stats.spearmanr(predicted[:, row], means[:, row]).statistic for row in range(len(CLASSES))])
    assert score.lds.value == pytest.approx(expected)
    assert score.lds.low < expected < score.lds.high
