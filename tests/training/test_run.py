"""One run, in this process: what it writes, that it is the same every time, and what each setting does."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Compose
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st

from sourcewise.commands import train
from sourcewise.core import names
from sourcewise.core.errors import RunFailed, SourcewiseError
from sourcewise.data import ImageDataset, embedded
from sourcewise.lightning_modules.augmentation import Translate
from sourcewise.lightning_modules.classification import Optimisation
from sourcewise.lightning_modules.data import Normalise
from sourcewise.records import record
from sourcewise.records.record import Record
from sourcewise.training.engine import Engine
from sourcewise.training.hardware import Hardware
from sourcewise.training.models import small_cnn
from sourcewise.training.run import Run
from sourcewise.training.settings import Source, Target
from sourcewise.training.transfers import Fixed, class_weights, held_out


def run(config: dict) -> Record:
    train.train(config)
    return record.read(names.run_dir(config) / names.RECORD)


def test_a_record_holds_all_that_the_run_was(tiny: Compose) -> None:
    config = tiny("subset.seed=7", "seed=3")
    item = run(config)
    outputs, test = item.targets["digits"], embedded.digits("test")
    assert outputs.ids.tolist() == test.ids.tolist()
    assert outputs.labels.tolist() == test.labels.tolist()
    assert item.mask.sum() == 18
    header = item.header
    assert header.config == config
    assert (header.design, header.subset_seed, header.seed) == ("random", 7, 3)
    assert header.study == names.study_name(config)
    assert header.recipe in header.study
    assert header.fingerprints["digits/test"] == test.fingerprint
    assert header.class_names == {"digits": list("0123456789")}
    accuracy = float((outputs.prediction == outputs.labels).mean())
    assert header.metrics["target/digits/accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert set(header.seconds) == {"pretraining", "transfer/digits"}
    # prob is the logistic of margin, up to float16
    logistic = 1 / (1 + np.exp(-outputs.margin.astype(np.float64)))
    np.testing.assert_allclose(outputs.prob.astype(np.float64), logistic, atol=2e-3)
    assert ((outputs.prob > 0.5) <= (outputs.prediction == outputs.labels)).all()


def test_a_record_holds_the_path_of_each_example_where_there_are_files(tiny: Compose) -> None:
    config = tiny("subset.seed=7", "source.outputs=true")
    source, targets, model, hardware = (
        instantiate(config[name], _convert_="all") for name in ("source", "target", "model", "trainer")
    )

    def with_files(dataset: ImageDataset, first: int) -> ImageDataset:
        mixed = dataset.select(torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)))
        return replace(mixed, paths=np.array([f"{i}.png" if i > first else None for i in mixed.ids.tolist()], object))

    targets = {name: replace(target, test=with_files(target.test, 5)) for name, target in targets.items()}
    source = replace(source, train=with_files(source.train, 0))
    item = Run(source, targets, model, hardware, config["subset"], 0).execute(config)
    for outputs, first in ((item.targets["digits"], 5), (item.source, 0)):
        assert outputs.paths.tolist() == [f"{i}.png" if i > first else None for i in outputs.ids.tolist()]
    assert item.source.ids.tolist() == source.train.ids.tolist()


SHUFFLENET = (
    "model._target_=sourcewise.training.models.torchvision_backbone",
    "model.name=shufflenet_v2_x0_5",
    "+model.small_images=true",
    "~model.width",
)


@pytest.mark.parametrize("overrides", [(), ("transfer=full", "transfer.epochs=2"), SHUFFLENET])
def test_the_same_config_gives_the_same_record(tiny: Compose, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    one = run(tiny(*overrides, f"runs_dir={tmp_path / 'a'}"))
    torch.manual_seed(1234)
    torch.randn(17)
    other_header = run(tiny(*overrides, f"runs_dir={tmp_path / 'b'}"))
    config = {**other_header.header.config, "runs_dir": one.header.config["runs_dir"]}
    other = Record(
        other_header.mask, other_header.targets, type(one.header)(**{**vars(other_header.header), "config": config})
    )
    assert record.digest(one) == record.digest(other)


def test_a_finished_run_is_not_done_again(tiny: Compose) -> None:
    config = tiny()
    metrics = train.train(config)
    path = names.run_dir(config) / names.RECORD
    before = path.stat().st_mtime_ns
    assert train.train(config) == metrics
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("override", ["seed=1", "subset.seed=1"])
def test_seeds_change_the_outputs(tiny: Compose, override: str) -> None:
    one, two = run(tiny()), run(tiny(override))
    assert not np.array_equal(one.targets["digits"].margin, two.targets["digits"].margin)
    assert np.array_equal(one.mask, two.mask) == (override == "seed=1")


def test_groups_left_out_are_never_seen(tiny: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    from sourcewise.lightning_modules import pretraining

    seen: set[int] = set()
    step = pretraining.Pretraining.training_step

    def spy(self, batch, index):
        seen.update(batch.labels.tolist())
        assert self(batch.inputs).shape[1] == 36  # the head keeps all classes
        return step(self, batch, index)

    monkeypatch.setattr(pretraining.Pretraining, "training_step", spy)
    item = run(tiny("subset=listed", "subset.keep=[A,7,Z]"))
    assert seen == {7, 10, 35}
    assert item.mask.nonzero()[0].tolist() == [7, 10, 35]


def test_cached_features_give_what_running_the_backbone_gives(tiny: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = run(tiny())
    calls = []
    monkeypatch.setattr(Engine, "features", lambda *_: calls.append(1))
    # An augmentation that changes nothing forbids caching.
    plain = run(
        tiny("target.digits.augmentation=[{_target_: sourcewise.lightning_modules.augmentation.Translate, pixels: 0}]")
    )
    assert not calls
    np.testing.assert_allclose(
        cached.targets["digits"].prob.astype(float), plain.targets["digits"].prob.astype(float), atol=2e-3
    )


def test_the_learning_rate_is_chosen_on_training_examples_alone(tiny: Compose) -> None:
    rates = "transfer.lr=[1.0e-5,0.2,1.0e30]"  # the one too small, the other diverges
    chosen, alone = run(tiny(rates)), run(tiny("transfer.lr=0.2"))
    assert chosen.header.metrics["target/digits/lr"] == 0.2
    assert np.array_equal(chosen.targets["digits"].margin, alone.targets["digits"].margin)
    with pytest.raises(RunFailed, match="target/digits/lr=1e"):
        train.train(tiny("transfer.lr=[1.0e30]"))


@given(st.lists(st.integers(0, 4), min_size=5, max_size=60))
def test_a_fifth_of_each_class_is_held_out(labels: list[int]) -> None:
    values = torch.tensor(labels)
    if values.bincount().max() < 5:
        with pytest.raises(SourcewiseError, match="too few"):
            held_out(values)
        return
    fit, held = held_out(values)
    assert sorted([*fit.tolist(), *held.tolist()]) == list(range(len(labels)))
    assert values[held].bincount(minlength=5).tolist() == (values.bincount(minlength=5) // 5).tolist()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_balanced_weights_are_scikit_learn_s(labels: list[int]) -> None:
    from sklearn.utils.class_weight import compute_class_weight

    present = np.unique(labels)
    expected = compute_class_weight("balanced", classes=present, y=labels)
    np.testing.assert_allclose(class_weights(torch.tensor(labels), 4)[present], expected, rtol=1e-6)


def test_two_classes_have_an_auroc_and_may_be_weighted(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.metrics import roc_auc_score

    digits = embedded.digits("test")
    two = digits.select((digits.labels % 8 == 0).nonzero().squeeze(1)[:100])
    two = replace(two, labels=two.labels // 8, class_names=("0", "8"), group_names=(), fingerprint="")
    few = two.select(torch.cat([(two.labels == 0).nonzero()[:, 0], (two.labels == 1).nonzero()[:3, 0]]))
    recipe = {"epochs": 2, "batch_size": 16, "lr": 0.005}
    source = Source("s", embedded.characters(10), Normalise([0.3], [0.3]), Optimisation(**recipe))
    rare = {}
    for weighted in (False, True):
        target = Target(few, two, Fixed(**recipe, weighted=weighted), metric="auroc")
        job = Run(source, {"two": target}, small_cnn, Hardware(), {"design": "full"}, 0)
        engine = job.engine()
        outputs, scores = job.transfer(engine, job.pretrain(engine), "two")
        logit = outputs.margin.astype(float) * (2 * outputs.labels - 1)
        assert scores["auroc"] == pytest.approx(roc_auc_score(outputs.labels, logit), abs=1e-3)
        rare[weighted] = outputs.prob[outputs.labels == 1].mean()
    assert rare[True] > rare[False] + 0.02
    with pytest.raises(SourcewiseError, match="two classes"):
        Target(digits, digits, Fixed(**recipe), metric="auroc")


def test_a_class_without_test_examples_does_not_count_in_the_mean_of_classes() -> None:
    digits, recipe = embedded.digits("test"), {"epochs": 1, "batch_size": 16, "lr": 0.005}
    eight = digits.select((digits.labels < 8).nonzero().squeeze(1)[:200])
    source = Source("s", embedded.characters(10), Normalise([0.3], [0.3]), Optimisation(**recipe))
    target = Target(digits, eight, Fixed(**recipe), metric="mean_per_class")
    job = Run(source, {"digits": target}, small_cnn, Hardware(), {"design": "full"}, 0)
    engine = job.engine()
    outputs, scores = job.transfer(engine, job.pretrain(engine), "digits")
    right = outputs.prediction == outputs.labels
    assert {8, 9} & set(outputs.prediction.tolist())
    assert scores["mean_per_class"] == pytest.approx(np.mean([right[outputs.labels == c].mean() for c in range(8)]))
    assert scores["accuracy"] == pytest.approx(right.mean())


def test_what_cannot_be_a_target_is_one_clear_line() -> None:
    digits, recipe = embedded.digits("test"), {"epochs": 1, "batch_size": 16}
    one = digits.select((digits.labels == 0).nonzero().squeeze(1))
    one = replace(one, class_names=("0",), group_names=(), fingerprint="")
    with pytest.raises(SourcewiseError, match="all images are of one class, 0;"):
        Target(one, one, Fixed(**recipe, lr=0.1))
    with pytest.raises(SourcewiseError, match="give a learning rate, or several"):
        Fixed(**recipe, lr=[])
    with pytest.raises(SourcewiseError, match="its images are 8 pixels wide, and an augmentation changes 8"):
        Target(digits, digits, Fixed(**recipe, lr=0.1), augmentation=[Translate(8)])


def parts(config: dict):
    return instantiate({key: config[key] for key in ("source", "target", "model", "trainer")}, _convert_="all")


@pytest.mark.parametrize(
    ("mode", "batchnorm", "weights_stay", "statistics_stay"),
    [
        ("fixed", "frozen", True, True),
        ("fixed", "adapting", True, False),
        ("full", "frozen", False, True),
        ("full", "adapting", False, False),
    ],
)
def test_transfer_trains_what_it_should(
    tiny: Compose, mode: str, batchnorm: str, weights_stay: bool, statistics_stay: bool
) -> None:
    from sourcewise.lightning_modules.transfer import Transfer

    config = tiny(
        f"transfer={mode}",
        f"transfer.batchnorm={batchnorm}",
        "transfer.epochs=2",
        "target.digits.augmentation=[{_target_: sourcewise.lightning_modules.augmentation.Translate, pixels: 1}]",
    )
    built = parts(config)
    found: list[Transfer] = []
    before = Transfer.on_test_epoch_end
    try:
        Transfer.on_test_epoch_end = lambda self: (before(self), found.append(self))[0]
        job = Run(
            built["source"], built["target"], built["model"], built["trainer"], config["subset"], 0, lambda _: None
        )
        engine = job.engine()
        model = job.pretrain(engine)
        source = {key: value.clone() for key, value in model.network.backbone.state_dict().items()}
        job.transfer(engine, model, "digits")
    finally:
        Transfer.on_test_epoch_end = before
    after = found[0].network.backbone.state_dict()
    statistics = [key for key in source if "running" in key]
    weights = [key for key in source if "running" not in key and "num_batches" not in key]
    assert all(torch.equal(source[key], after[key]) for key in weights) == weights_stay
    assert all(torch.equal(source[key], after[key]) for key in statistics) == statistics_stay
    # what one target did never reaches the source model
    assert all(torch.equal(source[key], value) for key, value in model.network.backbone.state_dict().items())


def test_several_targets_do_not_disturb_each_other(tiny: Compose) -> None:
    alone = run(tiny("transfer=full", "transfer.epochs=1"))
    second = "+target.again={_target_: sourcewise.training.settings.Target, train: ${target.digits.train}, test: ${target.digits.test}, transfer: ${target.digits.transfer}}"
    both = run(tiny("transfer=full", "transfer.epochs=1", second))
    assert set(both.targets) == {"digits", "again"}
    assert np.array_equal(alone.targets["digits"].margin, both.targets["digits"].margin)
    assert not np.array_equal(both.targets["again"].margin, both.targets["digits"].margin)


def test_divergence_is_one_clear_line_and_leaves_no_record(tiny: Compose) -> None:
    config = tiny("source.pretraining.lr=1e30", "source.pretraining.epochs=2")
    with pytest.raises(RunFailed, match=r"source: the training loss is (nan|inf) in epoch \d; lower the learning rate"):
        train.train(config)
    assert not names.is_done(names.run_dir(config))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "target.digits.transfer.epoch=3",
            "target.digits.transfer.epoch: there is no such setting; did you mean epochs?",
        ),
        ("transfer.batchnorm=off", "transfer.batchnorm=off"),
        ("target.digits.metric=accuracies", "metric=accuracies"),
    ],
)
def test_bad_settings_are_one_clear_line(tiny: Compose, override: str, message: str) -> None:
    from sourcewise.core.messages import users_error

    with pytest.raises(Exception) as caught:
        train.train(tiny(override))
    cause = users_error(caught.value)
    assert isinstance(cause, SourcewiseError)
    assert message in str(cause)


@pytest.mark.parametrize(("lr", "stages"), [("0.1", [""]), ("[0.1,0.2]", ["lr=0.1/", "lr=0.2/", ""])])
def test_every_scalar_is_named_by_its_stage(tiny: Compose, lr: str, stages: list[str]) -> None:
    """No name has training and test accuracies in turn, and the record's names are what they were."""
    config = tiny(f"transfer.lr={lr}", "source.pretraining.epochs=2")
    parts = instantiate([config[name] for name in ("source", "target", "model", "trainer")], _convert_="all")
    seen: list[dict[str, float]] = []
    item = Run(*parts, config["subset"], config["seed"], lambda scalars: seen.append(dict(scalars))).execute(config)
    scores = {"accuracy", "mean_per_class", "prob"}
    training = {"loss", "accuracy", "lr", "epoch"}
    expected = [{"source/parameters"}, *[{f"source/train/{name}" for name in training}] * 2]
    for stage in stages:
        expected.append({f"target/digits/{stage}train/{name}" for name in training})
        part = "held_out" if stage else "test"
        expected.append({f"target/digits/{stage}{part}/{name}" for name in scores})
    assert [set(scalars) for scalars in seen] == expected
    assert [scalars["source/train/epoch"] for scalars in seen[1:3]] == [1, 2]
    assert seen[-2]["target/digits/train/epoch"] == config["transfer"]["epochs"]  # though Lightning counts one
    network = parts[2](channels=1, classes=36)
    assert seen[0]["source/parameters"] == sum(weights.numel() for weights in network.parameters())
    metrics = item.header.metrics
    assert metrics["target/digits/accuracy"] == seen[-1]["target/digits/test/accuracy"]
    chosen = {"target/digits/lr"} if len(stages) > 1 else set()
    assert metrics.keys() == {
        "source/loss",
        "source/accuracy",
        *(f"target/digits/{name}" for name in {*scores, "score"}),
        *chosen,
    }


