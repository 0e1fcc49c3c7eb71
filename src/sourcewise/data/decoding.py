"""Decodes the JPEGs of stores with TorchCodec, on the processor or a GPU, and cuts and resizes what is read of them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sourcewise.core.errors import SourcewiseError


@functools.cache
def _decoder() -> Callable[..., Any]:
    """Return TorchCodec's decoder of JPEGs. Raises SourcewiseError where the package does not fit torch, or is missing.

    It needs no FFmpeg. Its import takes 30 ms, and runs on images in memory do without.
    """
    try:
        from torchcodec.decoders import decode_jpeg  # type: ignore[attr-defined]  # it is public, without __all__
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise SourcewiseError(
            f"torchcodec, which decodes images, cannot be imported ({reason}); install the one of torch "
            f"{torch.__version__}, from where torch is from: pip install --force-reinstall --no-deps torchcodec"
        ) from error
    decoder: Callable[..., Any] = decode_jpeg
    return decoder


def decode(encoded: Tensor) -> Tensor:
    """Decode a JPEG, grey or in colour as it is, `uint8[bytes]`.

    Return its pixels, `uint8[channels, height, width]`, in memory with channels last.
    """
    pixels: Tensor = _decoder()(encoded, mode="UNCHANGED")
    return pixels


def read(encoded: Tensor, box: Sequence[int], out: Tensor) -> None:
    """Decode a JPEG, cut out `box` (top, left, height, width), and resize it into `out`, uint8[c, s, s].

    A box of negative width is mirrored.
    """
    top, left, height, width = box
    part = decode(encoded)[None, :, top : top + height, left : left + abs(width)]
    if part.shape[1:] != out.shape:
        # Contiguous first: half the time.
        part = part.contiguous(memory_format=torch.channels_last)
        part = functional.interpolate(part, out.shape[1:], mode="bilinear", antialias=True)
    # numpy's copy: torch's would start threads, and minds inference mode.
    out.numpy()[:] = (part.flip(3) if width < 0 else part)[0].numpy()


def read_on_gpu(encoded: Sequence[Tensor], boxes: Tensor, out: Tensor) -> None:
    """Do what `read` does for images `encoded`, all at once, on the device of `out` uint8[n, c, s, s]: by nvJPEG.

    Pixels are those of `read` but for how decoders round. Raises SourcewiseError where the device does not decode.
    """
    try:
        images = _decoder()(list(encoded), mode="UNCHANGED", device=out.device)
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise SourcewiseError(f"trainer.decoding=gpu: {out.device} decodes no images ({reason})") from error
    with torch.inference_mode():  # in which batches may have been made
        for image, (top, left, height, width), place in zip(images, boxes.tolist(), out, strict=True):
            part = image[None, :, top : top + height, left : left + abs(width)].float()  # bytes are not resized there
            part = functional.interpolate(part, place.shape[1:], mode="bilinear", antialias=True)
            place.copy_((part.flip(3) if width < 0 else part)[0].round())
