"""One run: pretrain on a subset of the source, transfer to every target, and gather the record."""

import copy
import functools
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from sourcewise import designs
from sourcewise.core import names
from sourcewise.core.errors import RunFailed, SourcewiseError
from sourcewise.core.hashing import fingerprint
from sourcewise.core.randomness import ranks
from sourcewise.core.randomness import seed as derive_seed
from sourcewise.data import ImageDataset, Numbers, regroup
from sourcewise.lightning_modules.augmentation import Augmentation
from sourcewise.lightning_modules.classification import Classification, Diverged, Optimisation
from sourcewise.lightning_modules.crops import CentreCrop, Crop, Resolution
from sourcewise.lightning_modules.data import Batches, Examples, ImageData, Normalise, batches_per_epoch
from sourcewise.lightning_modules.outputs import Outputs, correct_class
from sourcewise.lightning_modules.pretraining import Pretraining
from sourcewise.lightning_modules.scalars import ScalarLogger
from sourcewise.lightning_modules.transfer import BatchNormMode, Transfer
from sourcewise.records.record import SOURCE, Header, Record, TargetOutputs, is_name
from sourcewise.training import mappings
from sourcewise.training.checkpoints import Checkpoint
from sourcewise.training.hardware import Hardware, interruptible
from sourcewise.training.models import Head, Model, initialise

METRICS = ("accuracy", "mean_per_class", "auroc")
"""What a target's score can be."""

LogScalars = Callable[[Mapping[str, float]], None]
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Source:
    """The source dataset and how a model is pretrained on it.

    groups: see `regroup`, which `train` went through. outputs: whether records
    carry outputs on the source's own examples. root: where the data are, for its config's own use. data: what tells
    apart studies of one config on different data, where the config does not name a dataset.
    """

    name: str
    train: ImageDataset
    normalise: Normalise
    pretraining: Optimisation
    augmentation: Sequence[Augmentation] = ()
    groups: str = "class"
    outputs: bool = False
    crop: Crop | None = None
    resolution: Resolution | int | None = None
    root: str | None = None
    data: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", regroup(self.train, self.groups))
        if {len(self.normalise.mean), len(self.normalise.std)} != {self.train.channels}:
            raise SourcewiseError(
                f"source {self.name}: its images have {self.train.channels} colour channels;"
                " source.normalise.mean and std must have as many numbers"
            )
        _check_view(f"source {self.name}", self.train, self)


@dataclass(frozen=True)
class TransferSettings(Optimisation):
    """How a model is transferred to a target. lr: of several, the best on held-out training examples is taken.

    weighted: every class counts the same in the loss, however many examples it has.
    """

    lr: NonNegativeFloat | Sequence[NonNegativeFloat]  # type: ignore[assignment]  # one of them reaches the optimiser
    mode: Literal["fixed", "full"] = "fixed"
    batchnorm: BatchNormMode = "frozen"
    weighted: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("fixed", "full"):
            raise SourcewiseError(f"transfer.mode={self.mode}: choose fixed or full")
        if self.batchnorm not in ("frozen", "adapting"):
            raise SourcewiseError(f"transfer.batchnorm={self.batchnorm}: choose frozen or adapting")
        if self.lr == []:
            raise SourcewiseError("transfer.lr=[]: give a learning rate, or several to choose from")


