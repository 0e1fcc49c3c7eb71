"""Models: a backbone that turns images into features, and a linear head.

Every factory takes the number of image channels and of classes last, by keyword, as a run knows them only then. Where
a factory does not read its `name`, that is for the names of studies only.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from sourcewise.core.errors import SourcewiseError, did_you_mean

Network = TypeVar("Network", bound=nn.Module)


class Model(nn.Module):
    """`head(backbone(images))`: logits `[batch, classes]` from images `[batch, channels, height, width]`."""

    def __init__(self, backbone: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = Head(features, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[batch, classes]`."""
        return self.head(self.backbone(images))  # type: ignore[no-any-return]


class Head(nn.Linear):
    """A linear layer in full precision, as logits of 8 significant bits would make outputs of 8 bits."""

    def forward(self, features: Tensor) -> Tensor:
        """Return logits `[batch, classes]`."""
        if not torch.is_autocast_enabled(features.device.type):
            return super().forward(features)
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())


def small_cnn(width: PositiveInt = 16, *, channels: int, classes: int, name: str = "") -> Model:
    """Build three 3x3 convolutions of width w, 2w, 4w with BatchNorm, pooled after the first two, then averaged."""
    sizes = (channels, width, 2 * width, 4 * width)
    layers: list[nn.Module] = []
    for i in range(3):
        layers += _conv(sizes[i], sizes[i + 1], pool=i < 2)
    return Model(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), sizes[-1], classes)


def resnet9(width: PositiveInt = 64, *, channels: int, classes: int, name: str = "") -> Model:
    """Build a ResNet-9 for small images: two residual blocks between convolutions, and global max pooling."""

    def residual(size: int) -> nn.Module:
        return _Residual(nn.Sequential(*_conv(size, size), *_conv(size, size)))

    w = width
    backbone = nn.Sequential(
        *_conv(channels, w),
        *_conv(w, 2 * w, pool=True),
        residual(2 * w),
        *_conv(2 * w, 4 * w, pool=True),
        *_conv(4 * w, 8 * w, pool=True),
        residual(8 * w),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
    )
    return Model(backbone, 8 * w, classes)


def torchvision_backbone(name: str, small_images: bool = False, *, channels: int, classes: int) -> Model:
    """Build a torchvision classification model by name, randomly initialised, with our head as its last linear layer.

    The first convolution is rebuilt when images do not have 3 channels. `small_images` makes it 3x3 with stride 1 and
    drops a ResNet's max-pooling. Raises SourcewiseError for an unknown name.
    """
    from torchvision import models  # slow to import, and only needed here

    names = models.list_models(module=models)
    if name not in names:
        raise SourcewiseError(f"model.name={name}: not a torchvision classification model{did_you_mean(name, names)}")
    options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, **options)
    features = _take_last_linear(network)
    if channels != 3 or small_images:
        _rebuild_first_convolution(network, channels, small_images)
    if small_images and isinstance(getattr(network, "maxpool", None), nn.MaxPool2d):
        network.maxpool = nn.Identity()
    return Model(network, features, classes)


def timm_backbone(name: str, *, channels: int, classes: int) -> Model:
    """Build a timm model by name, randomly initialised, with our head on its pooled features.

    Raises SourcewiseError for an unknown name, or when timm is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise SourcewiseError("model=timm needs timm: pip install 'sourcewise[timm]'") from error
    if not timm.is_model(name):
        raise SourcewiseError(f"model.name={name}: not a model of timm{did_you_mean(name, timm.list_models())}")
    network = timm.create_model(name, pretrained=False, num_classes=0, in_chans=channels)
    features: Any = getattr(network, "head_hidden_size", None) or network.num_features
    return Model(network, features, classes)


def initialise(build: Callable[[], Network], seed: int) -> Network:
    """Return a network with its weights drawn from `seed`, and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _conv(inputs: int, outputs: int, pool: bool = False) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return [*layers, nn.MaxPool2d(2)] if pool else layers


class _Residual(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)  # type: ignore[no-any-return]


def _take_last_linear(network: nn.Module) -> int:
    """Replace the last linear layer by the identity and return how many features went into it.

    SqueezeNet's is a convolution whose logits are averaged over places: here features are averaged first.
    """
    *_, (path, layer) = (item for item in network.named_modules() if isinstance(item[1], nn.Linear | nn.Conv2d))
    if isinstance(layer, nn.Conv2d):
        _replace(network, path.rpartition(".")[0], nn.AdaptiveAvgPool2d(1))
        return int(layer.in_channels)
    _replace(network, path, nn.Identity())
    return int(layer.in_features)


def _rebuild_first_convolution(network: nn.Module, channels: int, small_images: bool) -> None:
    path, old = next(item for item in network.named_modules() if isinstance(item[1], nn.Conv2d))
    kernel, stride, padding = (3, 1, 1) if small_images else (old.kernel_size, old.stride, old.padding)
    new = nn.Conv2d(channels, old.out_channels, kernel, stride, padding, bias=old.bias is not None)
    _replace(network, path, new)


def _replace(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)
