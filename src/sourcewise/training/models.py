"""Models: a backbone that turns images into features, and a linear head.

Every factory takes the number of image channels and of classes last, by keyword, as a run knows them only then. Where
a factory does not read its `name`, that is for the names of studies only.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from sourcewise.core.errors import SourcewiseError, did_you_mean
from sourcewise.core.weights import Weights
from sourcewise.training import published

Network = TypeVar("Network", bound=nn.Module)

_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Heads of torchvision's Inception networks that help only in training."""


class Model(nn.Module):
    """`head(backbone(images))`: logits `[batch, classes]` from images `[batch, channels, height, width]`.

    published: whether the backbone has weights that somebody else trained; knows_classes: whether the head has too.
    """

    def __init__(self, backbone: nn.Module, features: int, classes: int, head: nn.Linear | None = None) -> None:
        super().__init__()
        self.backbone, self.published = backbone, head is not None
        self.head = Head(features, classes)
        self.knows_classes = head is None or head.out_features == classes
        if head is not None and self.knows_classes:
            with torch.no_grad():
                self.head.weight.copy_(head.weight)
                self.head.bias.copy_(torch.zeros(classes) if head.bias is None else head.bias)

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


def torchvision_backbone(
    name: str, small_images: bool = False, weights: Weights | str | None = None, *, channels: int, classes: int
) -> Model:
    """Build a torchvision classification model by name, with our head as its last linear layer.

    The first convolution is rebuilt when images do not have 3 channels. `small_images` makes it 3x3 with stride 1 and
    drops a ResNet's max-pooling. weights: of a published model, whose head is kept if it has as many classes; None:
    all are drawn at random. Raises SourcewiseError for an unknown name, and for weights that do not fit.
    """
    from torchvision import models  # slow to import, and only needed here

    names = models.list_models(module=models)
    if name not in names:
        raise SourcewiseError(f"model.name={name}: not a torchvision classification model{did_you_mean(name, names)}")
    options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, **options)
    if weights is not None:
        _check_published(channels, small_images)
        tensors = published.read(weights)
        tensors = {key: value for key, value in tensors.items() if not key.startswith(_AUXILIARY)}
        path, last = _last(network)
        _replace(network, path, _with_outputs(last, _outputs(tensors, path)))
        published.load_into(network, tensors, weights)
        if hasattr(network, "transform_input"):
            network.transform_input = True  # as torchvision does with weights of its own
    last = _take_last(network)
    features = int(last.in_features if isinstance(last, nn.Linear) else last.in_channels)
    if weights is not None:
        return Model(network, features, classes, _as_linear(last))
    if channels != 3 or small_images:
        _rebuild_first_convolution(network, channels, small_images)
    if small_images and isinstance(getattr(network, "maxpool", None), nn.MaxPool2d):
        network.maxpool = nn.Identity()
    return Model(network, features, classes)


def timm_backbone(name: str, weights: Weights | str | None = None, *, channels: int, classes: int) -> Model:
    """Build a timm model by name, with our head on its pooled features.

    weights: as for `torchvision_backbone`. Raises SourcewiseError for an unknown name, weights that do not fit, or when
    timm is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise SourcewiseError("model=timm needs timm: pip install 'sourcewise[timm]'") from error
    if not timm.is_model(name):
        raise SourcewiseError(f"model.name={name}: not a model of timm{did_you_mean(name, timm.list_models())}")
    network: Any
    head = None
    if weights is not None:
        _check_published(channels)
        tensors = published.read(weights)
        path = str(timm.models.get_pretrained_cfg_value(name, "classifier"))
        network = timm.create_model(name, pretrained=False, num_classes=_outputs(tensors, path))
        published.load_into(network, tensors, weights)
        head = _as_linear(network.get_classifier())
        network.reset_classifier(0)
    else:
        network = timm.create_model(name, pretrained=False, num_classes=0, in_chans=channels)
    features: Any = getattr(network, "head_hidden_size", None) or network.num_features
    return Model(network, features, classes, head)


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


def _take_last(network: nn.Module) -> nn.Linear | nn.Conv2d:
    """Replace the last linear layer by the identity and return it.

    SqueezeNet's is a convolution whose logits are averaged over places: here features are averaged first.
    """
    path, layer = _last(network)
    if isinstance(layer, nn.Conv2d):
        _replace(network, path.rpartition(".")[0], nn.AdaptiveAvgPool2d(1))
    else:
        _replace(network, path, nn.Identity())
    return layer


def _last(network: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Return the last linear layer or convolution of a network, and its name."""
    *_, last = ((name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d))
    return last


def _check_published(channels: int, small_images: bool = False) -> None:
    if channels != 3 or small_images:
        raise SourcewiseError(
            "model.weights: a published model takes images of 3 channels as they are: source.train.channels=3 and"
            " model.small_images=false"
        )


def _outputs(tensors: Mapping[str, Tensor], layer: str) -> int:
    """Return for how many classes a network was trained: the outputs of its last layer; 1000 if it has none."""
    weight = tensors.get(f"{layer}.weight")
    return 1000 if weight is None else len(weight)


def _with_outputs(layer: nn.Linear | nn.Conv2d, outputs: int) -> nn.Module:
    """Return a new layer like this one, of so many outputs."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, outputs)
    return nn.Conv2d(layer.in_channels, outputs, layer.kernel_size)  # type: ignore[arg-type]  # a pair


def _as_linear(layer: nn.Module) -> nn.Linear:
    """Return a linear head as one that was a convolution of one place; one without classes if it is neither."""
    if isinstance(layer, nn.Linear):
        return layer
    if not isinstance(layer, nn.Conv2d) or layer.kernel_size != (1, 1):
        return nn.Linear(1, 0)
    linear = nn.Linear(layer.in_channels, layer.out_channels, layer.bias is not None)
    state = layer.state_dict()
    linear.load_state_dict({name: value.flatten(1) if value.ndim > 1 else value for name, value in state.items()})
    return linear


def _rebuild_first_convolution(network: nn.Module, channels: int, small_images: bool) -> None:
    path, old = next(item for item in network.named_modules() if isinstance(item[1], nn.Conv2d))
    kernel, stride, padding = (3, 1, 1) if small_images else (old.kernel_size, old.stride, old.padding)
    new = nn.Conv2d(channels, old.out_channels, kernel, stride, padding, bias=old.bias is not None)
    _replace(network, path, new)


def _replace(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)
