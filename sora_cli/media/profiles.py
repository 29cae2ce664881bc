"""Pictures that ffmpeg reads in wrong colours: in another colour space than sRGB, as their ICC profile says (photos of
phones in Display P3, scans, prints in CMYK), or of kinds that it takes for others (TIFFs with JPEG in them)."""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image, ImageOps

MODES = {"RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB"}  # of 8 bits; what they become
# by format and mode, what they are read as here; in AVIF, ffmpeg passes over transparency
MISREAD = {("TIFF", "YCbCr"): "RGB", ("TIFF", "LAB"): "RGB", ("JPEG2000", "CMYK"): "RGB", ("AVIF", "RGBA"): "RGBA"}
UNMOVED = ("MPO", "TIFF")  # formats whose further pictures are a phone's second one, or pages


def space_of(image: Image.Image) -> str:
    """The name of a picture's colour space by its profile; "" for sRGB, and where the profile is none."""
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if not profile or image.mode not in MODES:
        return ""
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip()
    except (OSError, ImageCms.PyCMSError):
        return ""
    return "" if "srgb" in name.lower() else name or "a profile of its own"


def to_srgb(image: Image.Image) -> tuple[Image.Image, str]:
    """A picture upright and in sRGB, and the name of the space that it was in; "" if that is sRGB, or is not known."""
    from PIL import ImageCms

    upright = ImageOps.exif_transpose(image)  # first, since what is converted has no EXIF
    if name := space_of(image):
        with suppress(ImageCms.PyCMSError):  # it is of another kind of pixels
            space = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
            srgb = ImageCms.createProfile("sRGB")
            if found := ImageCms.profileToProfile(upright, space, srgb, outputMode=MODES[image.mode]):
                return found, name
    return upright, ""


def misread(image: Image.Image) -> str | None:
    """The mode in which a picture must be read here, since ffmpeg takes it for another; None if it does not."""
    jpeg = image.format == "TIFF" and image.info.get("compression") == "jpeg"
    return MISREAD.get((image.format or "", image.mode), "RGB" if jpeg else None)


@contextmanager
def in_srgb(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """A file with an upright picture that ffmpeg reads in the right colours, and notes on what was changed; the file
    itself if it is one, moves, or cannot be read here."""
    upright, notes = None, []
    try:
        with Image.open(path) as image:
            moves, mode = getattr(image, "is_animated", False) and image.format not in UNMOVED, misread(image)
            if not moves and (space_of(image) or mode):
                made, name = to_srgb(image)
                upright = made.convert(mode) if mode else made if name else None
                notes = [f"its colours are converted from {name} to sRGB"] if name else []
            if image.format == "TIFF" and (pages := getattr(image, "n_frames", 1)) > 1:
                notes.append(f"the first of its {pages} pages is read")
    except Exception:  # noqa: BLE001 (decoders of pictures fail in many ways; what is wrong with it, ffmpeg says)
        upright, notes = None, []
    if upright is None:
        yield path, notes
        return
    with tempfile.TemporaryDirectory() as folder:
        upright.save(file := Path(folder) / "srgb.png", icc_profile=None)
        yield file, notes
