"""Made-up results of targets, and pages of them."""

from __future__ import annotations

import string
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import false_discovery_control, norm

from sourcewise.core.files import write_atomically
from sourcewise.core.overrides import command
from sourcewise.data import ImageDataset
from sourcewise.records.reading import LeftOut
from sourcewise.report import contents
from sourcewise.report.contents import TargetReport
from sourcewise.report.sections.context import TargetContext
from sourcewise.report.summary import Summary, TargetSummary
from sourcewise.study.effects import ALL_KEYS
from sourcewise.study.influences import Checks

EVIL = "<script>alert(1)</script>"


def make_target(
    name: str = "digits",
    groups: list[str] | None = None,
    classes: list[str] | None = None,
    examples: int = 849,
    models: int = 96,
    signal: bool = True,
    missing: tuple[int, ...] = (),
    seed: int = 0,
) -> tuple[xr.Dataset, TargetSummary]:
    """Influences like those of the embedded default, and the part of the summary that goes with them."""
    rng = np.random.default_rng(seed)
    groups = groups if groups is not None else [*string.digits, *string.ascii_uppercase]
    classes = classes if classes is not None else list(string.digits)
    effect = np.zeros((len(classes), len(groups)))
    if signal:
        alike = rng.normal(size=(len(groups), 3)) @ rng.normal(size=(3, len(classes))) / 250
        effect += alike.T - 0.004
        for row, label in enumerate(classes):
            if label in groups:
                effect[row, groups.index(label)] = rng.uniform(0.06, 0.14)
    stderr = 0.005 * (96 / models) ** 0.5 * rng.uniform(0.8, 1.2, effect.shape)
    value = effect + stderr * rng.normal(size=effect.shape)
    overall_error = 0.0022 * (96 / models) ** 0.5 * rng.uniform(0.9, 1.1, len(groups))
    overall = effect.mean(0) + overall_error * rng.normal(size=len(groups))

    def qvalues(v: np.ndarray, e: np.ndarray) -> np.ndarray:
        return np.asarray(false_discovery_control(2 * norm.sf(np.abs(v / e)), axis=None)).reshape(v.shape)

    tables = {
        "_class": (("class", "group"), value, stderr, qvalues(value, stderr)),
        "_overall": (("group",), overall, overall_error, qvalues(overall, overall_error)),
    }
    variables: dict[str, Any] = {}
    for suffix, (dims, *arrays) in tables.items():
        for field, array in zip(("influence", "stderr", "qvalue"), arrays, strict=True):
            array[..., list(missing)] = np.nan
            variables[field + suffix] = (dims, array)
        influence, error, _ = arrays
        posterior = {"posterior": influence, "posterior_sd": error, "lfsr": norm.sf(np.abs(influence / error))}
        variables |= {field + suffix: (dims, array) for field, array in posterior.items()}
    variables["interval_overall"] = ("group",), 1.98 * variables["stderr_overall"][1]
    empty = np.broadcast_to(np.float32(0), (examples, len(groups)))
    variables |= dict.fromkeys(ALL_KEYS, (("example", "group"), empty))
    dataset = xr.Dataset(
        variables,
        {
            "example": np.arange(examples),
            "label": ("example", np.arange(examples) % len(classes)),
            "class": classes,
            "group": groups,
        },
        {
            "output": "prob",
            "units": "probability",
            "sign": "positive: keeping the group helps",
            "estimator": "difference",
            "models": models,
            "target": name,
            "study": "characters-1a2b3c4d",
        },
    )

    found, found_overall = (int((dataset[f"qvalue_{t}"].values <= 0.05).sum()) for t in ("class", "overall"))
    facts = TargetSummary(
        examples=examples,
        classes=len(classes),
        metric_mean=0.921,
        metric_std=0.013,
        significant_class=found,
        cells_class=value.size,
        unknown=len(missing),
        significant_example=found * 7,
        cells_example=examples * len(groups),
        significant_overall=found_overall,
        cells_overall=len(groups),
        table=(),
        overall=(),
        verdict="",
        baselines={},
        checks={
            level: Checks(
                estimator="ridge",
                lds=0.6,
                lds_interval=(0.5, 0.7),
                noise_ceiling=ceiling,
                split_half=0.7,
                more_models=60,
                candidates={"ridge": 0.6, "difference": 0.5},
                verdict=f"Influences at {level} level are reliable.",
                curve=((12, 0.2, 0.3), (48, 0.4, 0.5), (models, 0.6, 0.7)),
            )
            for level, ceiling in (("example", None), ("class", 0.8), ("overall", 0.9))
        },
    )
    return dataset, facts


