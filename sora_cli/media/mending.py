"""What pictures need before they are frames as ours are: whole, of ordinary light, opaque. Filters, and a line each."""

import re
from dataclasses import replace

from sora_cli.media import y4m
from sora_cli.media.convert import PLANES
from sora_cli.media.probing import Picture
from sora_cli.media.y4m import Format

# what is opaque stays exactly as it is, which premultiply does not promise
OVER_BLACK = ("format=gbrap,split[seen][black];[black]drawbox=c=black:t=fill,format=gbrp[black];"
              "[black][seen]overlay=format=gbrp")  # fmt: skip
# one frame for every two fields, at the same rate; whole frames among them pass untouched
WHOLE = "bwdif=mode=send_frame:parity={parity}:deint={which}"
HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
WHITE = 203                      # nits of HDR's diffuse white (ITU-R BT.2408), which becomes SDR's
Mending = tuple[list[str], list[str]]


def mending(picture: Picture) -> Mending:
    """The filters for a file's deinterlaced frames, in order, and the notes on them."""
    filters, notes = ordinary(picture)
    if picture.alpha:
        return [*filters, OVER_BLACK], [*notes, "transparent parts, if any, are shown on black"]
    return filters, notes


def whole(fields: str | None) -> Mending:
    """Deinterlace: `tff` or `bff` for interlaced frames of this field order, `mixed` if each frame says so itself."""
    if not fields:
        return [], []
    parity, which = ("auto", "interlaced") if fields == "mixed" else (fields, "all")
    return [WHOLE.format(parity=parity, which=which)], ["it is interlaced; its fields are made into whole frames"]


def ordinary(picture: Picture) -> Mending:
    """HDR as SDR: light is made linear, bright light is pressed together, and the rest is as bright as it was."""
    if picture.transfer not in HDR:
        return [], []
    said = {"colorspace": None if picture.rgb else picture.matrix or "bt2020nc",
            "color_primaries": picture.primaries or "bt2020", "color_trc": picture.transfer}  # fmt: skip
    params = "setparams=" + ":".join(f"{name}={value}" for name, value in said.items() if value)
    pressed = [f"zscale=t=linear:npl={WHITE}", "format=gbrpf32le", "zscale=p=bt709", "tonemap=mobius:param=0.6:desat=0"]
    chroma = "420" if re.search("420|p01[0-6]", picture.pix_fmt) else "444"
    back = ["zscale=t=bt709:m=bt709:r=tv", f"format=yuv{chroma}p10le"]
    return [params, *pressed, *back], [f"its HDR light ({HDR[picture.transfer]}) is tone-mapped to a standard range"]


def coloured(format: Format, picture: Picture) -> Format:
    """With what is known of its colours in the header. Where a file does not name them, small pictures are taken as
    players do; what was RGB or HDR is bt709 by now."""
    if picture.alpha or picture.rgb or picture.transfer in HDR or format.chroma.startswith("mono"):
        return format
    small = picture.width < 1280 and picture.height < 720
    by_primaries = next((matrix for matrix, (own, _) in y4m.MATRICES.items() if own == picture.primaries), None)
    matrix = picture.matrix or by_primaries or ("smpte170m" if small else "bt709")
    default = y4m.MATRICES[matrix]
    params = {"COLORMATRIX": (matrix, "bt709"), "COLORPRIMARIES": (picture.primaries, default[0]),
            "COLORTRC": (picture.transfer, default[1])}  # fmt: skip
    tags = [f"{tag}={value}" for tag, (value, unless) in params.items() if value and value != unless]
    return replace(format, tags=(*format.tags, *tags))


def planes_of(picture: Picture, exact: bool) -> list[str]:
    """The filters from RGB to planes that y4m can hold: these very colours if `exact`, else brightness and colour."""
    deep = picture.depth > 8 and not picture.alpha and picture.transfer not in HDR  # what mends these has 8 bits
    if exact:
        return [f"format={'gbrp16le' if deep else 'gbrp'}", f"{PLANES}yuv444p{'16le' if deep else ''}"]
    return ["scale=out_color_matrix=bt709:out_range=tv", f"format=yuv444p{'16le' if deep else ''}"]
