"""How near training comes to what the GPU can do, and what the paper's scale would cost. Needs a GPU.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --scale 0.002 --rounds 1    # only tries the code

1. Half of a dataset of CIFAR-10's shape, ResNet-9, whole pretrainings a minute: train.py's modules and Trainer
   against a plain PyTorch loop with the images in GPU memory. Target: at least 0.85 of it.
2. ResNet-18 at 160 pixels, images a second: from a store of JPEGs of 256 pixels, decoded by all cores, against the same
   training step on a batch that already lies on the GPU. Target: at least 0.9 of it.

Both sides use the same network, precision (bf16), memory format, batch size and augmentation; images are synthetic,
which changes no speed but that of decoding: they are smooth with some noise, as photographs are. Sides take turns.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from sourcewise.data.store import Listing, prepared
from sourcewise.lightning_modules.augmentation import Augmentation, Flip, Translate
from sourcewise.lightning_modules.classification import Optimisation
from sourcewise.lightning_modules.crops import RandomResizedCrop
from sourcewise.lightning_modules.data import Batches, Examples, ImageData, Normalise
from sourcewise.lightning_modules.pretraining import Pretraining
from sourcewise.lightning_modules.schedules import Triangular
from sourcewise.training.hardware import Hardware
from sourcewise.training.models import resnet9, torchvision_backbone

NORMALISE = Normalise((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
PAPER_RUNS, IMAGES, EPOCHS = 7540, 1_281_167 // 2, 16  # arXiv 2207.05739: half of ImageNet, 16 epochs each


def smooth(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Images uint8[count, 3, side, side] of low frequencies and some noise."""
    coarse = torch.rand(count, 3, 8, 8, generator=generator) * 255
    noise = torch.randn(count, 3, side, side, generator=generator) * 6
    return (functional.interpolate(coarse, (side, side), mode="bicubic") + noise).clamp(0, 255).byte()


def ours(network: nn.Module, hardware: Hardware, data: ImageData, settings: Optimisation, classes: int) -> None:
    """Train as train.py does."""
    steps = len(data.train)
    module = Pretraining(hardware.prepare(network), settings, steps)
    hardware.trainer(settings.epochs).fit(module, datamodule=data)


