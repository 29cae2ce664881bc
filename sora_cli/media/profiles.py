"""Pictures in another colour space than sRGB, as their ICC profile says: photos of phones (Display P3), scans, prints
(CMYK). ffmpeg ignores such profiles."""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps

MODES = {"RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB"}  # of 8 bits; what they become


def to_srgb(image: Image.Image) -> tuple[Image.Image, str]:
    """A picture in sRGB, and the name of the space that it was in; the same picture and "" if that is its own."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in MODES:
        return image, ""
    from PIL import ImageCms

    try:
        space = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(space).strip() or "a profile of its own"
        if "srgb" in name.lower():
            return image, ""
        found = ImageCms.profileToProfile(image, space, ImageCms.createProfile("sRGB"), outputMode=MODES[image.mode])
    except (OSError, ImageCms.PyCMSError):  # it is none, or of another kind of pixels
        return image, ""
    return (found, name) if found else (image, "")


@contextmanager
def in_srgb(path: Path) -> Iterator[tuple[Path, str]]:
    """A file with a picture in sRGB, upright, and the name of the space that it was in; the file itself and "" if it is
    in sRGB already, moves, or is none that can be read here."""
    try:
        with Image.open(path) as image:
            moves = getattr(image, "is_animated", False) and image.format != "MPO"  # phones keep a second one
            converted, name = (image, "") if moves else to_srgb(image)
            upright = ImageOps.exif_transpose(converted) if name else None
    except Exception:  # noqa: BLE001 (decoders of pictures fail in many ways; what is wrong with it, ffmpeg says)
        upright = None
    if upright is None:
        yield path, ""
        return
    with tempfile.TemporaryDirectory() as folder:
        upright.save(made := Path(folder) / "srgb.png", icc_profile=None)
        yield made, name
