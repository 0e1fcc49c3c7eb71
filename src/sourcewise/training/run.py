"""One run: pretrain on a subset of the source, transfer to every target, and gather the record."""

import copy
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sourcewise import designs
from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.messages import print_once
from sourcewise.core.randomness import derive_seed
from sourcewise.core.results_folder import RESERVED
from sourcewise.data import ImageDataset, Numbers, checks
from sourcewise.lightning_modules.data import ImageData, batches_per_epoch
from sourcewise.lightning_modules.outputs import Outputs
from sourcewise.lightning_modules.pretraining import Pretraining
from sourcewise.records import source_models
from sourcewise.records.record import SOURCE, Header, Record, TargetOutputs, is_name, pack_paths
from sourcewise.training import kept, mappings, metrics, provenance, sizes
from sourcewise.training.checkpoints import Checkpoint
from sourcewise.training.engine import Engine, LogScalars, SourceModel, as_examples
from sourcewise.training.hardware import Hardware
from sourcewise.training.models import Model, initialise
from sourcewise.training.settings import Source, Target, dataset_fingerprints
from sourcewise.training.transfers import TransferTask


@dataclass(frozen=True)
class Run:
    """One run of a source model, from a subset to its outputs on every target.

    build: makes the model from the numbers of `channels` and `classes`. subset: the design and its settings. seed: the
    training seed. log: takes the scalars of every epoch.

    Raises SourcewiseError when targets do not fit the source, or the subset cannot be drawn.
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
        channels = self.source.train.channels
        for name, target in self.targets.items():
            if not is_name(name):
                raise SourcewiseError(
                    f"target {name!r}: choose a name that can be a folder, of letters and digits, and none that an"
                    f" estimate uses itself: {', '.join(sorted(RESERVED))}"
                )
            if {target.train.channels, target.test.channels} != {channels}:
                raise SourcewiseError(
                    f"target {name}: its images have {target.train.channels} colour channels, those of the source"
                    f" {channels}; make them alike by source.train.channels and source.normalise, or choose another"
                    " target"
                )
        self.mask  # noqa: B018  # drawn now, so that a subset that cannot be is an error here

    @property
    def notes(self) -> list[str]:
        """Lines about the data that a user should know, and may not."""
        return checks.notes(self.source.train, {name: (t.train, t.test) for name, t in self.targets.items()})

    @functools.cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Which groups of the source the run keeps, `bool[groups]`."""
        return designs.draw(self.source.train.group_names, self.subset)

    def execute(self, config: names.Config, overrides: Sequence[str] | None = None) -> Record:
        """Train, transfer, and return the record.

        Args:
            config: the resolved config that all parts of the run were built from.
            overrides: the settings of the command line that chose the recipe; None: not known.

        Raises:
            RunFailed: when training diverges.
            SourcewiseError: when the model does not take images of the run's sizes.
        """
        self.hardware.begin()
        for line in self.notes if self.hardware.is_main else ():
            print_once(line)
        engine = self.engine(config)
        seconds: dict[str, float] = {}
        model = self.source_model(engine, config, seconds)
        scalars, outputs = dict(model.metrics), dict[str, TargetOutputs]()
        for name, target in self.targets.items():
            with _timed(seconds, f"transfer/{name}"):
                outputs[name], scores = self.transfer(engine, model, name)
            scalars |= {f"target/{name}/{key}": value for key, value in scores.items()}
            scalars[f"target/{name}/score"] = scores[metrics.short_name(target.metric)]
        if self.mask.all():
            with _timed(seconds, "baselines"):
                outputs = self._with_mappings(engine, model, outputs)
        source_outputs = None
        if self.source.outputs:
            with _timed(seconds, "source outputs"):
                source_outputs = self._source_outputs(engine, model)
        return Record(self.mask, outputs, self._header(config, overrides, scalars, seconds), source_outputs)

    def engine(self, config: names.Config | None = None) -> Engine:
        """Return the run's means of computation, with checkpoints in the run's folder if the hardware asks for them."""
        checkpoint = None
        if config is not None and (minutes := self.hardware.checkpoint_minutes) is not None:
            folder, key = names.run_dir(config), provenance.checkpoint_key(config)

            def checkpoint(stage: str, log: LogScalars) -> Checkpoint:
                return Checkpoint(folder / f"checkpoint-{stage.replace('/', '-')}.pt", key, minutes, log)

        return Engine(self.hardware, self.source.normalise, self._derive_seed, self.log, checkpoint)

    def source_model(self, engine: Engine, config: names.Config, seconds: dict[str, float]) -> SourceModel:
        """Return the run's source model: a kept one if there is one, else pretrained, and kept if the config says so.

        seconds: takes the wall time of what was done. Raises what `pretrain` raises, and ModelError when the kept model
        that the config names is not the run's.
        """
        dtype = names.kept_dtype(config)
        expected = kept.header(config, self.source.train, dtype or "float32")
        if config["model"].get("weights") is not None:
            return self._published()
        with _timed(seconds, "kept model"):
            if (model := self._kept(config, expected)) is not None:
                return model
        del seconds["kept model"]
        with _timed(seconds, "pretraining"):
            model = self.pretrain(engine)
        if dtype:
            if self.mask.all() and self._class_groups() is not None:
                model = replace(model, group_means=self._group_means(engine, model))
            if self.hardware.is_main:
                header = replace(expected, metrics=dict(model.metrics), seconds=seconds["pretraining"])
                path = names.run_dir(config) / names.MODEL
                kept.keep(path, model.network, self.mask, header, model.group_means)
        return model

    def _class_groups(self) -> Tensor | None:
        """Return the group of each source class; None when groups are not made of whole classes."""
        train = self.source.train
        return mappings.groups_of_classes(train.labels, train.groups, len(train.class_names))

    def _group_means(self, engine: Engine, model: SourceModel) -> Tensor:
        """Return the mean features of each group, float[groups, features]."""
        train = self.source.train
        return mappings.group_means(engine.features(model, train, self.source), train.groups, len(train.group_names))

    def _published(self) -> SourceModel:
        """Return the source model whose weights the settings of the model name.

        Raises SourcewiseError for a subset that is not the full source, which a published model has seen, and for
        outputs on the source where its classes are others.
        """
        if not self.mask.all():
            raise SourcewiseError(
                "model.weights: a published model was trained on its whole source: add subset=full; models of subsets"
                " are trained here, without model.weights"
            )
        network = self.hardware.prepare(self.initial_model())
        if self.source.outputs and not network.knows_classes:
            raise SourcewiseError("model.weights: its head has other classes than the source: source.outputs=false")
        self._log_size(network)
        return SourceModel(network, self.hardware.device, self.source.pretraining.trained_epochs, {})

    def _kept(self, config: names.Config, expected: source_models.Header) -> SourceModel | None:
        """Return the kept source model that the config names, or one of the same kind in `runs_dir`; None: neither."""
        named = config.get("models")
        paths = [Path(named["root"])] if named else [model.path for model in source_models.reusable(config)]
        if not paths:
            return None
        network = self.hardware.prepare(self.initial_model())
        restored = kept.restore_first(paths, network, self.mask, expected, must_fit=bool(named))
        if restored is None:
            return None
        self._log_size(network)
        header, means = restored
        return SourceModel(network, self.hardware.device, self.source.pretraining.trained_epochs, header.metrics, means)

    def pretrain(self, engine: Engine) -> SourceModel:
        """Train a source model on the groups that the subset keeps.

        Raises RunFailed when training diverges, SourcewiseError as `initial_model` does.
        """
        source, settings = self.source, self.source.pretraining
        images = source.train.keep_groups(self.mask)
        model = self.initial_model()
        steps = batches_per_epoch(len(images), settings.batch_size, self.hardware.devices)
        module = Pretraining(self.hardware.prepare(model), settings, steps)
        data = ImageData(engine.shuffled(as_examples(images), settings.batch_size, source))
        self._log_size(model)
        trainer, last = engine.fit(module, data, settings.trained_epochs, "source")
        scalars = {f"source/{name}": last[name] for name in ("loss", "accuracy")}
        return SourceModel(model, trainer.strategy.root_device, settings.trained_epochs, scalars)

    def _log_size(self, model: Model) -> None:
        self.log({"source/parameters": sum(parameter.numel() for parameter in model.parameters())})

    def initial_model(self) -> Model:
        """Return the untrained source model. Raises SourcewiseError when it does not take images of the run's sizes."""
        train, epochs = self.source.train, self.source.pretraining.trained_epochs
        build = functools.partial(self.build, channels=train.channels, classes=len(train.class_names))
        model = initialise(build, self._derive_seed("initialisation"))
        views = ((self.source, train), *((target, target.test) for target in self.targets.values()))
        sides = {side for view, images in views for side in view.sides(images, epochs)}
        sizes.check(model, self.build, train.channels, sides)
        return model

    def transfer(self, engine: Engine, model: SourceModel, name: str) -> tuple[TargetOutputs, dict[str, float]]:
        """Transfer the source model to one target; return its outputs on the test examples, and its scores by name.

        Raises RunFailed when training diverges.
        """
        self._print_notes()
        target = self.targets[name]
        task = TransferTask(name, target.train, target.test, target.metric, target, model, engine)
        result = target.transfer.transfer(task)
        scores = task.scores(result.outputs)
        self.log({f"target/{name}/test/{key}": value for key, value in scores.items()})
        return _for_record(result.outputs, target.test), {**scores, **result.chosen}

    def _print_notes(self) -> None:
        """Print, once in a process, what the user should know about how targets are transferred to."""
        notes: dict[str, list[str]] = {}
        for name, target in self.targets.items():
            if note := target.transfer.note(target):
                notes.setdefault(note, []).append(name)
        if self.hardware.is_main:
            for note, targets in notes.items():
                print_once(f"target {', '.join(targets)}: {note}")

    def _source_outputs(self, engine: Engine, model: SourceModel) -> TargetOutputs:
        """Return the pretrained model's outputs on every example of the source, of all groups."""
        train = self.source.train
        with torch.inference_mode():
            logits = _source_head(model)(engine.features(model, train, self.source))
            return _for_record(Outputs.from_logits(logits, train.labels, train.ids), train)

    def _with_mappings(
        self, engine: Engine, model: SourceModel, outputs: Mapping[str, TargetOutputs]
    ) -> dict[str, TargetOutputs]:
        """Return the outputs with label and feature mapping, if groups are made of whole classes."""
        class_groups, groups = self._class_groups(), len(self.source.train.group_names)
        if class_groups is None:
            return dict(outputs)
        means = self._group_means(engine, model) if model.group_means is None else model.group_means
        head = _source_head(model)
        knows_classes, mapped = model.network.knows_classes, {}
        for name, target in self.targets.items():
            features, labels = engine.features(model, target.test, target), target.test.labels
            classes = len(target.test.class_names)
            with torch.inference_mode():
                label = mappings.label_mapping(head(features), class_groups, groups) if knows_classes else None
                feature = mappings.feature_mapping(features, means)
                order = target.test.ids.argsort()
                tables: dict[str, NDArray[Any]] = {}
                for kind, scores in (("label", label), ("feature", feature)):
                    if scores is not None:
                        tables[f"{kind}_mapping"] = mappings.by_class(scores, labels, classes)
                        tables[f"{kind}_mapping_parts"] = mappings.by_part(scores[order], labels[order], classes)
                mapped[name] = replace(outputs[name], **tables)
        return mapped

    def _header(
        self,
        config: names.Config,
        overrides: Sequence[str] | None,
        scalars: dict[str, float],
        seconds: dict[str, float],
    ) -> Header:
        source = self.source
        group_names, groups = source.train.group_names, source.train.groups
        sizes = np.bincount(np.asarray(groups), minlength=len(group_names)).tolist()
        return Header.from_config(
            config,
            group_names=None if isinstance(group_names, Numbers) else list(group_names),
            group_sizes=None if isinstance(group_names, Numbers) else sizes,
            class_names={name: list(target.test.class_names) for name, target in self.targets.items()},
            fingerprints=dataset_fingerprints(source, self.targets),
            metrics=scalars,
            versions=provenance.versions(),
            commit=provenance.commit(),
            device=self.hardware.name,
            seconds=seconds,
            finished=round(time.time(), 3),
            overrides=None if overrides is None else list(overrides),
            random_design=designs.find_design(config["subset"]["design"]).is_random,
        )

    def _derive_seed(self, purpose: str) -> int:
        replica = designs.find_design(self.subset["design"]).replica(self.subset)
        return derive_seed(purpose + replica, self.seed, self.mask)


def _source_head(model: SourceModel) -> torch.nn.Module:
    """Return a copy of the source model's head on the CPU, for features that lie there."""
    return copy.deepcopy(model.network.head).cpu().float()


def _for_record(outputs: Outputs, dataset: ImageDataset) -> TargetOutputs:
    """Return outputs on examples of a dataset as a record holds them, with the paths of the examples.

    These are 32-bit integers, and 16-bit numbers clipped to their range.
    """

    def half(values: Tensor) -> NDArray[np.float16]:
        limit = torch.finfo(torch.float16).max
        return values.clamp(-limit, limit).cpu().numpy().astype(np.float16)

    ids, labels, prediction = (
        values.cpu().numpy().astype(np.int32) for values in (outputs.ids, outputs.labels, outputs.prediction)
    )
    packed = None
    if dataset.paths is not None:
        order = dataset.ids.argsort().numpy()
        rows = order[np.searchsorted(dataset.ids.numpy()[order], ids)]
        packed = pack_paths(dataset.paths[rows])
    return TargetOutputs(ids, labels, prediction, half(outputs.prob), half(outputs.margin), packed_paths=packed)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the wall time of the block to `seconds`."""
    start = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - start, 4)