@dataclass(frozen=True)
class Target:
    """A target task and how a model is transferred to it. root, data: as the source's."""

    train: ImageDataset
    test: ImageDataset
    transfer: TransferSettings
    metric: str = "accuracy"
    augmentation: Sequence[Augmentation] = ()
    crop: Crop | None = None
    resolution: Resolution | int | None = None
    root: str | None = None
    data: str | None = None

    def __post_init__(self) -> None:
        if len(self.train.class_names) < 2:
            raise SourcewiseError(
                f"target: all images are of one class, {self.train.class_names[0]}; is its root one folder too high?"
            )
        if self.train.class_names != self.test.class_names:
            differ = sorted(set(self.train.class_names) ^ set(self.test.class_names)) or ["their order"]
            raise SourcewiseError(
                f"target: its training and test images are not of the same classes: they differ in {differ[0]};"
                " a class without images is an empty folder"
            )
        if self.metric not in METRICS:
            raise SourcewiseError(f"target metric={self.metric}: choose one of {', '.join(METRICS)}")
        if self.metric == "auroc" and (
            len(self.test.class_names) != 2 or self.test.labels.bincount(minlength=2).min() == 0
        ):
            raise SourcewiseError("target metric=auroc: it is for targets of two classes that both have test examples")
        for what, dataset in (("training", self.train), ("test", self.test)):
            if not len(dataset):
                raise SourcewiseError(f"target: it has no {what} examples")
            _check_view("target", dataset, self)

    @property
    def cacheable(self) -> bool:
        """Whether a frozen backbone gives the same features of the training examples in every epoch."""
        return (
            self.transfer.mode == "fixed"
            and self.transfer.batchnorm == "frozen"
            and not self.augmentation
            and (self.crop is None or isinstance(self.crop, CentreCrop))
            and not callable(self.resolution)
        )


