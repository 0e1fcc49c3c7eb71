import numpy as np
import torch
from conftest import Compose

from benchmarks import planted
from sourcewise.commands.train import train
from sourcewise.core import names
from sourcewise.data import embedded
from sourcewise.records import record


def test_leaks_are_target_images_half_of_them_exact() -> None:
    source, clean, target = planted.leaks(), embedded.characters(0), embedded.digits("test")
    row_of = {int(i): row for row, i in enumerate(target.ids)}
    rows = np.flatnonzero(source.columns["planted"] >= 0)
    assert len(rows) == 20
    originals = target.select(torch.tensor([row_of[i] for i in source.columns["planted"][rows].tolist()]))
    assert len(set(originals.ids.tolist())) == 20
    assert torch.equal(source.labels[rows], originals.labels)
    exact = (source.images[rows] == originals.images).all((1, 2, 3))
    assert int(exact.sum()) == 10
    other = source.images[rows][~exact].float().flatten(1), originals.images[~exact].float().flatten(1)
    assert (torch.cosine_similarity(*other) < 0.97).all()
    rest = np.setdiff1d(np.arange(len(source)), rows)
    assert torch.equal(source.images[rest], clean.images[rest])
    assert source.fingerprint != clean.fingerprint


def test_mislabels_are_five_percent_and_all_wrong() -> None:
    source, clean = planted.mislabels(), embedded.characters(0)
    wrong = (source.labels != clean.labels).numpy()
    assert wrong.sum() == round(0.05 * len(clean)) == 45
    assert np.array_equal(source.columns["planted"], np.where(wrong, clean.labels.numpy(), -1))
    assert torch.equal(source.images, clean.images)


def test_conflicts_are_pairs_with_swapped_labels() -> None:
    source, clean = planted.conflict(), embedded.characters(0)
    copies = source.columns["planted"] >= 0
    assert torch.equal(source.images[~copies], clean.images)
    true, labels = source.columns["planted"][copies], source.labels.numpy()[copies]
    assert set(zip(true.tolist(), labels.tolist(), strict=True)) == {(d, d + 1 - 2 * (d % 2)) for d in range(8)}
    assert np.array_equal(
        np.array(source.group_names)[source.groups][copies],
        [f"{2 * (d // 2)} and {2 * (d // 2) + 1} swapped" for d in true],
    )
    assert len(source.group_names) == 24


def test_a_harmless_source_is_the_digits_in_groups_that_do_not_differ() -> None:
    source, clean = planted.harmless(), embedded.characters(0)
    assert torch.equal(source.pixels, clean.pixels)
    assert torch.equal(source.labels, clean.labels)
    sizes = torch.bincount(source.groups)
    assert len(source.group_names) == len(sizes) == 20
    assert int(sizes.max() - sizes.min()) <= 1
    by_group = torch.stack([torch.bincount(source.labels[source.groups == group], minlength=10) for group in range(20)])
    assert int(by_group.max()) < 16  # of 90 images of a digit, none has many in one group


def test_merged_classes_hold_every_digit_again_two_under_a_label() -> None:
    source, clean = planted.merged(), embedded.characters(90)
    copies = source.columns["planted"] >= 0
    assert torch.equal(source.images[~copies], clean.images)
    assert torch.equal(source.images[copies], clean.images[clean.labels < 10])
    names = np.array(source.class_names)[source.labels[copies]]
    assert all(str(digit) in name for digit, name in zip(source.columns["planted"][copies], names, strict=True))
    assert len(source.class_names) == 41
    assert torch.equal(source.labels, source.groups)


def test_hidden_halves_share_a_label() -> None:
    target, plain = planted.hidden("test"), embedded.digits("test")
    assert target.class_names[1] == "1 or 7"
    assert np.array_equal(target.columns["planted"] >= 0, (target.labels == 1).numpy())
    names = np.array(plain.class_names)[plain.labels]
    assert all(name in target.class_names[label] for name, label in zip(names, target.labels, strict=True))


def test_outputs_on_the_source_cover_it_and_change_nothing_else(tiny: Compose) -> None:
    records = []
    for outputs in ("false", "true"):
        config = tiny(
            "source.pretraining.epochs=4",
            "model.width=16",
            "source.train.per_letter=0",
            "source.groups=example",
            f"source.outputs={outputs}",
        )
        train(config)
        records.append(record.read(names.run_dir(config) / names.RECORD))
    off, on = records
    assert off.source is None
    assert on.source is not None
    assert on.source.ids.tolist() == list(range(898))
    assert np.array_equal(on.targets["digits"].margin, off.targets["digits"].margin)
    right = (on.source.prediction == on.source.labels)[on.mask].mean()
    assert right > 0.5  # of what it was trained on
    assert record.digest(on) != record.digest(off)
    assert record.from_bytes(record.to_bytes(on), "x").source is not None


def test_harm_is_digits_again_under_labels_of_others() -> None:
    source, clean = planted.harm(), embedded.characters(0)
    wrong = source.columns["planted"] >= 0
    assert np.array_equal(wrong, np.char.startswith(np.array(source.group_names)[source.groups], "wrong"))
    assert torch.equal(source.images[~wrong], clean.images)
    assert torch.equal(source.labels[~wrong], clean.labels)
    assert torch.bincount(source.groups)[20:].tolist() == [90] * 4
    labels, true = source.labels.numpy()[wrong], source.columns["planted"][wrong]
    assert (labels != true).all()
    assert set(labels.tolist()) == set(range(10))
    for image, label in zip(source.images[wrong], true.tolist(), strict=True):
        assert (clean.images[clean.labels == label] == image).all(-1).all(-1).any()
    assert planted.harm(seed=1).fingerprint != source.fingerprint