def plain(
    network: nn.Module,
    batches: Callable[[], Sequence[tuple[Tensor, Tensor]]],
    settings: Optimisation,
    device: torch.device,
    augmentation: Sequence[Augmentation] = (),
) -> None:
    """Train as anybody would write it, on uint8 batches that lie on the device."""
    network = network.to(device, memory_format=torch.channels_last)
    options = {"momentum": settings.momentum, "weight_decay": settings.weight_decay}
    optimiser = torch.optim.SGD(network.parameters(), settings.lr, **options)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(settings.epochs):
        made = batches()
        for step, (images, labels) in enumerate(made):
            optimiser.param_groups[0]["lr"] = settings.lr * settings.schedule(epoch + step / len(made), settings.epochs)
            inputs = NORMALISE(images)
            for augment in augmentation:
                inputs = augment(inputs, generator)
            with torch.autocast(device.type, torch.bfloat16):
                loss = functional.cross_entropy(network(inputs), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def timed(function: Callable[[], None], device: torch.device) -> float:
    """Seconds that it takes, the GPU's work included."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(name: str, sides: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each side; a first round warms up."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for round_ in tqdm(range(rounds + 1), desc=name):
        for side, function in sides.items():
            taken = timed(function, device)
            if round_:
                seconds[side].append(taken)
    return {side: median(taken) for side, taken in seconds.items()}


def small_images(hardware: Hardware, device: torch.device, scale: float, rounds: int) -> None:
    """CIFAR-10's shape on a ResNet-9."""
    generator = torch.Generator().manual_seed(0)
    count, classes, batch = int(25_000 * scale), 10, min(512, int(25_000 * scale))
    images, labels = smooth(count, 32, generator), torch.randint(classes, (count,), generator=generator)
    settings = Optimisation(max(1, round(24 * scale)), batch, 0.5, weight_decay=5e-4, schedule=Triangular(5))
    augmentation = [Flip(), Translate(2)]
    examples = Examples(images, labels, torch.arange(count))
    on_device = examples.to(device)

    def batches() -> Sequence[tuple[Tensor, Tensor]]:
        rows = torch.randperm(count).to(device).split(batch)
        return [(on_device.inputs[part], on_device.labels[part]) for part in rows]  # type: ignore[misc]

    data = ImageData(Batches(examples, batch, NORMALISE, order_seed=0, augmentation=augmentation))
    seconds = compare(
        "ResNet-9",
        {
            "train.py": lambda: ours(resnet9(channels=3, classes=classes), hardware, data, settings, classes),
            "plain": lambda: plain(resnet9(channels=3, classes=classes), batches, settings, device, augmentation),
        },
        rounds,
        device,
    )
    rates = {side: 60 / taken for side, taken in seconds.items()}
    print(f"ResNet-9, {count} images of 32 pixels, {settings.epochs} epochs: {rates['train.py']:.2f} runs a minute,")
    print(f"  plain loop {rates['plain']:.2f}: {rates['train.py'] / rates['plain']:.2f} of it (target: at least 0.85)")


def large_images(hardware: Hardware, device: torch.device, scale: float, rounds: int) -> None:
    """ResNet-18 at 160 pixels."""
    generator = torch.Generator().manual_seed(0)
    count, classes, batch, side = int(20_000 * scale) + 8, 1000, min(1024, int(20_000 * scale) + 8), 160
    labels = torch.randint(classes, (count,), generator=generator)
    pictures = smooth(64, 256, generator).permute(0, 2, 3, 1).numpy()
    listing = Listing(lambda row: Image.fromarray(pictures[row % 64]), labels, [str(c) for c in range(classes)])
    settings = Optimisation(1, batch, 0.5, weight_decay=5e-5, schedule=Triangular(2))
    ready = NORMALISE(smooth(batch, side, generator).to(device)).mul(64).add(128).clamp(0, 255).byte()
    with tempfile.TemporaryDirectory() as folder:
        dataset = prepared(lambda: listing, str(Path(folder, "store.arrow")), side=256)
        examples = Examples(dataset.images, dataset.labels, dataset.ids)
        view = {"crop": RandomResizedCrop(flip=True), "resolution": side, "threads": hardware.threads}
        data = ImageData(Batches(examples, batch, NORMALISE, order_seed=0, **view))
        resident = [(ready, labels[:batch].to(device))] * (count // batch)

        def network() -> nn.Module:
            return torchvision_backbone("resnet18", channels=3, classes=classes)

        seconds = compare(
            "ResNet-18",
            {
                "train.py": lambda: ours(network(), hardware, data, settings, classes),
                "resident": lambda: plain(network(), lambda: resident, settings, device),
            },
            rounds,
            device,
        )
    rates = {"train.py": count / seconds["train.py"], "resident": len(resident) * batch / seconds["resident"]}
    print(f"ResNet-18 at {side} pixels, {hardware.threads} decoding threads: {rates['train.py']:.0f} images a second,")
    print(f"  resident batch {rates['resident']:.0f}: {rates['train.py'] / rates['resident']:.2f} of it", end="")
    print(" (target: at least 0.9)")
    if scale < 1:
        return
    hours = IMAGES * EPOCHS / rates["train.py"] / 3600
    print(f"  one source model of the paper: {hours:.2f} GPU hours;", end="")
    print(f" all {PAPER_RUNS}: {hours * PAPER_RUNS:,.0f}")


def main() -> None:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the images and epochs")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.device == "gpu" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu only tries the code")
    device = torch.device("cuda" if options.device == "gpu" else "cpu")
    threads = len(os.sched_getaffinity(0))
    hardware = Hardware(accelerator=options.device, precision="bf16-mixed", threads=threads, channels_last=True)
    print(f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}, torch {torch.__version__}")
    small_images(hardware, device, options.scale, options.rounds)
    large_images(hardware, device, options.scale, options.rounds)


if __name__ == "__main__":
    main()
