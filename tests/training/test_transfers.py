"""The probe against scikit-learn; metrics and transfers of a user's, by the command line."""

import os
import subprocess
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import ROOT, compose_config
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from warm_python import interpreter

from sourcewise.commands.train import train
from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError
from sourcewise.data import embedded
from sourcewise.lightning_modules.augmentation import Flip
from sourcewise.lightning_modules.outputs import Outputs
from sourcewise.records import record
from sourcewise.training import logistic, metrics
from sourcewise.training.run import Run
from sourcewise.training.settings import Target
from sourcewise.training.transfers import Probe, class_weights

SHORT = ("source.pretraining.epochs=1", "model.width=4", "logger=none")


def blobs(classes: int, seed: int, count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping clusters of five features, each class of another size and none empty."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, rng.integers(1, classes + 1), count)])
    return torch.from_numpy(rng.normal(size=(len(labels), 5)) + 0.7 * labels[:, None]).float(), torch.from_numpy(labels)


@settings(max_examples=25)
@given(st.integers(2, 5), st.integers(0, 1000), st.sampled_from([0.01, 1.0, 30.0]), st.booleans())
def test_logistic_regression_is_scikit_learn_s(classes: int, seed: int, strength: float, weighted: bool) -> None:
    features, labels = blobs(classes, seed)
    weights = class_weights(labels, classes)[labels] if weighted else None
    with mock.patch.object(logistic, "TOLERANCE", 1e-10):  # closer than runs need
        ours = logistic.logistic_regression(features, labels, classes, strength, weights)(features).softmax(1)
    balanced = "balanced" if weighted else None
    theirs = LogisticRegression(C=strength, class_weight=balanced, solver="newton-cg", tol=1e-10, max_iter=10_000)
    theirs.fit(features.double().numpy(), labels.numpy())
    np.testing.assert_allclose(ours, theirs.predict_proba(features.double().numpy()), atol=1e-5)


def test_a_class_without_examples_is_improbable_and_finite() -> None:
    features, labels = blobs(3, 0)
    logits = logistic.logistic_regression(features, labels, 4)(features)
    assert torch.isfinite(logits).all()
    assert (logits.softmax(1)[:, 3] < 1e-3).all()


def test_a_probed_run_has_scikit_learn_s_outputs() -> None:
    config = compose_config(*SHORT, "transfer=probe", "transfer.C=3")
    parts = instantiate({key: config[key] for key in ("source", "target", "model", "trainer")}, _convert_="all")
    job = Run(*parts.values(), config["subset"], 0)
    engine = job.engine()
    model = job.pretrain(engine)
    outputs, scores = job.transfer(engine, model, "digits")
    target = job.targets["digits"]
    fit, test = (engine.features(model, data, target).double().numpy() for data in (target.train, target.test))
    theirs = LogisticRegression(C=3, tol=1e-10, max_iter=10_000).fit(fit, target.train.labels.numpy())
    probability = theirs.predict_proba(test)[np.arange(len(test)), target.test.labels]
    np.testing.assert_allclose(outputs.prob.astype(float), probability, atol=1e-3)
    assert scores["accuracy"] == pytest.approx(theirs.score(test, target.test.labels.numpy()), abs=2e-3)


def test_a_probed_run_is_the_same_every_time_and_named_by_its_transfer(tmp_path: Path) -> None:
    digests = []
    for place in "ab":
        config = compose_config(*SHORT, "transfer=probe", f"runs_dir={tmp_path / place}")
        train(config)
        item = record.read(names.run_dir(config) / names.RECORD)
        digests.append([item.targets["digits"].margin.tobytes(), item.header.metrics])
        torch.randn(3)
    assert digests[0] == digests[1]
    assert "-probe-" in names.study_name(config)
    assert item.header.metrics["target/digits/accuracy"] > 0.4


def test_a_probe_refuses_images_that_change() -> None:
    digits = embedded.digits("test")
    with pytest.raises(SourcewiseError, match="transfer=probe sees each image once"):
        Target(digits, digits, Probe(), augmentation=[Flip()])


def test_what_is_no_transfer_is_one_clear_line() -> None:
    digits = embedded.digits("test")
    with pytest.raises(SourcewiseError, match="transfer is str, which is no TransferMethod"):
        Target(digits, digits, "fixed")  # type: ignore[arg-type]


@given(st.integers(2, 4), st.integers(0, 1000))
def test_metrics_are_scikit_learn_s(classes: int, seed: int) -> None:
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(np.concatenate([np.arange(classes), rng.integers(0, classes, 20)]))
    logits = torch.from_numpy(rng.normal(size=(len(labels), classes)))
    outputs = Outputs.from_logits(logits, labels, torch.arange(len(labels)))
    values = metrics.scores(outputs, classes, "accuracy")
    predicted = logits.argmax(1)
    assert values["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert values["mean_per_class"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert values["prob"] == pytest.approx(float(logits.softmax(1).gather(1, labels[:, None]).mean()))
    assert ("auroc" in values) == (classes == 2)
    if classes == 2:
        assert values["auroc"] == pytest.approx(roc_auc_score(labels, logits[:, 1] - logits[:, 0]), abs=1e-6)


USERS = '''
from dataclasses import dataclass
import torch
from sourcewise.training.transfers import TransferMethod, TransferResult

@dataclass(frozen=True)
class Nearest(TransferMethod):
    """The class whose mean feature is nearest."""

    scale: float = 1.0
    wrong: bool = False

    def transfer(self, task):
        train, labels = task.features(task.train), task.train.labels
        means = torch.stack([train[labels == c].mean(0) for c in range(task.classes)])
        logits = -self.scale * torch.cdist(task.features(task.test), means)
        return TransferResult(task.outputs(logits[:5] if self.wrong else logits), {"scale": self.scale})

def worst_class(outputs, classes):
    right = (outputs.prediction == outputs.labels).double()
    return min(float(right[outputs.labels == c].mean()) for c in range(classes))

def accuracy(outputs, classes):
    return 0.5

def textual(outputs, classes):
    return "high"
'''


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """A user's module and configs."""
    (tmp_path / "my_things.py").write_text(USERS)
    place = tmp_path / "conf" / "transfer"
    place.mkdir(parents=True)
    (place / "nearest.yaml").write_text("_target_: my_things.Nearest\nscale: 2.0\nwrong: false\n")
    return tmp_path


def command(users: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    line = [interpreter(), str(ROOT / "train.py"), "--config-dir", str(users / "conf"), *SHORT, *overrides]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(users), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(line, cwd=users, env=env, capture_output=True, text=True, timeout=250)


def test_a_user_s_transfer_and_metric_run_by_the_command_line(users: Path) -> None:
    done = command(users, "transfer=nearest", "transfer.scale=3", "target.digits.metric=my_things.worst_class")
    assert done.returncode == 0, done.stderr
    (path,) = users.glob("runs/*/*/record.safetensors")
    assert "-nearest-" in path.parts[-3]
    item = record.read(path)
    outputs, scores = item.targets["digits"], item.header.metrics
    right = outputs.prediction == outputs.labels
    worst = min(right[outputs.labels == label].mean() for label in range(10))
    assert scores["target/digits/score"] == scores["target/digits/worst_class"] == pytest.approx(worst)
    assert scores["target/digits/scale"] == 3
    assert item.header.config["target"]["digits"]["transfer"]["_target_"] == "my_things.Nearest"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("transfer.scales=3", "transfer.scales: there is no such setting; did you mean scale?"),
        ("transfer.wrong=true", "target digits: its transfer gave logits of shape [5, 10]; there are"),
    ],
)
def test_what_is_wrong_with_a_user_s_transfer_is_one_line(users: Path, override: str, message: str) -> None:
    done = command(users, "transfer=nearest", override)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("accuracies", "target metric=accuracies: .*did you mean accuracy"),
        ("my_things.best", "target metric=my_things.best: "),
        ("my_things.accuracy", "sourcewise has another metric of this name"),
        ("my_things.textual", "it returned 'high'; a metric returns one number"),
        ("auroc", "it is for targets of two classes"),
    ],
)
def test_what_is_wrong_with_a_metric_is_one_line(
    users: Path, monkeypatch: pytest.MonkeyPatch, metric: str, message: str
) -> None:
    monkeypatch.syspath_prepend(users)
    with pytest.raises(SourcewiseError, match=message):
        metrics.check(metric, torch.arange(3), 3)
