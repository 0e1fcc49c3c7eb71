import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torchvision.models import list_models

from sourcewise.core.errors import SourcewiseError
from sourcewise.training.models import initialise, resnet9, small_cnn, timm_backbone, torchvision_backbone


@pytest.mark.parametrize(("build", "side"), [(small_cnn, 8), (small_cnn, 32), (resnet9, 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_models_give_a_logit_a_class(build, side: int, channels: int) -> None:
    model = build(width=4, channels=channels, classes=7)
    assert model(torch.randn(2, channels, side, side)).shape == (2, 7)
    assert model.backbone(torch.randn(2, channels, side, side)).shape == (2, model.head.in_features)


FAMILIES = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "resnet18",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11",
    "vit_b_16",
    "wide_resnet50_2",
]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FAMILIES else pytest.mark.slow)
        for name in list_models(module=torchvision.models)
    ],
)
def test_every_torchvision_model_has_its_head_replaced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for function in [key for key in vars(nn.init) if key.endswith("_") and not key.startswith("_")]:
        monkeypatch.setattr(nn.init, function, lambda tensor, *args, **options: tensor)  # shapes alone matter
    model = torchvision_backbone(name, channels=1, classes=5).eval().to("meta")
    images = torch.empty(2, 1, *([299, 299] if name == "inception_v3" else [224, 224]), device="meta")
    assert model.backbone(images).shape == (2, model.head.in_features)
    assert not any(1000 in parameter.shape for parameter in model.parameters())


def test_a_squeezenet_averages_as_its_own_head_does() -> None:
    model = torchvision_backbone("squeezenet1_1", channels=3, classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        places = model.backbone.features(images)
        logits = functional.conv2d(places, model.head.weight[:, :, None, None], model.head.bias).mean((2, 3))
        torch.testing.assert_close(model(images), logits)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_timm_models_are_built_by_name(name: str) -> None:
    model = timm_backbone(name, channels=1, classes=5).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 1, 224, 224)).shape == (1, 5)


def test_logits_are_in_full_precision_whatever_the_rest_is() -> None:
    model = small_cnn(4, channels=1, classes=5)
    images = torch.randn(3, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.backbone(images).dtype == torch.bfloat16
        logits = model(images)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_resnet_for_small_grey_images_keeps_its_resolution() -> None:
    model = torchvision_backbone("resnet18", small_images=True, channels=1, classes=5).eval()
    network = model.backbone
    with torch.no_grad():
        assert network.maxpool(network.conv1(torch.randn(1, 1, 16, 16))).shape[-2:] == (16, 16)
        assert model(torch.randn(1, 1, 16, 16)).shape == (1, 5)


def test_an_unknown_name_is_one_clear_line() -> None:
    for build in (torchvision_backbone, timm_backbone):
        with pytest.raises(SourcewiseError, match=r"model.name=resnet19: .*; did you mean resnet1"):
            build("resnet19", channels=3, classes=5)


def test_initialisation_depends_on_its_seed_alone() -> None:
    def weights(seed: int) -> torch.Tensor:
        return torch.cat(
            [p.flatten() for p in initialise(lambda: small_cnn(4, channels=1, classes=3), seed).parameters()]
        )

    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = weights(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(9)
    assert torch.equal(weights(1), one)
    assert not torch.equal(weights(2), one)
