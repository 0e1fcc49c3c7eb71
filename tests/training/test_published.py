"""Published weights as source models of the full source: the network they were saved from, and files that lie."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import compose_config
from PIL import Image
from safetensors.torch import save_file
from torchvision import models

from sourcewise.commands import train
from sourcewise.commands.datasets import resolve_data
from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.weights import describe, with_weights
from sourcewise.records import record
from sourcewise.training import published
from sourcewise.training.models import timm_backbone, torchvision_backbone

IMAGES = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return models.mobilenet_v3_small(num_classes=3).eval()


@pytest.fixture
def weights(tmp_path: Path, network: torch.nn.Module) -> str:
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    return str(tmp_path / "weights.pth")


def test_a_head_of_as_many_classes_is_kept_and_another_is_new(network, weights: str) -> None:
    same = torchvision_backbone("mobilenet_v3_small", weights=weights, channels=3, classes=3).eval()
    torch.testing.assert_close(same(IMAGES), network(IMAGES))
    fewer = torchvision_backbone("mobilenet_v3_small", weights=weights, channels=3, classes=2).eval()
    assert fewer(IMAGES).shape == (4, 2)
    torch.testing.assert_close(fewer.backbone(IMAGES), same.backbone(IMAGES))
    assert (same.published, same.knows_classes, fewer.knows_classes) == (True, True, False)


@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet"])
def test_heads_that_are_convolutions_and_networks_with_more_heads(tmp_path: Path, name: str) -> None:
    options = {"transform_input": True, "init_weights": False} if name == "googlenet" else {}
    saved = models.get_model(name, num_classes=5, **options).eval()
    save_file(saved.state_dict(), tmp_path / "w.safetensors")
    model = torchvision_backbone(name, weights=str(tmp_path / "w.safetensors"), channels=3, classes=5).eval()
    expected = saved(IMAGES)
    if name == "squeezenet1_1":  # its logits are averaged after the ReLU, ours before
        features = torch.nn.functional.adaptive_avg_pool2d(saved.features(IMAGES), 1).flatten(1)
        expected = features @ saved.classifier[1].weight.flatten(1).T + saved.classifier[1].bias
    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_weights_of_timm_under_the_names_of_a_training_script(tmp_path: Path) -> None:
    saved = timm.create_model("resnet10t", num_classes=4).eval()
    state = {f"module.{name}": value for name, value in saved.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "w.pth")
    model = timm_backbone("resnet10t", weights=str(tmp_path / "w.pth"), channels=3, classes=4).eval()
    torch.testing.assert_close(model(IMAGES), saved(IMAGES))


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_files_that_lie_are_one_line_and_execute_nothing(tmp_path: Path, monkeypatch, weights: str) -> None:
    monkeypatch.chdir(tmp_path)
    state = torch.load(weights, weights_only=True)

    def refused(content: object, message: str, name: str = "lie.pth") -> None:
        if isinstance(content, bytes):
            Path(name).write_bytes(content)
        elif name.endswith("pth"):
            torch.save(content, name)
        with pytest.raises(SourcewiseError, match=message) as caught:
            torchvision_backbone("mobilenet_v3_small", weights=name, channels=3, classes=3)
        assert "\n" not in str(caught.value)

    refused(pickle.dumps(Trap()), "not a file of tensors alone")
    refused({"a": Trap()}, "not a file of tensors alone")
    assert not Path("executed").exists()
    refused(Path(weights).read_bytes()[:5000], "not a file of tensors alone")
    refused((2**40).to_bytes(8, "little") + b"{}", "not a file of tensors alone", "lie.safetensors")
    refused([1, 2], "something else than the tensors")
    refused(
        {**state, "features.0.0.weight": torch.zeros(2)}, r"features.0.0.weight is \[2\] there, and \[16, 3, 3, 3\]"
    )
    refused({name: value for name, value in state.items() if name != "classifier.0.bias"}, "classifier.0.bias is not")
    refused({**state, "extra": torch.zeros(1)}, r"extra is \[1\] there, and not in this model")
    with pytest.raises(SourcewiseError, match="none.pth: there is no such file, .*; nothing is downloaded"):
        describe("none.pth")
    with pytest.raises(SourcewiseError, match="source.train.channels=3"):
        torchvision_backbone("mobilenet_v3_small", weights=weights, channels=1, classes=3)
    with pytest.raises(SourcewiseError, match="changed since the run was named"):
        published.read({**describe(weights), "sha256": "0"})


def test_names_of_what_was_downloaded_before(tmp_path: Path, monkeypatch, weights: str) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    content = Path(weights).read_bytes()
    snapshot = tmp_path / "hf" / "models--timm--tiny.a1" / "snapshots" / "abc"
    for folder in (tmp_path / "torch" / "hub" / "checkpoints", snapshot, snapshot.parents[1] / "refs"):
        folder.mkdir(parents=True)
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    (snapshot / "model.safetensors").write_bytes(content)
    (tmp_path / "torch" / "hub" / "checkpoints" / "tiny.pth").write_bytes(content)
    for name in ("tiny.pth", "timm/tiny.a1"):
        assert describe(name)["sha256"] == describe(weights)["sha256"]
    for name in ("other.pth", "timm/other", "no name/at all"):
        with pytest.raises(SourcewiseError, match="nothing is downloaded"):
            describe(name)


def test_a_recipe_holds_the_content_of_weights_and_not_their_place(tmp_path: Path, weights: str) -> None:
    copy = tmp_path / "copy.pth"
    copy.write_bytes(Path(weights).read_bytes())
    study, plain = [], compose_config("source=cifar100", "target=[pets]", "model=torchvision")
    for place in (weights, str(copy)):
        config = with_weights(
            compose_config("source=cifar100", "target=[pets]", "model=torchvision", f"model.weights={place}")
        )
        assert with_weights(config) == config
        study.append(names.study_name(config))
    assert study[0] == study[1] != names.study_name(plain)
    assert with_weights(plain) == plain


def test_a_full_run_of_published_weights_trains_nothing_and_has_both_mappings(
    tmp_path: Path, network, weights: str
) -> None:
    rng = np.random.default_rng(0)
    for place, classes, count in (("S", "abc", 3), ("T", "xy", 24)):
        for name in classes:
            (tmp_path / place / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / place / name / f"{number}.png")
    line = ("experiment=folders", f"source.root={tmp_path / 'S'}", f"target.imagefolder.root={tmp_path / 'T'}",
            "model=torchvision", "model.name=mobilenet_v3_small", f"model.weights={weights}", "transfer.epochs=1",
            "source.train.side=64", "target.imagefolder.train.side=64", "logger=none",
            f"runs_dir={tmp_path / 'runs'}")  # fmt: skip
    config = resolve_data(compose_config(*line, "subset=full"))
    train.train(config)
    item = record.read(names.run_dir(config) / names.RECORD)
    assert "pretraining" not in item.header.seconds
    outputs = item.targets["imagefolder"]
    mean, std = (torch.tensor(config["source"]["normalise"][key])[:, None, None] for key in ("mean", "std"))
    expected = []
    for path in outputs.paths:
        pixels = torch.tensor(np.asarray(Image.open(tmp_path / "T" / path))).permute(2, 0, 1) / 255
        expected.append(torch.softmax(network((pixels - mean)[None] / std), 1)[0])
    by_class = [torch.stack(expected)[outputs.labels == label].mean(0).detach() for label in range(2)]
    np.testing.assert_allclose(outputs.label_mapping, torch.stack(by_class), atol=2e-3)
    with pytest.raises(SourcewiseError, match="add subset=full"):
        train.train(resolve_data(compose_config(*line, "subset.seed=0")))