@dataclass
class Run:
    """One run of a source model, from a subset to its outputs on every target.

    subset: the design and its settings; seed: the training seed; log: takes the scalars of every epoch.
    """

    source: Source
    targets: Mapping[str, Target]
    build: Callable[..., Model]
    hardware: Hardware
    subset: Mapping[str, Any]
    seed: int
    log: LogScalars = field(default=lambda scalars: None)

    def __post_init__(self) -> None:
        if SOURCE in self.targets:
            raise SourcewiseError(f"target {SOURCE}: outputs on the source have this name; choose another")
        for name in self.targets:
            if not is_name(name):
                raise SourcewiseError(f"target {name!r}: choose a name that can be a folder, of letters and digits")
        channels = self.source.train.channels
        for name, target in self.targets.items():
            if {target.train.channels, target.test.channels} != {channels}:
                raise SourcewiseError(
                    f"target {name}: its images have {target.train.channels} colour channels, those of the source"
                    f" {channels}; make them alike by source.train.channels, or choose another target"
                )
        self.mask: NDArray[np.bool_] = designs.draw(self.source.train.group_names, self.subset)
        self._checkpoint: Callable[[str], Checkpoint] | None = None

    def execute(self, config: names.Config) -> Record:
        """Do it, and say so in a record. config: the resolved config that all parts were built from.

        Raises RunFailed when training diverges, SourcewiseError when the subset leaves nothing to train on.
        """
        self.hardware.begin()
        if (minutes := self.hardware.checkpoint_minutes) is not None:
            folder, key = names.run_dir(config), _checkpoint_key(config)
            self._checkpoint = lambda stage: Checkpoint(
                folder / f"checkpoint-{stage.replace('/', '-')}.pt", key, minutes, self.log
            )
        seconds: dict[str, float] = {}
        with _timed(seconds, "pretraining"):
            model, metrics = self._pretrain()
        outputs = {}
        for name, target in self.targets.items():
            with _timed(seconds, f"transfer/{name}"):
                outputs[name], scores = self._transfer(model, name, target)
            metrics |= {f"target/{name}/{key}": value for key, value in scores.items()}
            metrics[f"target/{name}/score"] = scores[target.metric]
        if self.mask.all():
            with _timed(seconds, "baselines"):
                outputs = self._with_baselines(model, outputs)
        own = None
        if self.source.outputs:
            with _timed(seconds, "source outputs"):
                own = self._source_outputs(model)
        return Record(self.mask, outputs, self._header(config, metrics, seconds), own)

    def _header(self, config: names.Config, metrics: dict[str, float], seconds: dict[str, float]) -> Header:
        folder, subset, source = names.run_dir(config), config["subset"], self.source
        datasets = {source.name: source.train}
        for name, target in self.targets.items():
            datasets |= {f"{name}/train": target.train, f"{name}/test": target.test}
        return Header(
            study=folder.parent.name,
            run=folder.name,
            recipe=fingerprint(names.recipe(config)),
            config=config,
            design=subset["design"],
            subset_seed=subset.get("seed"),
            seed=self.seed,
            group_names=None if isinstance(groups := source.train.group_names, Numbers) else list(groups),
            class_names={name: list(target.test.class_names) for name, target in self.targets.items()},
            fingerprints={name: dataset.fingerprint for name, dataset in datasets.items()},
            metrics=metrics,
            versions=versions(),
            commit=commit(),
            device=self.hardware.name,
            seconds=seconds,
            random_design=designs.find_design(subset["design"]).is_random,
        )

    def _pretrain(self) -> tuple[Model, dict[str, float]]:
        source, settings = self.source, self.source.pretraining
        kept = source.train.keep_groups(self.mask)
        if not len(kept):
            raise SourcewiseError(f"source {source.name}: the {int(self.mask.sum())} groups kept have no images")
        model = initialise(
            lambda: self.build(channels=source.train.channels, classes=len(source.train.class_names)),
            self._derive("initialisation"),
        )
        module = Pretraining(
            self.hardware.prepare(model),
            settings,
            batches_per_epoch(len(kept), settings.batch_size, self.hardware.devices),
            classes=len(source.train.class_names),
        )
        data = self._shuffled(_examples(kept), settings, source)
        _, metrics = self._fit(module, ImageData(data), settings.epochs, "source")
        return model, {f"source/{name}": value for name, value in metrics.items()}

    def _transfer(self, model: Model, name: str, target: Target) -> tuple[TargetOutputs, dict[str, float]]:
        train, test = _examples(target.train), _examples(target.test)
        backbone: nn.Module = model.backbone
        if target.cacheable:
            backbone = nn.Identity()
            train, test = (
                replace(_examples(dataset), inputs=self._features(model, dataset, target))
                for dataset in (target.train, target.test)
            )
        elif target.transfer.mode == "fixed" and self.hardware.is_main:
            slow = [name for name, t in self.targets.items() if t.transfer.mode == "fixed" and not t.cacheable]
            _say_once(
                f"target {', '.join(slow)}: the backbone runs in every epoch, as BatchNorm adapts or training images"
                " change (see conf/transfer/fixed.yaml)"
            )
        if not isinstance(target.transfer.lr, Sequence):
            return self._head(model, backbone, name, target, train, test)
        fit, held = (train.select(rows) for rows in held_out(target.train.labels))
        scores: dict[float, tuple[float, float]] = {}
        for lr in target.transfer.lr:
            tried = replace(target, transfer=replace(target.transfer, lr=lr))
            try:
                _, found = self._head(model, backbone, name, tried, fit, held, f"/lr={lr}")
                scores[lr] = found.get(target.metric, 0.0), found["prob"]
            except RunFailed as error:
                failed = error
        if not scores:
            raise failed
        best = max(scores, key=scores.__getitem__)
        tried = replace(target, transfer=replace(target.transfer, lr=best))
        outputs, found = self._head(model, backbone, name, tried, train, test)
        return outputs, {**found, "lr": best}

    def _head(
        self,
        model: Model,
        backbone: nn.Module,
        name: str,
        target: Target,
        train: Examples,
        test: Examples,
        note: str = "",
    ) -> tuple[TargetOutputs, dict[str, float]]:
        """Train a new head on `train` (images, or features when `backbone` is the identity), and the rest if asked."""
        settings, classes = target.transfer, len(target.train.class_names)
        cached, stage = isinstance(backbone, nn.Identity), f"target/{name}{note}"
        head = initialise(lambda: Head(model.head.in_features, classes), self._derive(f"initialisation/{name}"))
        # Targets do not see each other: each starts from the source model's weights.
        network = _with_head(backbone, head)
        if not cached:
            self.hardware.prepare(network)
        module = Transfer(
            network,
            settings,
            batches_per_epoch(len(train.labels), settings.batch_size, self.hardware.devices),
            classes=classes,
            test_examples=len(test.labels),
            frozen=network.backbone if settings.mode == "fixed" else None,
            batchnorm=settings.batchnorm,
            class_weights=balanced(train.labels, classes) if settings.weighted else None,
        )
        # A head trains in milliseconds an epoch: one long Lightning epoch spares the cost of many short ones.
        epochs, passes = (1, settings.epochs) if cached else (settings.epochs, 1)
        data = ImageData(self._shuffled(train, settings, target, f"/{name}", passes), self._in_order(test, target))
        trainer, _ = self._fit(module, data, epochs, stage)
        with interruptible():
            trainer.test(module, datamodule=data, verbose=False)
        self.log({f"{stage}/{key}": value for key, value in module.scores.items()})
        return _for_record(module.outputs), module.scores

    def _source_outputs(self, model: Model) -> TargetOutputs:
        """What the pretrained model says of every example of the source, those of the groups it kept and the others."""
        train = self.source.train
        with torch.inference_mode():
            features = self._features(model, train, self.source)
            logits = copy.deepcopy(model.head).cpu().float()(features)
            prob, margin = correct_class(logits, train.labels)
        return _for_record(Outputs(train.ids, train.labels, prob, margin, logits.argmax(1)))

    def _with_baselines(self, model: Model, outputs: Mapping[str, TargetOutputs]) -> dict[str, TargetOutputs]:
        """The outputs with what this one model says of the groups, if groups are made of whole classes."""
        train = self.source.train
        groups = len(train.group_names)
        group_of = mappings.groups_of_classes(train.labels, train.groups, len(train.class_names))
        if group_of is None:
            return dict(outputs)
        source = self._features(model, train, self.source)
        head = copy.deepcopy(model.head).cpu().float()
        found = {}
        for name, target in self.targets.items():
            features, labels = self._features(model, target.test, target), target.test.labels
            classes = len(target.test.class_names)
            with torch.inference_mode():
                label = mappings.label_mapping(head(features), group_of, groups)
                feature = mappings.feature_mapping(features, source, train.groups, groups)
                found[name] = replace(
                    outputs[name],
                    label_mapping=mappings.by_class(label, labels, classes),
                    feature_mapping=mappings.by_class(feature, labels, classes),
                )
        return found

    def _fit(
        self, module: Classification, data: ImageData, epochs: int, stage: str
    ) -> tuple[pl.Trainer, dict[str, float]]:
        """Train, from a checkpoint if there is one. Returns the trainer and the metrics of the last epoch."""
        saved = self._checkpoint(stage) if self._checkpoint else None
        logger = ScalarLogger(saved.log if saved else self.log, stage)
        callbacks = [_Dropout(self._derive(f"dropout/{stage}")), *([saved] if saved else [])]
        trainer = self.hardware.trainer(epochs, logger, callbacks)
        self._device = trainer.strategy.root_device
        if saved:
            progress: Any = trainer.fit_loop.epoch_progress.current
            progress.processed = progress.completed = saved.restore(module)
            if trainer.current_epoch == epochs:
                return trainer, saved.metrics
        with torch.random.fork_rng():
            try:
                with interruptible():
                    trainer.fit(module, datamodule=data)
            except Diverged as error:
                raise RunFailed(f"{stage}: {error}") from error
        return trainer, {name: float(value) for name, value in trainer.callback_metrics.items()}

    def _features(self, model: Model, dataset: ImageDataset, of: Source | Target) -> Tensor:
        """Features `[examples, features]` of the model's backbone, evaluated once."""
        backbone = self.hardware.prepare(model.backbone).to(self._device).eval()
        mixed = "bf16" in str(self.hardware.precision)
        batches = self._in_order(_examples(dataset).to(self._device), of, epoch=self.source.pretraining.epochs)
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=mixed):
            parts = [backbone(batch.inputs).float().cpu() for batch in batches]
        return torch.cat(parts).clone()

    def _shuffled(
        self, examples: Examples, settings: Optimisation, of: Source | Target, name: str = "", passes: int = 1
    ) -> Batches:
        """Batches to train on."""
        return Batches(
            examples,
            settings.batch_size,
            self.source.normalise,
            order_seed=self._derive(f"order{name}"),
            augmentation=of.augmentation,
            augmentation_seed=self._derive(f"augmentation{name}"),
            crop=of.crop,
            resolution=of.resolution,
            threads=self.hardware.threads,
            passes=passes,
        )

    def _in_order(self, examples: Examples, of: Source | Target, epoch: int = 0) -> Batches:
        """Batches to evaluate on, of images as they are at this epoch."""
        normalise, threads = self.source.normalise, self.hardware.threads
        return Batches(examples, 1000, normalise, resolution=of.resolution, threads=threads, epoch=epoch)

    def _derive(self, purpose: str) -> int:
        return derive_seed(purpose + designs.replica(self.subset), self.seed, self.mask)


