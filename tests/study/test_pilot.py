"""The verdict on a pilot: what is compared, at which cost, and in which words."""

from pathlib import Path

import pytest
from fake_records import make, write_study

from sourcewise.core.results import to_json
from sourcewise.estimation import equal_cost
from sourcewise.estimation.scoring import Score
from sourcewise.study.collect import Study, collect
from sourcewise.study.pilot import Choice, Pilot, run_pilot, verdict
from sourcewise.study.priors import find_priors, score_priors


def taker(models: int) -> Study:
    return collect([make(seed) for seed in range(models)])


def proxies(folder: Path) -> list[str]:
    """Write records of two proxies, both at the cost of 16 models of the recipe."""
    for name, count, seconds in (("short", 48, 0.5), ("long", 24, 1.0)):
        config = {**make().header.config, "proxy": {"name": name}}
        write_study(folder / name, count, study=f"{name}-0123", config=config, seconds={"pretraining": seconds})
    return [str(folder / "short"), str(folder / "long")]


def run(study: Study, places: list[str]) -> Pilot | None:
    priors = find_priors(study, places)["pets"]
    return run_pilot(study, "pets", priors, score_priors(study, "pets", priors))


def test_what_is_compared_has_the_cost_that_all_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_cost, "DEALS", 1)
    places = proxies(tmp_path)
    few, more = run(taker(12), places), run(taker(36), places[:1])
    assert few is not None
    assert more is not None
    assert few.cost == pytest.approx(16) == more.cost
    assert {each.title: (each.proxy_models, each.recipe_models) for each in few.choices} == {
        "short": (48, 0),
        "long": (24, 0),
    }
    bought = [(each.title, each.proxy_models, each.recipe_models) for each in more.choices]
    assert sorted(bought) == [("", 0, 16), ("short", 24, 8), ("short", 48, 0)]
    best, runner_up = few.choices
    assert runner_up.gain is not None
    assert best.gain is None
    assert runner_up.gain.value == pytest.approx(runner_up.lds.value - best.lds.value)
    assert to_json(few)["choices"][1]["gain"]["low"] == runner_up.gain.low < runner_up.gain.value < runner_up.gain.high
    assert run(taker(12), places[:1]) is None  # nothing to compare with
    assert run(taker(9), places) is None  # too few to predict


def choice(title: str, proxy: int, recipe: int, lds: float, *gain: float) -> Choice:
    return Choice(title, proxy, recipe, Score(lds, lds - 0.1, lds + 0.1), Score(*gain) if gain else None)


BEST, OWN = choice("short", 32, 0, 0.5), choice("", 0, 8, 0.2, -0.3, -0.4, -0.2)


@pytest.mark.parametrize(
    ("alone", "splits", "expected"),
    [
        ([BEST, OWN], [], "Take short. So about a dozen models of the recipe"),
        ([BEST, choice("long", 12, 0, 0.2, -0.3, -0.4, -0.2)], [], "Take short. Once 20 subsets of the recipe"),
        ([choice("", 0, 8, 0.5), choice("short", 32, 0, 0.2, -0.3, -0.4, -0.2)], [], "Take no proxy: train models"),
        (
            [BEST, choice("long", 12, 0, 0.49, -0.01, -0.04, 0.02), OWN],
            [],
            "short and long are alike: take any of them.",
        ),
        (
            [BEST, choice("long", 12, 0, 0.4, -0.1, -0.3, 0.1), OWN],
            [],
            "These models cannot tell which of short and long is best: intervals of the differences include 0, and about"
            " 4 times as many models of each would be needed. The first is the better guess. So about a dozen",
        ),
        ([BEST, choice("", 0, 8, 0.4, -0.01, -0.3, 0.28)], [], "more than ten times as many models of each"),
        (
            [BEST, OWN],
            [choice("short", 16, 4, 0.6, 0.1, 0.02, 0.18), choice("short", 8, 6, 0.4, -0.1, -0.3, 0.1)],
            "Take short. Splits of that cost do better: the best, 16 of short and 4 of the recipe, have LDS 0.60.",
        ),
        ([BEST, OWN], [choice("short", 16, 4, 0.3, -0.2, -0.3, -0.1)], "do worse: the best, 16 of short and 4 of"),
        ([BEST, OWN], [choice("short", 16, 4, 0.5, 0.0, -0.3, 0.3)], "are neither surely better nor surely worse"),
    ],
)
def test_the_verdict_says_what_the_intervals_allow(alone: list[Choice], splits: list[Choice], expected: str) -> None:
    text = verdict(7.68, alone, splits)
    assert text.startswith(f"At the cost of 7.7 models of the recipe, {alone[0].proxy_models or 8} of ")
    assert expected in text
    assert ("a dozen" in text) == (OWN in alone and "do better" not in text)
