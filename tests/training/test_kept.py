"""Kept source models: transferred later they give the records of one go, bit for bit; files that lie are refused."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import Compose
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load, save
from torch import nn

from sourcewise.commands import train
from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError
from sourcewise.records import record, source_models
from sourcewise.records.source_models import Header, ModelError
from sourcewise.training import kept
from sourcewise.training.run import Run

DROPOUT = (
    "model._target_=sourcewise.training.models.torchvision_backbone",
    "model.name=mobilenet_v3_small",
    "+model.small_images=true",
    "~model.width",
    "transfer.epochs=1",
    "source.train.per_letter=10",
)
TRANSFERS = [
    (),
    ("subset=full",),
    ("transfer.batchnorm=adapting",),
    ("transfer=full", "transfer.epochs=1"),
    ("transfer=full", "transfer.epochs=1", "transfer.batchnorm=frozen"),
    pytest.param(("transfer=full", *DROPOUT), marks=pytest.mark.slow),
]


def digest(config: dict[str, Any]) -> str:
    train.train(config)
    return record.digest(record.read(names.run_dir(config) / names.RECORD))


@pytest.fixture
def no_pretraining(monkeypatch: pytest.MonkeyPatch):
    """Returns what forbids pretraining from then on."""

    def forbid() -> None:
        monkeypatch.setattr(Run, "pretrain", mock.Mock(side_effect=AssertionError("it pretrains")))

    return forbid


@pytest.mark.parametrize("overrides", TRANSFERS)
def test_a_kept_model_gives_the_record_of_one_go(
    tiny: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_pretraining, overrides: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    one_go = digest(tiny(*overrides, "runs_dir=runs"))
    shutil.move("runs", "one_go")
    source = [word for word in overrides if word in (*DROPOUT, "subset=full")]
    pretrained = {**tiny(*source, "target=[digits]", "runs_dir=elsewhere"), "keep_model": "float32"}
    pretrained["target"]["digits"]["transfer"]["lr"] = 0.1
    train.train(pretrained)
    no_pretraining()
    (named,) = source_models.choose({**tiny(*overrides, "runs_dir=runs"), "models": "elsewhere"}, is_named=True)
    assert digest(named) == one_go
    # the same without being asked, since it lies below runs_dir
    shutil.rmtree("runs")
    shutil.move("elsewhere", "runs")
    assert digest(tiny(*overrides, "runs_dir=runs")) == one_go


def test_a_run_that_is_killed_after_pretraining_does_not_pretrain_again(tiny: Compose, no_pretraining) -> None:
    config = {**tiny(), "keep_model": True}
    with mock.patch.object(Run, "transfer", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        train.train(config)
    folder = names.run_dir(config)
    assert (folder / names.MODEL).is_file()
    assert not names.is_done(folder)
    no_pretraining()
    assert train.train(config)["source/loss"] > 0
    assert "pretraining" not in record.read(folder / names.RECORD).header.seconds


def test_rounded_models_are_used_only_where_they_are_named_and_under_another_hash(tiny: Compose) -> None:
    config = {**tiny(), "keep_model": "bfloat16"}
    train.train(config)
    path = names.run_dir(config) / names.MODEL
    assert not list(source_models.reusable(config))
    (named,) = source_models.choose({**config, "models": str(path.parent)}, is_named=False)
    assert names.study_name(named) != names.study_name(config)
    assert named["subset"] == config["subset"]
    assert set(train.train(named)) == set(train.train(config))
    assert record.read(names.run_dir(named) / names.RECORD).header.recipe in names.study_name(named)
    tensors = load(path.read_bytes())
    assert tensors["head.weight"].dtype is torch.bfloat16
    assert tensors["backbone.1.num_batches_tracked"].dtype is torch.int64


def test_a_full_disk_costs_the_model_and_not_the_record(tiny: Compose, capfd: pytest.CaptureFixture[str]) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    config = {**tiny(), "keep_model": "float32"}
    with mock.patch.object(kept, "write_atomically", full):
        train.train(config)
    assert names.is_done(names.run_dir(config))
    assert not (names.run_dir(config) / names.MODEL).exists()
    assert "a source model is not kept: No space left on device" in capfd.readouterr().err


def header(**changes: Any) -> Header:
    recipe = {"model": {"width": 4}}
    fields = {
        "recipe": source_models.fingerprint(recipe),
        "settings": recipe,
        "subset": {"design": "full"},
        "seed": 0,
        "groups": 3,
        "group_names": "abc",
        "fingerprint": "def",
        "dtype": "float32",
        "metrics": {"source/loss": 0.1},
    }
    return Header(**{**fields, **changes})


MASK = np.array([True, False, True])


class Network(nn.Module):
    """A parameter and a buffer of integers."""

    def __init__(self, weight: torch.Tensor, count: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.register_buffer("count", torch.tensor(count))


@settings(max_examples=30)
@given(
    arrays.arrays(np.float32, arrays.array_shapes(max_dims=3, min_side=0, max_side=4)),
    st.integers(0, 2**60),
    st.sampled_from(["float32", "bfloat16"]),
)
def test_a_file_gives_back_what_was_kept(
    tmp_path_factory: pytest.TempPathFactory, weight: np.ndarray, count: int, dtype: Any
) -> None:
    path = tmp_path_factory.mktemp("kept") / names.MODEL
    kept.keep(path, Network(torch.from_numpy(weight), count), MASK, header(dtype=dtype))
    network = Network(torch.zeros(weight.shape))
    assert kept.restore(path, network, MASK, header()) == (header(dtype=dtype), None)
    assert source_models.read_header(path) == header(dtype=dtype)
    assert int(network.count) == count
    expected = torch.from_numpy(weight).to(kept.DTYPES[dtype]).float()
    torch.testing.assert_close(network.weight.detach(), expected, rtol=0, atol=0, equal_nan=True)


def changed(content: bytes, **tensors: torch.Tensor) -> bytes:
    return save({**load(content), **tensors}, {"sourcewise": record.metadata(content)})


def with_length(content: bytes, length: int) -> bytes:
    return length.to_bytes(8, "little") + content[8:]


LIARS = {
    "truncated": (lambda content: content[:-1], "truncated, or another kind of file"),
    "empty": (lambda content: b"", "truncated, or another kind of file"),
    "pickle": (lambda content: b"\x80\x04cposix\nsystem\n", "truncated, or another kind of file"),
    "huge header": (lambda content: with_length(content, 10**10), "truncated, or another kind of file"),
    "other bytes": (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "its content was changed"),
    "another tensor": (lambda content: changed(content, more=torch.zeros(1)), "its content was changed"),
    "not ours": (lambda content: save({"a": torch.zeros(1)}), "another kind of file"),
}


@pytest.mark.parametrize("lie", LIARS)
def test_a_file_that_lies_is_refused_in_one_line(tmp_path: Path, lie: str) -> None:
    path = tmp_path / names.MODEL
    kept.keep(path, Network(torch.zeros(2)), MASK, header())
    spoil, message = LIARS[lie]
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ModelError, match=message) as error:
        kept.restore(path, Network(torch.ones(2)), MASK, header())
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


OTHERS = {
    "recipe": ({"settings": {}, "recipe": source_models.fingerprint({})}, "the source recipe is another"),
    "seed": ({"seed": 1}, "the training seed is another"),
    "groups": ({"group_names": "xyz"}, "the names of the groups is another"),
    "fingerprint": ({"fingerprint": "xyz"}, "the source's dataset is another"),
}


@pytest.mark.parametrize("part", OTHERS)
def test_a_model_of_another_run_is_refused(tmp_path: Path, part: str) -> None:
    changes, message = OTHERS[part]
    path = tmp_path / names.MODEL
    kept.keep(path, Network(torch.zeros(2)), MASK, header(**changes))
    with pytest.raises(ModelError, match=message):
        kept.restore(path, Network(torch.ones(2)), MASK, header())


def test_mean_features_of_groups_are_kept_and_not_computed_anew(tiny: Compose, no_pretraining) -> None:
    config = tiny("subset=full", "target.digits.train.per_class=6")
    train.train({**tiny("subset=full"), "keep_model": "float32"})
    no_pretraining()
    with mock.patch.object(Run, "_group_means", side_effect=AssertionError("they are computed")):
        train.train(config)
    assert record.read(names.run_dir(config) / names.RECORD).targets["digits"].feature_mapping is not None


def test_mean_features_of_another_number_of_groups_are_refused(tmp_path: Path) -> None:
    path = tmp_path / names.MODEL
    means = torch.rand(len(MASK), 3)
    kept.keep(path, Network(torch.zeros(2)), MASK, header(), means)
    assert torch.equal(kept.restore(path, Network(torch.ones(2)), MASK, header())[1], means)
    kept.keep(path, Network(torch.zeros(2)), MASK, header(), means[:-1])
    with pytest.raises(ModelError, match="group_means is"):
        kept.restore(path, Network(torch.ones(2)), MASK, header())


def test_a_network_of_another_shape_is_refused_with_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / names.MODEL
    kept.keep(path, Network(torch.zeros(2)), MASK, header())
    with pytest.raises(ModelError, match=r"the tensor weight is float32\[2\] there, and float32\[3\] in this model"):
        kept.restore(path, Network(torch.ones(3)), MASK, header())
    with pytest.raises(ModelError, match=r"the tensor weight is float32\[2\] there, and float32\[1, 2\] in this model"):
        kept.restore(path, nn.Linear(2, 1), MASK, header())
    with pytest.raises(ModelError, match="the subset is another"):
        kept.restore(path, Network(torch.ones(2)), ~MASK, header())


@pytest.mark.parametrize("changes", [{"schema": 1}, {"subset": {}}, {"recipe": "0"}, {"more": 1}, {"seed": "0"}])
def test_headers_are_checked_before_anything_is_read_from_them(changes: dict[str, Any]) -> None:
    text = json.dumps({**json.loads(header().as_text()), **changes})
    with pytest.raises(ModelError, match="of schema 1, and|missing or unknown parts"):
        Header.from_text(text, Path("x"))


def test_kept_models_are_chosen_by_recipe_and_subset(tiny: Compose, tmp_path: Path) -> None:
    for seed in (3, 4):
        train.train({**tiny(f"subset.seed={seed}"), "keep_model": "float32"})
    models = str(tmp_path / "runs")
    chosen = source_models.choose({**tiny("transfer.epochs=1"), "models": models}, is_named=False)
    assert sorted(config["subset"]["seed"] for config in chosen) == [3, 4]
    (one,) = source_models.choose({**tiny("transfer.epochs=1", "subset.seed=4"), "models": models}, is_named=True)
    assert one["subset"]["seed"] == 4
    for config, message in (
        (tiny(), "none of its 2 source models is of this subset and seed"),
        (tiny("source.pretraining.lr=0.3"), r"source.pretraining.lr \(0.05 there, 0.3 here\)"),
    ):
        with pytest.raises(SourcewiseError, match=message):
            source_models.choose({**config, "models": models}, is_named=True)
    with pytest.raises(SourcewiseError, match="there are no kept source models"):
        source_models.choose({**tiny(), "models": str(tmp_path / "nowhere")}, is_named=True)


def test_nothing_in_a_header_is_imported_or_read(tmp_path: Path, tiny: Compose) -> None:
    config = {**tiny(), "models": str(tmp_path)}
    settings = names.source_recipe(config)
    own = {"settings": settings, "recipe": source_models.fingerprint(settings)}
    (tmp_path / "secret.txt").write_text("A")
    subsets = ({"design": "os.system"}, {"design": "listed", "keep": str(tmp_path / "secret.txt")})
    for subset, message in zip(subsets, ("of the design os.system", "names a file"), strict=True):
        kept.keep(tmp_path / names.MODEL, Network(torch.zeros(2)), MASK, header(subset=subset, **own))
        with pytest.raises(ModelError, match=message):
            source_models.choose(config, is_named=False)
