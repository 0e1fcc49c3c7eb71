import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sourcewise.core.errors import SourcewiseError
from sourcewise.designs.random_designs import hadamard
from sourcewise.estimation.arrays import PackedMasks
from sourcewise.estimation.checks import Checks, describe
from sourcewise.estimation.collapse import collapse
from sourcewise.estimation.estimators import ESTIMATORS
from sourcewise.estimation.fitting import fit
from sourcewise.estimation.identifiability import never_apart
from sourcewise.estimation.reliability import GOAL
from tests.estimation.test_calibration import design


def planted(models=120, groups=12, columns=20, noise=0.3, kind="random", seed=0, seeds=1):
    rng = np.random.default_rng(seed)
    masks = np.repeat(design(kind, groups, models, rng), seeds, axis=0)
    b = rng.normal(0, 0.2, (columns, groups))
    return masks, masks @ b.T + rng.normal(0, noise, (len(masks), columns)), b


def test_auto_picks_the_best_lds_and_finds_what_was_planted():
    masks, outputs, b = planted()
    result = fit(masks, outputs, groups=[f"g{i}" for i in range(12)], level="class")
    assert result.checks.estimator == max(result.checks.candidates, key=result.checks.candidates.get)
    assert set(result.checks.candidates) == set(ESTIMATORS)
    assert result.checks.lds == result.checks.candidates[result.checks.estimator]
    assert result.influence.shape == result.stderr.shape == result.qvalue.shape == (20, 12)
    target = (12 * b - b.sum(1, keepdims=True)) / 11
    assert np.corrcoef(result.influence.ravel(), target.ravel())[0, 1] > 0.9
    low, high = result.interval()
    assert 0.9 < ((low < target) & (target < high)).mean() < 0.99
    assert result.checks.lds_interval[0] < result.checks.lds < result.checks.lds_interval[1]
    assert result.checks.noise_ceiling is None
    assert result.verdict.startswith("Influences at class level are ")
    assert "split-half" in result.verdict


@pytest.mark.parametrize(("models", "kind", "seeds"), [(12, "random", 1), (40, "random", 1), (60, "hadamard", 2)])
def test_the_order_of_the_models_changes_nothing(models, kind, seeds):
    masks, outputs, _ = planted(models=models, groups=36, columns=15, noise=1.0, kind=kind, seeds=seeds)
    seed_of = np.tile(range(seeds), models)
    result = fit(masks, outputs, seeds=seed_of)
    for order in np.random.default_rng(0).permuted(np.tile(range(len(masks)), (2, 1)), axis=1):
        again = fit(masks[order], outputs[order], seeds=seed_of[order])
        assert again.method is result.method
        assert again.checks.lds == pytest.approx(result.checks.lds, abs=1e-9)
        assert again.checks.split_half == pytest.approx(result.checks.split_half, abs=1e-9, nan_ok=True)
        assert again.checks.more_models == result.checks.more_models
        np.testing.assert_allclose(again.qvalue, result.qvalue, atol=1e-9)


def test_below_twenty_subsets_the_estimator_is_fixed():
    masks, outputs, _ = planted(models=20, groups=6)
    assert list(fit(masks[:19], outputs[:19]).checks.candidates) == ["difference"]
    assert len(fit(masks, outputs).checks.candidates) > 1


def test_auto_takes_lasso_for_sparse_truth_and_no_difference_where_sizes_are_mixed():
    rng = np.random.default_rng(1)
    masks = design("random", 60, 100, rng)
    sparse = np.zeros((10, 60))
    sparse[:, :2] = 1
    assert fit(masks, masks @ sparse.T + rng.normal(0, 0.3, (100, 10))).checks.estimator == "lasso"
    masks, outputs, _ = planted(kind="mixed", groups=36)
    assert "difference" not in fit(masks, outputs).checks.candidates
    assert "Subset sizes are mixed" in fit(masks, outputs, "difference").verdict


def test_predictions_are_held_out_truth_and_lds_is_their_spearman():
    masks, outputs, b = planted(models=400)
    result = fit(masks[:200], outputs[:200], "ridge")
    predicted = result.predict(masks[200:])
    truth = masks[200:] @ b.T
    assert np.abs(predicted - truth).mean() < 0.5 * np.abs(outputs[200:] - truth).mean()
    ranks = [np.argsort(np.argsort(a, axis=0), axis=0) for a in (predicted, outputs[200:])]
    fresh = np.mean([np.corrcoef(ranks[0][:, e], ranks[1][:, e])[0, 1] for e in range(20)])
    assert result.checks.lds == pytest.approx(fresh, abs=0.06)


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_no_estimator_predicts_noise(name):
    masks, outputs, _ = planted(models=150, groups=30, columns=60, noise=1.0)
    result = fit(masks, outputs[np.random.default_rng(5).permutation(150)], name)
    assert abs(result.checks.lds) < 0.05
    assert (result.qvalue < 0.05).mean() < 0.01
    assert "mostly noise" in result.verdict


