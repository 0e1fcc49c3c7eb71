"""How the images of a dataset are shown to a model while it trains on them."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sourcewise.core.errors import SourcewiseError
from sourcewise.data import ImageDataset
from sourcewise.lightning_modules.augmentation import Augmentation
from sourcewise.lightning_modules.crops import CentreCrop, Crop, Resolution


@dataclass(frozen=True, kw_only=True)
class View:
    """Settings of a dataset's images, shared by the source and the targets.

    augmentation: random changes of training images, in order. crop: the part of a stored training image that is read;
    None: the centre, which evaluation always takes. resolution: the side of the images in pixels, or a function from
    the epoch to it; None: as they are.
    """

    augmentation: Sequence[Augmentation] = ()
    crop: Crop | None = None
    resolution: Resolution | int | None = None

    @property
    def is_static(self) -> bool:
        """Whether a training image looks the same in every epoch, and the same as in evaluation."""
        centred = self.crop is None or isinstance(self.crop, CentreCrop)
        return centred and not self.augmentation and not callable(self.resolution)

    def sides(self, dataset: ImageDataset, epochs: int) -> set[int]:
        """Return the sides in pixels that the images of a dataset have up to some epoch."""
        if callable(self.resolution):
            return {self.resolution(epoch) for epoch in range(epochs + 1)}
        return {self.resolution or min(dataset.images.shape[2:])}

    def check(self, name: str, dataset: ImageDataset) -> None:
        """Raise SourcewiseError when the settings do not fit the images of the dataset.

        name: what the message begins with, such as `source imagenet`.
        """
        changes = self.augmentation
        if not isinstance(changes, Sequence) or not all(isinstance(change, Augmentation) for change in changes):
            raise SourcewiseError(
                f"{name}: augmentation is a list of lightning_modules.augmentation.*, not {changes!r}"
            )
        if isinstance(dataset.images, Tensor):
            side = min(dataset.images.shape[2:])
            if (most := max((getattr(change, "pixels", 0) for change in changes), default=0)) >= side:
                raise SourcewiseError(f"{name}: its images are {side} pixels wide, and an augmentation changes {most}")
            if self.crop:
                raise SourcewiseError(
                    f"{name}: crop is for stored images (format: jpeg); those in memory take augmentations"
                )
        elif self.resolution is None:
            raise SourcewiseError(f"{name}: its images are of many sizes; set resolution, in pixels")
