"""Masks and outputs of other people's models, from plain files: the same results as from `sourcewise.fit`."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

import sourcewise
from sourcewise.core.errors import SourcewiseError
from sourcewise.records.reading import Records
from sourcewise.study.collect import collect
from sourcewise.study.influences import estimate

RNG = np.random.default_rng(0)
MASKS = (RNG.random((40, 5)) < 0.5).astype(int)
VALUES = MASKS @ RNG.normal(size=(5, 6)) + RNG.normal(size=(40, 6))
NAMES = [f"m{i}" for i in range(40)]
EXAMPLES = [f"cat{i}.png" for i in range(6)]


def files(folder: Path, masks: pd.DataFrame | None = None, outputs: pd.DataFrame | None = None) -> dict[str, str]:
    masks = pd.DataFrame(MASKS, columns=list("abcde")) if masks is None else masks
    outputs = pd.DataFrame(VALUES, columns=EXAMPLES) if outputs is None else outputs
    masks.to_csv(folder / "masks.csv", index=False)
    outputs.to_csv(folder / "scores.csv", index=False)
    return {"masks": str(folder / "masks.csv"), "outputs": str(folder / "scores.csv")}


@pytest.mark.parametrize("kind", ["csv", "npy", "parquet"])
def test_influences_are_those_of_the_arrays(tmp_path: Path, kind: str) -> None:
    places = files(tmp_path)
    if kind == "npy":
        places = {key: str(tmp_path / f"{key}.npy") for key in ("masks", "outputs")}
        np.save(places["masks"], MASKS.astype(bool))
        np.save(places["outputs"], VALUES)
    if kind == "parquet":
        for key, name in (("masks", "masks.csv"), ("outputs", "scores.csv")):
            places[key] = str(tmp_path / f"{key}.parquet")
            pd.read_csv(tmp_path / name).to_parquet(places[key])
    study = collect(Records(places).with_output("value"), "value")
    estimated = next(iter(estimate(study, "ridge").values())).dataset
    expected = sourcewise.fit(MASKS.astype(bool), VALUES, estimator="ridge", seeds=np.arange(40))
    np.testing.assert_allclose(estimated["influence"].values, expected.influence, atol=1e-12)
    np.testing.assert_allclose(estimated["stderr"].values, expected.stderr, atol=1e-12)
    target = next(iter(study.targets.values()))
    assert target.score == "mean value"
    np.testing.assert_allclose(target.scores, VALUES.mean(1))
    if kind != "npy":
        assert estimated["group"].values.tolist() == list("abcde")
        assert estimated["path"].values.tolist() == EXAMPLES


def test_rows_are_matched_by_their_models_and_examples_by_their_ids(tmp_path: Path) -> None:
    order, ids = RNG.permutation(40), [7, 3, 11, 2, 5, 0]
    masks = pd.DataFrame(MASKS, columns=list("abcde")).assign(model=NAMES)
    outputs = pd.DataFrame(VALUES[order], columns=list(map(str, ids))).assign(model=np.array(NAMES)[order])
    places = files(tmp_path, masks, outputs)
    pd.DataFrame({"example": ids[::-1], "label": list("xyxyxy")}).to_csv(tmp_path / "labels.csv", index=False)
    records = list(Records(places | {"labels": str(tmp_path / "labels.csv")}).with_output("margin"))
    assert [record.header.run for record in records] == NAMES
    outputs = [record.targets["scores"] for record in records]
    np.testing.assert_array_equal([item.margin for item in outputs], VALUES)
    np.testing.assert_allclose([item.prob for item in outputs], expit(VALUES))
    assert outputs[0].ids.tolist() == ids
    assert outputs[0].labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert records[0].header.class_names == {"scores": ["x", "y"]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("mask", r"masks\.csv: row 3, column b: 2; a mask holds 0 and 1"),
        ("missing", r"scores\.csv: row 2, column cat1\.png: nan; this must be a number"),
        ("word", r"scores\.csv: row 2, column cat1\.png: 'high' is no number"),
        ("prob", r"scores\.csv: row 1, column .*: .*is no probability; outputs=value"),
        ("rows", r"scores\.csv: 39 rows, and .*masks\.csv has 40"),
        ("model", r"scores\.csv: no row of model m7, as .*masks\.csv has"),
        ("twice", r"masks\.csv: two rows are of model m1"),
        ("one named", r"masks\.csv has a column model, and .*scores\.csv has none"),
        ("columns", r"masks\.csv: two columns are called 'a'"),
        ("labels", r"labels\.csv: row 2: example dog is no column of .*scores\.csv"),
        ("no label", r"labels\.csv: no row for the examples cat1\.png, cat2\.png"),
        ("pickle", r"scores\.npy: cannot be read .*"),
        ("long", r"scores\.npy: cannot be read .*"),
        ("text", r"scores\.npy: .*it should be numbers"),
        ("kind", r"scores\.txt: choose a \.csv, \.npy or \.parquet file"),
        ("gone", r"gone\.csv: cannot be read \(No such file"),
        ("torn", r"torn\.parquet: cannot be read"),
        ("key", r"records\.output: plain arrays have masks, outputs, labels; did you mean outputs"),
        ("empty", r"masks\.csv: there is nothing in it"),
    ],
)
def test_files_that_lie_are_one_line(tmp_path: Path, change: str, reason: str) -> None:
    masks, outputs = pd.DataFrame(MASKS, columns=list("abcde")), pd.DataFrame(VALUES, columns=EXAMPLES)
    output, labels = "value", pd.DataFrame({"example": EXAMPLES, "label": 0})
    if change == "mask":
        masks.loc[2, "b"] = 2
    elif change in ("missing", "word"):
        outputs["cat1.png"] = outputs["cat1.png"].astype(object)
        outputs.loc[1, "cat1.png"] = None if change == "missing" else "high"
    elif change == "prob":
        output = "prob"
    elif change == "rows":
        outputs = outputs[:-1]
    elif change in ("model", "twice", "one named"):
        masks["model"] = NAMES if change != "twice" else ["m0", "m1", "m1", *NAMES[3:]]
        if change != "one named":
            outputs["model"] = [name.replace("m7", "other") for name in NAMES]
    elif change == "columns":
        masks.columns = list("abcda")
    elif change in ("labels", "no label"):
        labels = labels.replace("cat1.png", "dog") if change == "labels" else labels[labels.index % 5 == 0]
    elif change == "empty":
        masks, outputs = masks[:0], outputs[:0]
    places = files(tmp_path, masks, outputs)
    labels.to_csv(tmp_path / "labels.csv", index=False)
    places["labels"] = str(tmp_path / "labels.csv")
    if change in ("pickle", "text"):
        places["outputs"] = str(tmp_path / "scores.npy")
        np.save(places["outputs"], VALUES.astype(object if change == "pickle" else str))
    elif change == "long":
        np.save(tmp_path / "scores.npy", VALUES)
        content = (tmp_path / "scores.npy").read_bytes()
        (tmp_path / "scores.npy").write_bytes(content.replace(b"(40, 6), }       ", b"(4000000000, 6), }", 1))
        places["outputs"] = str(tmp_path / "scores.npy")
    elif change == "kind":
        places["outputs"] = str(tmp_path / "scores.txt")
    elif change == "gone":
        places["outputs"] = str(tmp_path / "gone.csv")
    elif change == "torn":
        (tmp_path / "torn.parquet").write_bytes(b"PAR1" + bytes(50))
        places["outputs"] = str(tmp_path / "torn.parquet")
    elif change == "key":
        places["output"] = places.pop("outputs")
    with pytest.raises(SourcewiseError, match=reason) as raised:
        list(Records(places).with_output(output))
    assert "\n" not in str(raised.value)


def test_the_output_of_arrays_is_of_arrays_alone(tmp_path: Path) -> None:
    with pytest.raises(SourcewiseError, match="outputs=value: plain arrays alone"):
        list(Records(str(tmp_path)).with_output("value"))
    with pytest.raises(SourcewiseError, match=r"outputs=metric:x: of plain arrays, outputs are one of prob, margin"):
        list(Records(files(tmp_path)).with_output("metric:x"))
    hits = pd.DataFrame((VALUES > 0).astype(int), columns=EXAMPLES)
    target = collect(Records(files(tmp_path, outputs=hits)).with_output("correct"), "correct").targets["scores"]
    assert target.score == "accuracy"
    np.testing.assert_allclose(target.scores, (VALUES > 0).mean(1))