def make_summary(targets: dict[str, TargetSummary], groups: int = 36, models: int = 96, **changes: Any) -> Summary:
    path = "runs/characters-1a2b3c4d/random-17/record.safetensors"
    summary = Summary(
        study="characters-1a2b3c4d",
        source="characters",
        models=models,
        groups=groups,
        designs={"random": models},
        output="prob",
        sign="positive: keeping the group helps",
        estimator="difference of means",
        fdr=0.05,
        left_out=[LeftOut(path, "truncated: 311 of 9,120 bytes")],
        command="python estimate.py records=runs/characters-1a2b3c4d out=outputs/demo",
        recipe="1a2b3c4d5e6f7890",
        config={
            "model": {"name": "cnn", "width": 32},
            "trainer": {"max_epochs": 6},
            "target": list(targets),
        },
        versions={"python": "3.11.7", "torch": "2.6.0", "sourcewise": "0.1.0"},
        commit="b5226d3f00",
        seconds={"pretrain": 1.21, "transfer": 0.34, "evaluate": 0.05},
        notes=[
            "All subsets have the same size, so influences are relative to the average group: a constant "
            "added to all of them cannot be seen."
        ],
        targets=targets,
        counterfactuals=(),
        review=(),
    )
    return replace(summary, **changes)


def make(**options: Any) -> tuple[dict[str, xr.Dataset], Summary]:
    """One target, small unless told otherwise."""
    dataset, facts = make_target(**options)
    name = dataset.attrs["target"]
    return {name: dataset}, make_summary({name: facts}, dataset.sizes["group"], dataset.attrs["models"])


def changed(summary: Summary, **changes: Any) -> Summary:
    """The summary with other facts about digits."""
    return replace(summary, targets={"digits": replace(summary.targets["digits"], **changes)})


def make_big() -> tuple[dict[str, xr.Dataset], Summary]:
    """1,000 groups, 1,000 classes, 10,000 examples."""
    names = [f"synset {i:04d} of a long-named kind" for i in range(1000)]
    return make(groups=names, classes=list(names), examples=10_000, models=7540)


def train_command(*overrides: str) -> str:
    return command("train.py -m", ["source=characters", *overrides])


def context(name: str, dataset: xr.Dataset, summary: Summary) -> TargetContext:
    return TargetContext(name, dataset, summary, train_command, Path("outputs/demo"))


def build(
    influences: dict[str, xr.Dataset],
    summary: Summary,
    sections: list[str] | None = None,
    images: dict[str, ImageDataset] | None = None,
) -> list[TargetReport]:
    return contents.build(influences, summary, train_command, Path("outputs/demo"), sections, images)


def render(*args: Any, **options: Any) -> str:
    return contents.as_page(build(*args, **options))


def write(path: Path, *args: Any) -> Path:
    """The page as a file, as estimate.py writes it."""
    write_atomically(path, render(*args).encode())
    return path


class Page(HTMLParser):
    """Elements of a page: (tag, attributes) in order, scripts and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words: list[str] = []
        self.inside = ""
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self.inside:
            self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts.append((self.elements[-1][1], data))
        elif not self.inside:
            self.words.append(data)

    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.elements if "id" in attributes]
