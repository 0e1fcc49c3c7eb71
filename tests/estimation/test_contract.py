"""A user's estimator: it is used through the contract alone, whatever it is called and needs."""

from dataclasses import replace

import numpy as np
import pytest

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation import scoring
from sourcewise.estimation.collapse import collapse
from sourcewise.estimation.difference import difference
from sourcewise.estimation.estimators import ESTIMATORS, Estimator, find_estimators
from sourcewise.estimation.fitting import fit
from sourcewise.estimation.lasso import centred_products
from tests.estimation.test_fitting import planted

HELD_OUT = []
"""Models and held-out models of every call."""


def tuned(moments, held_out):
    """Differences of means, which predict with a factor that suits the held-out models best."""
    HELD_OUT.append((moments.count, held_out.count))
    assert 0 < held_out.count < moments.count
    train = moments - held_out
    influence = np.nan_to_num(difference(train).influence)
    gram, cross = centred_products(held_out, train)
    factor = (influence * cross).sum(1) / np.maximum(((influence @ gram) * influence).sum(1), 1e-300)
    return replace(difference(moments), coefficients=factor[:, None] * influence)


mine = Estimator("tuned", tuned, needs_held_out=True)


@pytest.mark.parametrize(("models", "held_out"), [(120, 24), (45, 9), (11, 6)])  # the first fold
def test_an_estimator_of_the_users_that_needs_held_out_models_is_fitted_and_checked(models, held_out):
    masks, outputs, _ = planted(models=models, groups=9)
    HELD_OUT.clear()
    result = fit(masks, outputs, mine)
    assert result.checks.estimator == "tuned"
    assert result.influence.shape == (20, 9)
    assert (models, held_out) in HELD_OUT
    assert 0 < result.checks.lds < 1
    if models > 40:
        assert 0 < result.checks.split_half < 1
        assert result.curve()[-1].lds == pytest.approx(result.checks.lds)


def test_it_competes_with_ours_when_it_is_listed_and_under_auto_once_registered(monkeypatch):
    masks, outputs, _ = planted(noise=1.0)
    listed = fit(masks, outputs, ["auto", mine])
    assert set(listed.checks.candidates) == {*ESTIMATORS, "tuned"}
    assert listed.checks.estimator == max(listed.checks.candidates, key=listed.checks.candidates.get)
    monkeypatch.setitem(ESTIMATORS, "tuned", mine)
    assert fit(masks, outputs).checks.candidates == listed.checks.candidates
    only = fit(masks, outputs, ["difference", mine])
    assert only.checks.candidates == {name: listed.checks.candidates[name] for name in only.checks.candidates}


def test_it_is_found_by_its_dotted_path():
    masks, outputs, _ = planted()
    result = fit(masks, outputs, "tests.estimation.test_contract.mine")
    np.testing.assert_array_equal(result.influence, fit(masks, outputs, mine).influence)


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ("rigde", "estimator=rigde: there is no such estimator; did you mean ridge"),
        ("tests.estimation.test_contract.nothing", "there is no such estimator"),
        ("tests.estimation.test_contract.tuned", "that is a function, not an Estimator"),
        ([], "name at least one"),
        (["ridge", "auto"], "none twice"),
        (replace(mine, function=lambda moments, held_out: None), "tuned must give an Estimate with influences"),
        (replace(mine, function=lambda moments, held_out: difference(moments)), None),
    ],
)
def test_what_is_no_estimator_is_one_clear_line(choice, says):
    masks, outputs, _ = planted()
    if says is None:
        assert fit(masks, outputs, choice).checks.estimator == "tuned"
        return
    with pytest.raises(SourcewiseError, match=says) as caught:
        fit(masks, outputs, choice)
    assert "\n" not in str(caught.value)


