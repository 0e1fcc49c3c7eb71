"""The slots of a machine, and how runs are named."""

import shlex
from pathlib import Path

import pytest

from sourcewise.core.errors import SourcewiseError
from sourcewise.sweep import runs, slots
from sourcewise.sweep.slots import Shape


@pytest.mark.parametrize(
    ("shape", "asked", "expected"),
    [
        (Shape("gpu", 1), "auto", ["0", "1", "2", "3"]),
        (Shape("gpu", 2), "auto", ["0,1", "2,3"]),
        (Shape("gpu", 3), "auto", ["0,1,2"]),
        (Shape("gpu", 1), 6, ["0", "1", "2", "3", "0", "1"]),
        (Shape("gpu", 1), [0, 2], ["0", "2"]),
        (Shape("gpu", 2), [[0, 3], [1, 2]], ["0,3", "1,2"]),
        (Shape("auto", 1), "auto", ["0", "1", "2", "3"]),
        (Shape("cpu", 1), 3, [None] * 3),
        (Shape("cpu", 1), "auto", [None] * 8),
        (Shape("cpu", 2, 2), "auto", [None] * 2),
        (Shape("cpu", 64), "auto", [None]),
    ],
)
def test_slots(monkeypatch, shape, asked, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setattr(slots, "cores", lambda: 8)
    assert [slot.get("CUDA_VISIBLE_DEVICES") for slot in shape.slots(asked)] == expected


@pytest.mark.parametrize(
    ("shape", "asked"),
    [
        (Shape("gpu", 5), "auto"),
        (Shape("gpu", 2), [0, 1]),
        (Shape("cpu", 1), 0),
        (Shape("cpu", 1), []),
        (Shape("cpu", 1), True),
    ],
)
def test_slots_that_cannot_be(monkeypatch, shape, asked):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    with pytest.raises(SourcewiseError):
        shape.slots(asked)


def test_names_can_be_pasted_into_a_shell():
    run = runs.Run(0, {}, Path("log.txt"), ["a=[1,2]", "b='x y'", "hydra.job.name=z"])
    assert shlex.split(run.name) == ["a=[1,2]", "b='x y'"]
