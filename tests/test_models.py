import pytest
import torch

from sourcewise.errors import SourcewiseError
from sourcewise.models import initialise, resnet9, small_cnn, torchvision_backbone


@pytest.mark.parametrize(("build", "side"), [(small_cnn, 8), (small_cnn, 32), (resnet9, 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_models_give_a_logit_a_class(build, side: int, channels: int) -> None:
    model = build(width=4, channels=channels, classes=7)
    assert model(torch.randn(2, channels, side, side)).shape == (2, 7)
    assert model.backbone(torch.randn(2, channels, side, side)).shape == (2, model.head.in_features)


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "densenet121", "efficientnet_b0", "vgg11", "vit_b_16"]
)
def test_torchvision_heads_are_replaced(name: str) -> None:
    if name == "squeezenet1_1":
        with pytest.raises(SourcewiseError, match="not linear"):
            torchvision_backbone(name, channels=3, classes=5)
        return
    model = torchvision_backbone(name, channels=3, classes=5).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 224, 224)).shape == (1, 5)


def test_resnet_for_small_grey_images_keeps_its_resolution() -> None:
    model = torchvision_backbone("resnet18", small_images=True, channels=1, classes=5).eval()
    network = model.backbone
    with torch.no_grad():
        assert network.maxpool(network.conv1(torch.randn(1, 1, 16, 16))).shape[-2:] == (16, 16)
        assert model(torch.randn(1, 1, 16, 16)).shape == (1, 5)


def test_an_unknown_name_is_one_clear_line() -> None:
    with pytest.raises(SourcewiseError, match="model.name=resnet19"):
        torchvision_backbone("resnet19", channels=3, classes=5)


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
