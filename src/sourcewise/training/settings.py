"""The settings of a source and of a target, with their data: checked when they are made, before anything is trained."""

from collections.abc import Mapping
from dataclasses import dataclass

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.identity import dataset_names
from sourcewise.data import ImageDataset, regroup
from sourcewise.lightning_modules.classification import Optimisation
from sourcewise.lightning_modules.classification import trained_epochs as trained_epochs  # for the dry run
from sourcewise.lightning_modules.crops import Faster
from sourcewise.lightning_modules.data import Normalise
from sourcewise.training import metrics
from sourcewise.training.transfers import TransferMethod
from sourcewise.training.views import View


@dataclass(frozen=True)
class Source(View):
    """The source dataset and how a model is pretrained on it.

    groups: what a subset keeps or removes, see `sourcewise.data.regroup`. outputs: whether records carry outputs on the
    source's own examples. root: where the data are; not read here: YAML passes it to the loader by `${...root}`.
    data: what they are by content, where the file does not name a dataset, see `sourcewise.core.identity`.

    Raises SourcewiseError when the settings do not fit the images.
    """

    name: str
    train: ImageDataset
    normalise: Normalise
    pretraining: Optimisation
    groups: str = "class"
    outputs: bool = False
    root: str | None = None
    data: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", regroup(self.train, self.groups))
        if callable(self.resolution):
            object.__setattr__(self, "resolution", Faster(self.resolution, self.pretraining.speed))
        if {len(self.normalise.mean), len(self.normalise.std)} != {self.train.channels}:
            raise SourcewiseError(
                f"source {self.name}: its images have {self.train.channels} colour channels;"
                " source.normalise.mean and std must have as many numbers"
            )
        self.check(f"source {self.name}", self.train)


@dataclass(frozen=True)
class Target(View):
    """A target task and how a model is transferred to it.

    metric: what its score is: a name in `metrics.METRICS`, or the dotted path of a function. root, data: as the
    source's.

    Raises SourcewiseError when the settings do not fit the data.
    """

    train: ImageDataset
    test: ImageDataset
    transfer: TransferMethod
    metric: str = "accuracy"
    root: str | None = None
    data: str | None = None

    def __post_init__(self) -> None:
        classes = self.test.class_names
        if len(self.train.class_names) < 2:
            raise SourcewiseError(
                f"target: all images are of one class, {self.train.class_names[0]}; is its root one folder too high?"
            )
        if self.train.class_names != classes:
            differ = sorted(set(self.train.class_names) ^ set(classes)) or ["their order"]
            raise SourcewiseError(
                f"target: its training and test images are not of the same classes: they differ in {differ[0]!r};"
                " a class without images is an empty folder"
            )
        for split, dataset in (("training", self.train), ("test", self.test)):
            if not len(dataset):
                raise SourcewiseError(f"target: it has no {split} examples")
            self.check("target", dataset)
        if not isinstance(self.transfer, TransferMethod):
            raise SourcewiseError(
                f"target: transfer is {type(self.transfer).__name__}, which is no TransferMethod; see docs/extending.md"
            )
        metrics.check(self.metric, self.test.labels, len(classes))
        self.transfer.check(self)


def dataset_fingerprints(source: Source, targets: Mapping[str, Target]) -> dict[str, str]:
    """Return the fingerprints of all datasets by their names in a record's header."""
    datasets = {source.name: source.train}
    for target_name, target in targets.items():
        datasets |= {name: getattr(target, part) for part, name in dataset_names(target_name).items()}
    return {name: dataset.fingerprint for name, dataset in datasets.items()}