def test_seeds_are_averaged_and_never_split_and_give_the_ceiling():
    masks, outputs, b = planted(models=80, groups=20, seeds=3, noise=0.6)
    seeds = np.tile([0, 1, 2], 80)
    order = np.random.default_rng(2).permutation(240)
    result = fit(masks[order], outputs[order], "ols", seeds=seeds[order])
    means = outputs.reshape(80, 3, -1).mean(1)
    alone = fit(masks[::3], means, "ols")
    np.testing.assert_allclose(result.influence, alone.influence, atol=1e-9)
    np.testing.assert_allclose(result.stderr, alone.stderr, atol=1e-9)
    variance = (masks[::3] @ b.T).var(0)
    expected = np.sqrt(variance / (variance + 0.6**2 / 3)).mean()
    assert result.checks.noise_ceiling == pytest.approx(expected, abs=0.05)
    low, high = result.checks.noise_ceiling_interval
    assert 0 < low < expected < high < 1
    assert 0 < result.checks.lds < result.checks.noise_ceiling + 0.02
    assert "of the noise ceiling" in result.verdict
    twice = [np.concatenate([a, a[:30]]) for a in (masks, outputs, seeds)]
    again = fit(*twice[:2], "ols", seeds=twice[2])
    np.testing.assert_allclose(again.influence, result.influence, atol=1e-9)
    assert again.checks.noise_ceiling == pytest.approx(result.checks.noise_ceiling)


@pytest.mark.parametrize(("name", "kind"), [("difference", "random"), ("ridge", "random"), ("ridge", "bernoulli")])
def test_the_forecast_holds_when_the_models_are_added(name, kind):
    masks, outputs, _ = planted(models=3000, groups=24, columns=150, noise=0.8, kind=kind)
    now = fit(masks[:120], outputs[:120], name)
    assert 0.2 < now.checks.split_half < 0.7
    then = 120 + now.checks.more_models
    assert 200 < then < 3000
    assert fit(masks[:then], outputs[:then], name).checks.split_half == pytest.approx(GOAL, abs=0.05)


@pytest.mark.parametrize(("name", "models"), [("difference", 64), ("difference", 128), ("ridge", 64)])
def test_the_forecast_holds_on_a_hadamard_design(name, models):
    masks = np.array([hadamard(range(36), seed) for seed in range(1024)])
    rng = np.random.default_rng(0)
    outputs = masks @ rng.normal(0, 1, (36, 100)) + rng.normal(0, 3, (1024, 100))
    now = fit(masks[:models], outputs[:models], name)
    assert 0.1 < now.checks.split_half < 0.5
    then = models + now.checks.more_models
    assert fit(masks[:then], outputs[:then], name).checks.split_half == pytest.approx(GOAL, abs=0.05)


def test_convergence_rises_to_all_models():
    masks, outputs, _ = planted(models=320)
    points = fit(masks, outputs, "ridge").curve()
    assert [p.models for p in points] == [40, 80, 160, 320]
    assert points[-1].lds > points[0].lds
    assert points[-1].split_half > points[0].split_half
    assert points[-1].lds == pytest.approx(fit(masks, outputs, "ridge").checks.lds)


def test_a_group_that_was_never_dropped_is_nan_and_the_rest_is_not():
    masks, outputs, _ = planted()
    masks[:, 3] = True
    for name in ESTIMATORS:
        result = fit(masks, outputs, name)
        missing = np.isnan(result.influence)
        assert missing[:, 3].all()
        assert missing.sum() == len(missing)
        assert np.isnan(result.qvalue[:, 3]).all()
        assert np.isfinite(result.predict(masks)).all()


def test_a_constant_column_is_no_discovery():
    masks, outputs, _ = planted()
    outputs = outputs.astype(np.float32)
    outputs[:, 0] = 0.7
    for name in ESTIMATORS:
        result = fit(masks, outputs, name)
        np.testing.assert_allclose(result.influence[0], 0, atol=1e-6)
        np.testing.assert_array_equal(result.qvalue[0], 1)
        assert np.isfinite(result.checks.lds)


