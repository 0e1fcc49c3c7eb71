"""The LightningModules' parts against independent references."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp
from torch import nn

from sourcewise.lightning_modules import augmentation, schedules
from sourcewise.lightning_modules.classification import Optimisation
from sourcewise.lightning_modules.crops import Faster, Progressive
from sourcewise.lightning_modules.data import Batches, Examples, ImageData, Normalise, batches_per_epoch
from sourcewise.lightning_modules.outputs import ExampleOutputs, correct_class
from sourcewise.lightning_modules.scalars import ScalarLogger
from sourcewise.lightning_modules.transfer import HeadTransfer, Transfer
from sourcewise.training.hardware import Hardware

SCHEDULES = [schedules.Constant(), schedules.Triangular(2), schedules.Step(2)]


def examples(size: int, channels: int = 1) -> Examples:
    images = torch.randint(
        0, 256, (size, channels, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return Examples(images, torch.arange(size) % 3, torch.arange(size) * 7)


def batches(size: int, batch_size: int, **options: object) -> Batches:
    return Batches(examples(size), batch_size, Normalise([0.5], [0.25]), **options)


@given(st.integers(1, 40), st.integers(2, 6))
def test_outputs_agree_with_scipy(size: int, classes: int) -> None:
    rng = np.random.default_rng(size * 10 + classes)
    logits, labels = rng.normal(0, 5, (size, classes)), rng.integers(0, classes, size)
    prob, margin = correct_class(torch.tensor(logits), torch.tensor(labels))
    rows = np.arange(size)
    np.testing.assert_allclose(prob, np.exp(log_softmax(logits, 1)[rows, labels]), rtol=1e-4, atol=1e-7)
    others = [logsumexp(np.delete(row, label)) for row, label in zip(logits, labels, strict=True)]
    np.testing.assert_allclose(margin, logits[rows, labels] - others, rtol=1e-4, atol=1e-4)


@given(st.data())
def test_outputs_count_padded_examples_once_in_any_order(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 20))  # of one example torchmetrics makes a scalar; Transfer undoes that
    shown = data.draw(st.permutations(list(range(size)) + data.draw(st.lists(st.integers(0, size - 1), max_size=6))))
    logits, labels = torch.randn(size, 4), torch.randint(4, (size,))
    metric = ExampleOutputs(size)
    for chunk in torch.tensor(shown).split(3):
        metric.update(logits[chunk], labels[chunk], chunk * 5)
    found = metric.compute()
    assert found.ids.tolist() == [5 * i for i in range(size)]
    assert torch.equal(found.prediction, logits.argmax(1))
    assert torch.equal(found.labels, labels)


def test_missing_examples_are_an_error() -> None:
    metric = ExampleOutputs(3)
    metric.update(torch.randn(2, 4), torch.tensor([0, 1]), torch.tensor([0, 2]))
    with pytest.raises(RuntimeError, match="2 of 3"):
        metric.compute()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_schedules_stay_between_nothing_and_the_peak(schedule: schedules.Schedule) -> None:
    factors = [schedule(epoch, 6) for epoch in np.linspace(0, 6, 601)]
    assert min(factors) >= 0
    assert max(factors) == pytest.approx(1)


def test_triangular_is_the_paper_s() -> None:
    # numpy's interpolation through the three corners, as the ffcv recipe has it.
    schedule, epochs = schedules.Triangular(2), np.linspace(0, 16, 1000)
    np.testing.assert_allclose(
        [schedule(e, 16) for e in epochs], np.interp(epochs, [0, 2, 16], [0.2, 1, 0]), atol=1e-12
    )


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_shortened_training_runs_through_the_whole_schedule(schedule: schedules.Schedule) -> None:
    times = np.linspace(0, 2, 301)
    whole, third = (Optimisation(6, 1, 0.1, schedule=schedule, length=length) for length in (1.0, 0.3333))
    assert (whole.trained_epochs, third.trained_epochs) == (6, 2)
    assert [third.factor(time) for time in times] == [schedule(time * 3, 6) for time in times]
    assert [whole.factor(time) for time in times] == [schedule(time, 6) for time in times]
    sides = Progressive(64, 128, 3, 6)
    assert [Faster(sides, third.speed)(epoch) for epoch in (0, 1, 2)] == [sides(epoch) for epoch in (0, 3, 6)]


def test_step_is_torch_s() -> None:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimiser, 30)
    rates = []
    for _ in range(101):
        rates.append(scheduler.get_last_lr()[0])
        optimiser.step()
        scheduler.step()
    np.testing.assert_allclose([schedules.Step(30)(i, 101) for i in range(101)], rates)


@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 3), st.booleans())
def test_every_process_sees_its_part_of_every_example(
    size: int, batch_size: int, processes: int, training: bool
) -> None:
    options = {"order_seed": 3} if training else {}
    loaders = [batches(size, batch_size, rank=rank, processes=processes, **options) for rank in range(processes)]
    seen = [list(loader) for loader in loaders]
    assert {len(loader) for loader in loaders} == {len(part) for part in seen}
    ids = torch.cat([batch.ids for part in seen for batch in part]).sort().values
    left = size - len(ids)
    assert len(ids.unique()) == len(ids)
    if not training:
        assert left == 0
    else:
        assert 0 <= left < 2 * processes
        assert left == 0 or left == size % batch_size
    for step in zip(*seen, strict=True):
        assert sum(batch.weight for batch in step) == pytest.approx(processes)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(loader: Batches, epoch: int) -> list[int]:
        loader.set_epoch(epoch)
        return torch.cat([batch.ids for batch in loader]).tolist()

    one, two, other = batches(20, 6, order_seed=1), batches(20, 6, order_seed=1), batches(20, 6, order_seed=2)
    first = order(one, 0)
    assert order(one, 3) == order(two, 3)
    assert order(one, 0) == first
    assert order(one, 1) != first
    assert order(other, 0) != first
    assert sorted(first) == (torch.arange(20) * 7).tolist()


def test_processes_together_train_on_the_batch_that_one_would() -> None:
    options = {
        "order_seed": 1,
        "augmentation": [augmentation.Flip(), augmentation.Translate(1), augmentation.Cutout(2)],
    }
    whole = list(batches(30, 8, **options))
    parts = zip(*(list(batches(30, 8, rank=rank, processes=2, **options)) for rank in range(2)), strict=True)
    for one, two in zip(whole, parts, strict=True):
        assert torch.equal(one.inputs, torch.cat([part.inputs for part in two]))
        assert torch.equal(one.ids, torch.cat([part.ids for part in two]))


def test_a_head_that_is_trained_at_once_is_the_same_as_step_by_step() -> None:
    features = replace(examples(20), inputs=torch.randn(20, 5, generator=torch.Generator().manual_seed(0)))
    optimisation = Optimisation(epochs=3, batch_size=6, lr=0.5, schedule=schedules.Triangular(1))
    train, test = replace(batches(20, 6, order_seed=1), examples=features), replace(batches(20, 8), examples=features)
    outputs, logged = [], []
    for kind, at_once in ((Transfer, None), (HeadTransfer, 3)):
        torch.manual_seed(0)
        module = kind(nn.Linear(5, 3), optimisation, len(train), test_examples=20, class_weights=torch.ones(3))
        data, passes = ImageData(train, test, at_once), at_once or 1
        trainer = Hardware().trainer(3 // passes, ScalarLogger(logged.append, "head", passes))
        trainer.fit(module, datamodule=data)
        if not at_once:
            trainer.test(module, datamodule=data, verbose=False)
        outputs.append(module.outputs)
    assert all(torch.equal(*columns) for columns in zip(*outputs, strict=True))
    assert len(logged) == 4
    assert logged[2] == logged[3]


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 4))
def test_training_batches_are_as_large_as_each_other_and_no_process_gets_less_than_two_examples(
    size: int, batch_size: int, processes: int
) -> None:
    data = replace(examples(size), inputs=torch.zeros(size, 1))
    batches = Batches(data, batch_size, Normalise([0.0], [1.0]), order_seed=3, processes=processes)
    parts = [[len(batch.ids) for batch in replace(batches, rank=rank)] for rank in range(processes)]
    sizes = [sum(part) for part in zip(*parts, strict=True)]
    assert sum(sizes) == size
    assert max(sizes) - min(sizes) <= 1
    assert min(map(min, parts)) >= 2 or size < 2 * processes
    if batch_size >= 4 * processes:
        assert max(sizes) <= batch_size
        assert len(sizes) == 1 or min(sizes) >= batch_size // 2
    assert len(sizes) == batches_per_epoch(size, batch_size, processes)


def test_normalise_is_torchvision_s() -> None:
    from torchvision.transforms.v2 import functional

    images = examples(4, channels=3).inputs
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    expected = functional.normalize(images.float() / 255, mean, std)
    torch.testing.assert_close(Normalise(mean, std)(images), expected, atol=1e-5, rtol=1e-5)
    last = Normalise(mean, std)(images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(last, Normalise(mean, std)(images))
    turned = images.transpose(2, 3).contiguous().transpose(2, 3)  # neither way contiguous
    assert torch.equal(Normalise(mean, std)(turned), Normalise(mean, std)(images))
    features = torch.randn(3, 7)
    assert Normalise(mean, std)(features) is features


@given(st.integers(0, 2**30), st.integers(1, 3))
def test_translate_is_a_crop_of_the_reflected_image(seed: int, pixels: int) -> None:
    images = examples(5, channels=2).inputs.float()
    found = augmentation.Translate(pixels)(images, torch.Generator().manual_seed(seed))
    padded = nn.functional.pad(images, [pixels] * 4, mode="reflect")
    for image, frame in zip(found, padded, strict=True):
        crops = [frame[:, y : y + 6, x : x + 5] for y in range(2 * pixels + 1) for x in range(2 * pixels + 1)]
        assert any(torch.equal(image, crop) for crop in crops)


@given(st.integers(0, 2**30))
def test_flip_and_cutout_change_what_they_say(seed: int) -> None:
    images = examples(16).inputs.float() + 1
    flipped = augmentation.Flip()(images, torch.Generator().manual_seed(seed))
    for one, other in zip(images, flipped, strict=True):
        assert torch.equal(one, other) or torch.equal(one.flip(-1), other)
    cut = augmentation.Cutout(2)(images, torch.Generator().manual_seed(seed))
    holes = cut == 0
    assert (holes.sum((1, 2, 3)) == 4).all()
    assert torch.equal(cut[~holes], images[~holes])
    for hole in holes[:, 0]:
        rows, columns = hole.nonzero().T
        assert rows.max() - rows.min() == columns.max() - columns.min() == 1


def test_augmentations_choose_anew_for_each_image() -> None:
    images = examples(1).inputs.float().expand(64, -1, -1, -1)
    for augment in (augmentation.Flip(), augmentation.Translate(1), augmentation.Cutout(2)):
        assert len(augment(images, torch.Generator().manual_seed(0)).unique(dim=0)) > 1