def test_an_estimate_with_groups_missing_is_refused_as_are_missing_held_out_models():
    masks, outputs, _ = planted()
    moments = collapse(masks, outputs).moments()
    short = collapse(masks[:, :5], outputs).moments()
    with pytest.raises(SourcewiseError, match=r"must give an Estimate with influences \[20, 12\]"):
        Estimator("short", lambda _: difference(short)).estimate(moments)
    with pytest.raises(SourcewiseError, match=r"\[20, 12\], not array\(\[\["):
        Estimator("short", lambda _: difference(short)).estimate(moments)
    with pytest.raises(SourcewiseError, match=r"\[20, 12\], not 3$"):
        Estimator("number", lambda _: 3).estimate(moments)
    with pytest.raises(SourcewiseError, match="^estimator tuned needs the moments of some held-out models$"):
        mine.estimate(moments)


@pytest.mark.parametrize("estimator", [ESTIMATORS["difference"], mine])
def test_a_part_of_the_table_is_estimated_from_the_columns_and_groups_that_it_holds(estimator):
    masks, outputs, _ = planted(models=60, groups=20)
    subsets, columns, groups = collapse(masks, outputs), slice(3, 9), slice(8, 20)
    held_out = np.arange(0, 60, 7)
    part = estimator.estimate_subsets(subsets, columns, groups, held_out)
    alone = collapse(masks[:, groups], outputs[:, columns])
    moments = alone.moments()
    expected = estimator.estimate(moments, subsets.take(held_out, columns).moments(groups=groups))
    np.testing.assert_allclose(part.influence, expected.influence, atol=1e-9)
    np.testing.assert_allclose(part.slopes, expected.slopes, atol=1e-9)
    first_fold = np.unique(subsets.unit[subsets.folds() == 0])
    by_default = estimator.estimate_subsets(subsets, columns, groups)
    np.testing.assert_array_equal(
        by_default.slopes, estimator.estimate_subsets(subsets, columns, groups, first_fold).slopes
    )


def test_what_an_estimator_says_of_itself_decides_whether_it_competes():
    masks, outputs, _ = planted()
    late = replace(mine, name="late", least_subsets=lambda groups: 10 * groups + 1)
    soon = replace(mine, name="soon", least_subsets=lambda groups: 10 * groups)
    assert set(fit(masks, outputs, [late, soon, "ridge"]).checks.candidates) == {"soon", "ridge"}
    assert "late" in fit(masks, outputs, late).checks.candidates
    mixed, outputs, _ = planted(kind="mixed", groups=36)
    blind = replace(mine, name="blind", handles_mixed_sizes=False)
    assert set(fit(mixed, outputs, [blind, mine]).checks.candidates) == {"tuned"}
    assert "Subset sizes are mixed, and influences by blind carry" in fit(mixed, outputs, blind).verdict
    assert "mixed" not in fit(mixed, outputs, mine).verdict


def test_halves_are_estimated_by_the_substitute_and_forecasts_go_by_it():
    masks, outputs, _ = planted(models=60, noise=1.0)
    by_ridge = fit(masks, outputs, replace(mine, substitute=ESTIMATORS["ridge"]))
    peer = fit(masks, outputs, "ridge")
    assert by_ridge.checks.split_half == peer.checks.split_half
    assert by_ridge.checks.more_models == peer.checks.more_models
    assert by_ridge.curve() == peer.curve()
    marginal = fit(masks, outputs, replace(ESTIMATORS["ridge"], joint=False))
    assert marginal.checks.split_half == peer.checks.split_half
    assert marginal.checks.more_models > peer.checks.more_models


def test_many_groups_leave_only_estimators_without_a_gram_matrix():
    free = replace(mine, needs_gram=False)
    assert find_estimators(["auto", free], 5000) == (ESTIMATORS["difference"], free)
    with pytest.raises(SourcewiseError, match="estimator=tuned can do 4096 groups, not 5000: use difference"):
        find_estimators(mine, 5000)


def test_each_fold_is_predicted_without_its_own_models():
    masks, outputs, _ = planted(models=30, groups=5)
    subsets = collapse(masks, outputs)
    fold = subsets.folds()
    predicted = scoring.predictions(subsets, mine, fold)
    for f in range(5):
        rows, following = fold != f, fold == (f + 1) % 5
        moments, held_out = (collapse(masks[part], outputs[part]).moments() for part in (rows, following))
        expected = mine.estimate(moments, held_out).predict(subsets.masks[fold == f])
        np.testing.assert_allclose(predicted[fold == f], expected, atol=1e-9)
