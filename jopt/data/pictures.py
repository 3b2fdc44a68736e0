"""Files of images to one array, by Pillow."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from jopt.data.parts import refuse

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What is decoded, whatever a file's name says: Pillow would start other programs for some of its formats."""
FITS = ("crop", "stretch")
COLOURS = {"rgb": "RGB", "grey": "L"}
MAX_PIXELS = 2**26
"""Of one image before it is scaled: a file of a few bytes can ask for gigabytes."""


def decode(
    files: Sequence[Path | bytes], size: tuple[int, int] | None, fit: str, colours: str, where: str = "image"
) -> UInt8[np.ndarray, "examples height width channels"]:
    """Decodes images, turned as their EXIF data say, to one size.

    Args:
      files: paths, or what files hold.
      size: height and width; None: that of the first, which all must have.
      fit: as `jopt.data.ImageFolder` has it.
      colours: likewise.
      where: what messages call an image that has no path.

    Raises:
      DataError: naming the file that is no image, is too large, or is of another size.
    """
    images: np.ndarray | None = None
    for i, file in enumerate(files):
        name = str(file) if isinstance(file, Path) else f"{where} {i}"
        pixels = _pixels(file, name, size, fit, colours)
        # Filled in place: stacking a list would hold the whole set in memory twice.
        images = np.empty((len(files), *pixels.shape), np.uint8) if images is None else images
        if pixels.shape != images.shape[1:]:
            first = str(files[0]) if isinstance(files[0], Path) else "the first"
            accepted = f"of {_size(images.shape[1:])} pixels, as {first} is, or data.size to scale all"
            refuse(name, f"{_size(pixels.shape)} pixels", accepted)
        images[i] = pixels
    return np.zeros((0, 1, 1, 1), np.uint8) if images is None else images


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _pixels(file: Path | bytes, name: str, size: tuple[int, int] | None, fit: str, colours: str) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as image:
            width, height = image.size
            # Pillow would cut the values of 16 bits off at 255.
            if image.mode[0] in "IF":
                refuse(name, f"mode {image.mode}", "an image of 8 bits a channel")
            if width * height <= MAX_PIXELS:
                upright = ImageOps.exif_transpose(image).convert(COLOURS[colours])
                pixels = np.asarray(_scaled(upright, size, fit))
                return pixels if pixels.ndim == 3 else pixels[..., None]
    # Whatever a damaged file makes its decoder raise.
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, Image.DecompressionBombError) as error:
        refuse(
            name, f"{type(error).__name__}: {error}", f"an image that Pillow reads ({', '.join(FORMATS)})", error
        )
    refuse(name, f"{height} x {width}", f"an image of at most {MAX_PIXELS} pixels")


def _scaled(image: "Image.Image", size: tuple[int, int] | None, fit: str) -> "Image.Image":
    from PIL import Image, ImageOps

    if size is None:
        return image
    height, width = size
    if fit == "crop":
        return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return image.resize((width, height), Image.Resampling.BILINEAR)
