import os
from pathlib import Path

import pytest
import torch

from sourcewise.core.errors import SourcewiseError
from sourcewise.data import ImageDataset, embedded


def test_characters_are_36_groups_of_8x8() -> None:
    source = embedded.characters()
    assert source.images.shape[1:] == (1, 8, 8)
    assert source.images.dtype == torch.uint8
    assert source.class_names == source.group_names == tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    counts = source.labels.bincount()
    assert (counts[10:] == 90).all()
    assert counts[:10].min() >= 80
    assert source.images.max() == 255


def test_digits_has_5_training_examples_a_class_and_shares_no_image_with_the_source() -> None:
    train, test = embedded.digits("train"), embedded.digits("test")
    assert train.labels.bincount().tolist() == [5] * 10
    assert len(test) == 849
    assert not set(train.ids.tolist()) & set(test.ids.tolist())
    source = embedded.characters()
    handwritten = {image.numpy().tobytes() for image in source.images[source.labels < 10]}
    shared = [image for image in torch.cat([train.images, test.images]) if image.numpy().tobytes() in handwritten]
    assert not shared


def test_letters_are_all_different_and_filled() -> None:
    source = embedded.characters()
    letters = source.images[source.labels >= 10].flatten(1)
    assert len(letters.unique(dim=0)) > 0.95 * len(letters)
    assert (letters > 0).float().mean(1).min() > 0.1


def test_cache_is_used_and_a_broken_one_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def load() -> embedded.Arrays:
        calls.append(1)
        return {"images": torch.zeros(2, dtype=torch.uint8).numpy()}

    for _ in range(2):
        assert embedded._cached("x", "1", load)["images"].tolist() == [0, 0]
    assert len(calls) == 1
    (path,) = (tmp_path / "sourcewise").iterdir()
    path.write_bytes(b"torn")
    embedded._cached("x", "1", load)
    assert len(calls) == 2
    embedded._cached("x", "2", load)
    assert len(calls) == 3


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert embedded._cached("x", "1", lambda: {"a": torch.ones(1, dtype=torch.uint8).numpy()})["a"] == 1


def test_subsets_keep_whole_groups() -> None:
    source = embedded.characters()
    mask = torch.zeros(36, dtype=torch.bool)
    mask[[3, 12]] = True
    kept = source.keep_groups(mask.numpy())
    assert kept.labels.unique().tolist() == [3, 12]
    assert len(kept) == int(((source.labels == 3) | (source.labels == 12)).sum())
    assert kept.fingerprint == source.fingerprint


def test_fingerprint_sees_every_change() -> None:
    images, labels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    base = ImageDataset(images, labels, ("a", "b")).fingerprint
    assert ImageDataset(images.clone(), labels.clone(), ("a", "b")).fingerprint == base
    changed = images.clone()
    changed[3, 0, 1, 1] = 1
    assert ImageDataset(changed, labels, ("a", "b")).fingerprint != base
    assert ImageDataset(images, labels.flip(0), ("a", "b")).fingerprint != base
    assert ImageDataset(images, labels, ("a", "c")).fingerprint != base


def test_names_that_a_record_could_not_be_read_back_with_are_refused() -> None:
    images, labels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3)
    with pytest.raises(SourcewiseError, match=r"class 'caf\\udce9': this is not valid UTF-8"):
        ImageDataset(images, labels, ("a", "b", os.fsdecode(b"caf\xe9")))
    with pytest.raises(SourcewiseError, match="group 'x': two have this name"):
        ImageDataset(images, labels, ("a", "b", "c"), groups=labels, group_names=("x", "y", "x"))