def test_half_precision_lists_and_zeros_and_ones_will_do():
    masks, outputs, _ = planted()
    double = fit(masks, outputs, "ridge").influence
    half = fit(masks.astype(int).tolist(), outputs.astype(np.float16), "ridge").influence
    np.testing.assert_allclose(half, double, atol=2e-3)
    assert fit(masks, outputs[:, 0], "difference").influence.shape == (1, 12)


def test_few_models_give_an_answer_that_says_what_is_missing():
    masks, outputs, _ = planted(models=2)
    result = fit(masks, outputs)
    assert result.checks.estimator == "difference"
    assert np.isnan(result.checks.lds)
    assert "cannot be checked" in result.verdict


def test_a_verdict_has_no_negative_zero():
    numbers = {"lds": -0.001, "lds_interval": (-0.004, 0.02), "noise_ceiling": None, "split_half": -0.002}
    text = describe(Checks(estimator="ridge", **numbers, more_models=None, candidates={}, verdict=""), "class")
    assert "split-half reliability 0.00, LDS 0.00 (0.00 to 0.02)" in text


BAD = {
    "no records": (lambda m, y: (m[:0], y[:0]), {}, "0 records: an estimate needs"),
    "one record": (lambda m, y: (m[:1], y[:1]), {}, "1 record: an estimate needs"),
    "rows": (lambda m, y: (m, y[1:]), {}, "masks but 119 rows"),
    "nan": (lambda m, y: (m, np.where(np.arange(120)[:, None] == 7, np.nan, y)), {}, r"1 of 120 rows \(7\)"),
    "constant": (lambda m, y: (m, np.ones_like(y)), {}, "constant"),
    "masks": (lambda m, y: (m * 0.5, y), {}, "zeros and ones"),
    "one mask": (lambda m, y: (m[0], y), {}, "two dimensions"),
    "words": (lambda m, y: (m, y.astype(str)), {}, "real numbers"),
    "stack": (lambda m, y: (m, y[None]), {}, "of 3 dimensions"),
    "no groups": (lambda m, y: (m[:, :0], y), {}, "nothing to estimate"),
    "estimator": (
        lambda m, y: (m, y),
        {"estimator": "rigde"},
        "estimator=rigde: there is no such estimator; did you mean ridge.; choose auto, difference",
    ),
    "groups": (lambda m, y: (m, y), {"groups": ["a"]}, "1 group names for 12"),
    "seeds": (lambda m, y: (m, y), {"seeds": [1, 2]}, "2 seeds for 120"),
    "ols": (lambda m, y: (m[:11], y[:11]), {"estimator": "ols"}, "too few for ols of 12 groups"),
    "kept": (lambda m, y: (m | True, y), {"estimator": "ridge"}, "kept by all models or by none"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case):
    change, settings, says = BAD[case]
    with pytest.raises(SourcewiseError, match=says) as caught:
        fit(*change(*planted()[:2]), **settings)
    assert "\n" not in str(caught.value)


def test_predict_refuses_masks_of_other_groups():
    masks, outputs, _ = planted()
    with pytest.raises(SourcewiseError, match="3 groups, but 12"):
        fit(masks, outputs, "difference").predict(masks[:, :3])


def test_folds_never_split_a_subset_from_its_complement():
    masks, outputs, _ = planted(models=128, groups=20, kind="hadamard")
    subsets = collapse(masks, outputs)
    fold = subsets.folds()
    assert subsets.pairs == 64
    np.testing.assert_array_equal(fold[0::2], fold[1::2])
    np.testing.assert_array_equal(np.unique(fold), np.arange(5))
    assert np.bincount(fold).min() >= 24


@pytest.mark.filterwarnings("error")
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 9999),
    models=st.integers(2, 40),
    groups=st.integers(1, 8),
    share=st.sampled_from([0.1, 0.5, 0.9]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    name=st.sampled_from(["auto", *ESTIMATORS]),
    twist=st.sampled_from(["plain", "complements", "twice", "one size", "rounded", "constant column"]),
)
@example(0, 2, 2, 0.1, np.float16, "hierarchical", "complements")  # both groups are in all subsets, or in none
def test_odd_tables_give_an_answer_or_one_clear_line(seed, models, groups, share, dtype, name, twist):
    rng = np.random.default_rng(seed)
    masks = rng.random((models, groups)) < share
    if twist == "one size":
        masks = np.array([rng.permutation(groups) < (groups + 1) // 2 for _ in range(models)])
    masks = np.vstack([masks, ~masks]) if twist == "complements" else masks
    masks = np.repeat(masks, 2, axis=0) if twist == "twice" else masks
    outputs = rng.normal(size=(len(masks), 2))
    outputs = np.round(outputs) if twist == "rounded" else outputs
    outputs[:, 0] = 0.1 if twist == "constant column" else outputs[:, 0]
    try:
        result = fit(masks, outputs.astype(dtype), name)
    except SourcewiseError as error:
        assert "\n" not in str(error)
        return
    assert result.influence.shape == (2, groups)
    assert not np.isinf(result.influence).any()
    assert not (result.stderr < 0).any()
    assert (np.isnan(result.qvalue) | (result.qvalue >= 0) & (result.qvalue <= 1)).all()
    assert np.isfinite(result.predict(masks)).all()


def test_the_text_of_a_fit_is_its_verdict_and_the_strongest_influences() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((60, 5)) < 0.5
    masks[:, 2] = True
    outputs = masks @ [0.3, -0.2, 0, 0, 0.1] + rng.normal(0, 0.05, 60)
    lines = repr(fit(masks, outputs, groups=list("abcde"))).splitlines()
    assert lines[0].startswith("Influences at example level are reliable")
    assert lines[1] == "Groups in every subset, or in none, have no identifiable influence: c."
    assert re.fullmatch(r"  a: \+0\.3\d* ± 0\.0\d+, q = [\d.e-]+", lines[2])
    assert len(lines) == 6  # nothing of c
    table = repr(fit(masks, np.stack([outputs, rng.normal(size=60)], 1)))
    assert "  0 on column 0: " in table


def test_few_models_are_named_in_a_line() -> None:
    masks = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0]])
    result = fit(masks, np.array([0.1, 0.2, 0.4]))
    assert np.isnan(result.stderr).all()
    assert result.gaps == "Fewer than 5 subsets keep, or drop, each group: nothing can be told from noise. Train more."
    assert repr(result).endswith(result.gaps)