def test_the_learning_rate_is_that_of_the_last_step_of_an_epoch(tiny: Compose) -> None:
    config = tiny(
        "source.pretraining.epochs=8", "source.pretraining.schedule.peak=4", "proxy=short", "proxy.epochs=0.5"
    )
    parts = instantiate([config[name] for name in ("source", "target", "model", "trainer")], _convert_="all")
    seen: list[float] = []
    run = Run(*parts, config["subset"], config["seed"], lambda values: seen.append(values.get("source/train/lr", -1)))
    run.execute(config)
    steps = -(-int(run.source.train.keep_groups(run.mask).labels.numel()) // 64)
    # Triangular in half of its 8 epochs: from 0.2 to 1 of 0.05 at epoch 2, then to 0 at epoch 4.
    assert len([rate for rate in seen if rate >= 0]) == 4
    times = np.arange(1, 5) - 1 / steps
    np.testing.assert_allclose(seen[1:5], 0.05 * np.interp(times, [0, 2, 4], [0.2, 1, 0]), rtol=1e-5)


def test_the_full_source_teaches_the_target(tiny: Compose) -> None:
    item = run(tiny("subset=full", "source.pretraining.epochs=4", "transfer.epochs=20", "model.width=8"))
    assert item.header.metrics["target/digits/accuracy"] > 0.8
    assert item.header.metrics["source/accuracy"] > 0.8


@pytest.mark.parametrize("name", ["summary.json", "Report.HTML", "tables", "wandb", "runs", "source", "../up", "a/b"])
def test_a_target_has_no_name_that_results_need(tiny: Compose, name: str) -> None:
    config = tiny()
    config["target"] = {name: config["target"]["digits"]}
    with pytest.raises(SourcewiseError, match=f"target '?{re.escape(name)}'?: .*choose a"):
        train.train(config)
