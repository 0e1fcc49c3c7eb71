"""Copies and dubious labels, on made-up images and models with planted truth."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import fake_records as records
import numpy as np
import pytest
import torch
import xarray as xr
from fake_reports import EVIL, Page, make_summary, make_target, render
from scipy.stats import binom

from benchmarks import planted
from sourcewise.acting import copies, review
from sourcewise.acting.copies import nearest_images
from sourcewise.acting.review import CopyRow, LabelRow, disagreement_qvalues
from sourcewise.core.errors import SourcewiseError
from sourcewise.data import ImageDataset, embedded
from sourcewise.designs import draw
from sourcewise.estimation.inference import qvalues
from sourcewise.records.record import TargetOutputs
from sourcewise.study.collect import collect
from sourcewise.study.outputs import LabelAgreement

Images = np.ndarray[Any, np.dtype[np.uint8]]


def images(count: int, seed: int) -> Images:
    """Mixtures of six patterns of 12 x 12 pixels, with a little noise."""
    patterns = np.random.default_rng(0).random((6, 1, 12, 12))
    rng = np.random.default_rng([1, seed])
    mixed = np.tensordot(rng.random((count, 6)), patterns, 1) / 3
    return (255 * np.clip(mixed + rng.normal(0, 0.01, mixed.shape), 0, 1)).astype(np.uint8)


def test_copies_are_found_shifted_or_noised_and_nothing_else() -> None:
    source, target = images(300, 1), images(200, 2)
    assert (qvalues(nearest_images(source, target)[1]) > 0.05).all()
    rng = np.random.default_rng(3)
    source[:4] = target[10:14]
    source[4:8] = np.roll(target[14:18], 1, 3)
    source[4:8, :, :, 0] = source[4:8, :, :, 1]
    source[8:12] = np.clip(0.9 * target[18:22] + rng.normal(0, 1, (4, 1, 12, 12)), 0, 255)
    nearest, p = nearest_images(source, target)
    assert nearest[:12].tolist() == list(range(10, 22))
    assert np.flatnonzero(qvalues(p) <= 0.05).tolist() == list(range(12))


def test_chance_is_about_uniform_where_nothing_is_copied() -> None:
    p = np.concatenate([nearest_images(images(300, seed), images(300, 50 + seed))[1] for seed in range(5)])
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).mean() <= level + 0.02


def test_planted_leaks_are_found_without_false_alarms() -> None:
    source, target = planted.leaks(seed=5), embedded.digits("test")
    nearest, p = nearest_images(source.thumbnails(16).numpy(), target.thumbnails(16).numpy())
    flagged = np.flatnonzero(qvalues(p) <= 0.05)
    assert len(flagged) >= 16  # all ten exact copies, and most of those that were shifted, rescaled and noised
    assert source.columns["planted"][flagged].tolist() == target.ids[nearest[flagged]].tolist()


def test_images_that_cannot_be_compared_are_one_line() -> None:
    with pytest.raises(SourcewiseError, match=r"300 images of \(1, 12, 12\) and 3 images of \(1, 12, 12\) cannot be"):
        nearest_images(images(300, 1), images(3, 2))


@pytest.mark.parametrize(("count", "side"), [(4, 12), (30, 10), (30, 14)])
def test_images_that_cannot_be_compared_leave_the_other_findings(count: int, side: int) -> None:
    pixels = torch.zeros(count, 1, side, side, dtype=torch.uint8)
    target = ImageDataset(pixels, torch.zeros(count).long(), ["a"])
    source = ImageDataset(torch.from_numpy(images(30, 1)), torch.zeros(30).long(), ["a"])
    assert review.review({"pets": made_up()}, None, {"": source, "pets": target}, 0.05) == ()


def outputs(prob: list[float], prediction: list[int]) -> TargetOutputs:
    rows = np.arange(len(prob), dtype=np.int32)
    values = np.array(prob, np.float16)
    return TargetOutputs(rows, np.zeros(len(prob), np.int32), np.array(prediction, np.int32), values, values)


def test_label_agreement_is_means_over_models_that_saw_the_example_or_not() -> None:
    sums = LabelAgreement(4)
    for prob in (0.5, 1.0):  # the second models of the same subsets do not count
        for one, other in product([False, True], repeat=2):
            sums.add(np.array([False, True, one, other]), outputs([prob / 2, prob, 0, 0], [1, 0, 0, 0]))
            sums.add(np.array([True, True, one, other]), outputs([0.75, prob / 2, 0, 0], [0, 1, 0, 0]))
    held_out, in_sample = sums.probabilities()
    assert (held_out[0], in_sample[0]) == (0.25, 0.75)
    assert np.isnan(held_out[1])
    assert in_sample[1] == 0.375
    assert disagreement_qvalues(sums).tolist() == [
        4 / 16,
        1,
        1,
        1,
    ]  # four of four do not believe it; nobody left out the next


def votes(models: int, mean: float, size: float, wrong: int, seed: int) -> tuple[LabelAgreement, np.ndarray[Any, Any]]:
    """Votes on 12 classes of 20 examples, right with rates that differ between examples; some labels are wrong."""
    rng, sums = np.random.default_rng(seed), LabelAgreement(240)
    rate = rng.beta(mean * size, (1 - mean) * size, 240)
    bad = np.isin(np.arange(240), 20 * np.arange(wrong))
    rate[bad] = (1 - rate[bad]) / 12
    sums.labels = np.repeat(np.arange(12), 20).astype(np.int32)
    sums.models[0] = rng.binomial(models, 0.5, 240)
    sums.correct[0] = rng.binomial(sums.models[0].astype(int), rate)
    return sums, bad


@pytest.mark.parametrize("models", [24, 32, 200])
@pytest.mark.parametrize(("mean", "size"), [(0.5, 0.8), (0.3, 2.0), (0.15, 1.0), (0.1, 20.0)])
def test_where_models_cannot_tell_labels_hardly_any_is_flagged(models: int, mean: float, size: float) -> None:
    flags = [(disagreement_qvalues(votes(models, mean, size, 0, seed)[0]) <= 0.05).sum() for seed in range(10)]
    assert max(flags) <= 1
    sums, _ = votes(models, mean, size, 0, 0)
    assert (qvalues(binom.cdf(sums.correct[0], sums.models[0], 0.5)) <= 0.05).sum() >= 60  # by the sign test alone


@pytest.mark.parametrize(("models", "least"), [(24, 0.7), (32, 0.9), (200, 1.0)])
def test_wrong_labels_are_found_where_models_can_tell(models: int, least: float) -> None:
    flagged = np.array(
        [(disagreement_qvalues(sums) <= 0.05, bad) for sums, bad in (votes(models, 0.97, 10, 12, s) for s in range(10))]
    )
    assert flagged[:, 0][flagged[:, 1]].mean() >= least
    assert flagged[:, 0][~flagged[:, 1]].mean() <= 0.05


def test_examples_that_no_model_was_held_out_from_have_no_say() -> None:
    sums, bad = votes(32, 0.97, 10, 12, 0)
    sums.models[0][5] = sums.correct[0][5] = 0
    q = disagreement_qvalues(sums)
    assert q[5] == 1
    assert (q[bad] <= 0.05).mean() > 0.8


def test_label_agreement_needs_groups_that_are_numbered_as_the_examples_are() -> None:
    items = [replace(records.make(seed), source=outputs([0.5] * 14, [0] * 14)) for seed in range(4)]
    assert collect(items).label_agreement is None  # as many groups as examples, in an order of their own


def study(wrong: int) -> Any:
    """40 records of 14 source examples, each a group; models that did not see it do not believe the label of one."""
    rng, found = np.random.default_rng(0), []
    for seed in range(40):
        item = records.make(seed, group_names=None)
        prob, prediction = rng.uniform(0.6, 0.9, 14), np.zeros(14, int)
        if not item.mask[wrong]:
            prob[wrong], prediction[wrong] = 0.1, 1
        found.append(replace(item, source=outputs(prob.tolist(), prediction.tolist())))
    return collect(found)


def made_up(groups: int = 14) -> xr.Dataset:
    values = np.linspace(-0.1, 0.1, 30 * groups).reshape(30, groups)
    tables = {"influence": (("example", "group"), values), "stderr": (("example", "group"), values**2)}
    overall = {"influence_overall": ("group", values[0]), "stderr_overall": ("group", values[1])}
    coordinates = {"example": 7 * np.arange(30), "group": [str(i) for i in range(groups)]}
    return xr.Dataset({**tables, **overall}, coordinates)


def test_a_label_that_is_not_believed_goes_into_the_list_and_out_of_the_subset(tmp_path: Path) -> None:
    rows = review.review({"pets": made_up()}, study(wrong=3).label_agreement, {}, 0.05)
    assert [(row.source, row.flagged) for row in rows if row.flagged] == [(3, True)]
    assert rows[0].source == 3
    assert isinstance(rows[0], LabelRow)
    assert rows[0].held_out == pytest.approx(0.1, abs=1e-3)
    assert rows[0].in_sample > 0.6
    assert rows[0].influence == made_up()["influence_overall"].values[3]
    review.write(tmp_path, rows)
    lines = (tmp_path / "review.csv").read_text("utf-8").splitlines()
    assert lines[0] == ",".join(review.COLUMNS)
    assert lines[1].startswith("label,3,pets,,")
    assert len(lines) == 15
    named = made_up().assign_coords(group_path=("group", [f"{i}.png" for i in range(14)]))
    rows = review.review({"pets": named}, study(wrong=3).label_agreement, {}, 0.05)
    assert [row.path for row in rows] == [f"{row.source}.png" for row in rows]
    names = [str(i) for i in range(14)]
    mask = draw(names, {"design": "listed", "drop": str(tmp_path / "review_drop.txt")})
    assert np.flatnonzero(~mask).tolist() == [3]


def test_a_copy_comes_with_its_influence_on_the_target_example(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = planted.leaks(), embedded.digits("test")
    groups = len(source)
    table = np.arange(len(target))[:, None] + np.arange(groups) / 1000
    both = (("example", "group"), table)
    data = xr.Dataset({"influence": both, "stderr": both}, {"example": target.ids.numpy()})
    rows = review.review({"digits": data}, None, {"": source, "digits": target}, 0.05)
    found = next(row for row in rows if row.flagged)
    assert isinstance(found, CopyRow)
    assert found.example == source.columns["planted"][found.source]
    place = target.ids.tolist().index(found.example)
    assert found.influence == place + found.source / 1000
    some = data.isel(example=target.ids.numpy() != found.example)  # one that the records do not have is none
    rows = review.review({"digits": some}, None, {"": source, "digits": target}, 0.05)
    assert found.source not in [row.source for row in rows if row.flagged]
    monkeypatch.setattr(copies, "PAIRS", 1000)
    assert review.review({"digits": data}, None, {"": source, "digits": target}, 0.05) == ()


def test_the_section_shows_both_lists_and_escapes_names() -> None:
    dataset, facts = make_target(name=EVIL, groups=["0", "1"], classes=["a"], examples=9)
    row: dict[str, Any] = {"source": 4, "target": EVIL, "influence": 0.1, "stderr": 0.02}
    label = LabelRow(**row, held_out=0.02, in_sample=np.nan, flagged=False, qvalue=np.nan)
    copy = CopyRow(**row, qvalue=0.001, flagged=True, example=77)
    page = make_summary({EVIL: facts}, 2, review=[copy, label])
    text = render({EVIL: dataset}, page, ["review"])
    found = Page(text)
    assert text.count(EVIL) == 0
    assert "1 source example nearer to one target image" in found.text
    assert "0 source examples whose label few of the models predict" in found.text
    assert "77 +10.00 ± 2.00 0.001" in found.text
    assert "not looked for" not in found.text
    page = replace(page, review=[label])
    assert "Copies were not looked for" in Page(render({EVIL: dataset}, page, ["review"])).text
    needs = Page(render({EVIL: dataset}, make_summary({EVIL: facts}, 2), ["review"]))
    assert "source.outputs=true" in needs.text