def test_an_interval_of_lds_stays_within_what_a_correlation_can_be() -> None:
    rng = np.random.default_rng(1)
    ends = []
    for _ in range(20):
        masks = rng.random((12, 3)) < 0.5
        masks[:2] = [[True] * 3, [False] * 3]
        ends.append(fit(masks, masks @ [1.0, 0.5, 0.2] + rng.normal(0, 0.1, 12), "difference").checks.lds_interval)
    assert max(high for _, high in ends) == 1
    assert min(low for low, _ in ends) >= -1


def test_groups_that_are_never_apart_are_named_and_told_nothing_of():
    rng = np.random.default_rng(4)
    masks = rng.random((80, 6)) < 0.5
    masks[:, 4] = masks[:, 1]
    outputs = masks @ rng.normal(size=(6, 3)) + rng.normal(0, 0.1, (80, 3))
    result = fit(masks, outputs, groups=list("abcdef"))
    assert np.isnan(result.influence).all(0).tolist() == [False, True, False, False, True, False]
    assert np.isnan(result.qvalue).any(0).tolist() == [False, True, False, False, True, False]
    assert "Groups that are never apart have no identifiable influences of their own: b, e." in repr(result)


@pytest.mark.parametrize("estimator", ["difference", "ridge"])
def test_groups_that_are_never_apart_predict_what_they_add_together(estimator):
    masks = np.random.default_rng(5).random((400, 3)) < 0.5
    masks[:, 2] = masks[:, 1]
    result = fit(masks, masks @ np.array([0.0, 1.0, 1.0]), estimator)
    predicted = result.predict(np.array([[True, False, False], [True, True, True]]))
    assert predicted[1] - predicted[0] == pytest.approx(2, abs=0.15)


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(1, 40))
def test_never_apart_is_that_of_comparing_all_columns(seed, models, groups):
    masks = np.random.default_rng(seed).random((models, groups)) < 0.5
    expected = {}
    for group in range(groups):
        if 0 < masks[:, group].sum() < models:
            expected.setdefault(masks[:, group].tobytes(), []).append(group)
    result = sorted(members.tolist() for members in never_apart(PackedMasks.pack(masks)))
    assert result == sorted(members for members in expected.values() if len(members) > 1)


def test_nothing_is_significant_with_fewer_than_five_models_on_a_side():
    rng = np.random.default_rng(6)
    masks = rng.random((30, 2)) < 0.5
    masks[:, 1] = np.arange(30) < 4
    result = fit(masks, masks[:, 1:] + rng.normal(0, 0.01, (30, 1)), "ridge", groups=["a", "rare"])
    assert np.isnan(result.qvalue[0, 1])
    assert "Fewer than 5 subsets keep, or drop, these groups; they get no q-value: rare." in result.gaps