class _Dropout(pl.Callback):
    """Torch's own generator, which dropout draws from: a state for every epoch, as order and augmentation have it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed it, and the device's."""
        seed = (self.seed + trainer.current_epoch) % 2**63
        if pl_module.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # a hundred times faster than asking all devices
        else:
            torch.manual_seed(seed)


@functools.cache
def versions() -> Mapping[str, str]:
    """Versions of what decides outputs."""
    packages = ("sourcewise", "torch", "torchvision", "pytorch-lightning", "numpy")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


@functools.cache
def commit() -> str | None:
    """The git commit of a checkout of sourcewise, with `-dirty` when tracked files differ; None when installed."""
    folder = Path(__file__).parents[3]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def _checkpoint_key(config: names.Config) -> str:
    """What must be equal for two runs to be the same bit for bit."""
    parts = {name: config[name] for name in ("source", "target", "subset", "model", "seed")}
    trainer = {name: value for name, value in config["trainer"].items() if name != "checkpoint_minutes"}
    return fingerprint([parts, trainer, versions(), names.REVISION], length=64)


def held_out(labels: Tensor, share: float = 0.2) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows to compare settings on: `share` of each class, rounded down, the same in every run.

    A class of fewer examples than 1 / share has none to spare. Raises SourcewiseError when no class has.
    """
    limit = (share * labels.bincount().double()).floor()[labels]
    held = torch.from_numpy(ranks("held out", labels.numpy())) < limit
    if not held.any():
        raise SourcewiseError(f"several transfer.lr: too few training examples to hold out {share:.0%} of a class")
    return (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)


def balanced(labels: Tensor, classes: int) -> Tensor:
    """Weights `[classes]` by which each class counts the same in a mean over examples, 1 on average over them."""
    counts = labels.bincount(minlength=classes)
    return len(labels) / (counts.gt(0).sum() * counts.clamp_min(1))


def _check_view(name: str, dataset: ImageDataset, of: Source | Target) -> None:
    changes = of.augmentation
    if not isinstance(changes, Sequence) or not all(isinstance(change, Augmentation) for change in changes):
        raise SourcewiseError(f"{name}: augmentation is a list of lightning_modules.augmentation.*, not {changes!r}")
    stored = not isinstance(dataset.images, Tensor)
    most = max((getattr(change, "pixels", 0) for change in changes), default=0)
    if not stored and most >= (side := min(dataset.images.shape[2:])):
        raise SourcewiseError(f"{name}: its images are {side} pixels wide, and an augmentation changes {most}")
    if stored and of.resolution is None:
        raise SourcewiseError(f"{name}: its images are of many sizes; set resolution, in pixels")
    if of.crop and not stored:
        raise SourcewiseError(f"{name}: crop is for stored images (format: jpeg); those in memory take augmentations")


@functools.cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _examples(dataset: ImageDataset) -> Examples:
    return Examples(dataset.images, dataset.labels, dataset.ids)


def _with_head(backbone: nn.Module, head: Head) -> Model:
    fresh = Model(copy.deepcopy(backbone), head.in_features, head.out_features)
    fresh.head = head
    return fresh.requires_grad_(True)


def _for_record(outputs: Outputs) -> TargetOutputs:
    def half(values: Tensor) -> NDArray[np.float16]:
        limit = torch.finfo(torch.float16).max
        return values.clamp(-limit, limit).cpu().numpy().astype(np.float16)

    ids, labels, prediction = (
        values.cpu().numpy().astype(np.int32) for values in (outputs.ids, outputs.labels, outputs.prediction)
    )
    return TargetOutputs(ids, labels, prediction, half(outputs.prob), half(outputs.margin))


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - start, 4)
