"""ffmpeg both ways, and raw frames in streams: read, probe, convert and write video. No torch.

Frames are uint8 arrays [h, w, 3] in RGB, or raw: the planes of a y4m frame as bytes. Sizes are (width, height).
"""

from sora_cli.files.owned import part_of
from sora_cli.media.convert import FITS, Frame, from_rgb, retimed, to_rgb
from sora_cli.media.kinds import is_footage
from sora_cli.media.moving import Shared
from sora_cli.media.names import STREAM, check_input, same_file
from sora_cli.media.probing import probe
from sora_cli.media.process import as_file, ffmpeg, rational
from sora_cli.media.retiming import Retiming
from sora_cli.media.sinks import SUFFIXES, check_format, depth_held, holds_sound, open_sink
from sora_cli.media.sound import Sound, Soundtrack
from sora_cli.media.sources import Source, open_source
from sora_cli.media.writer import is_preview, write_image, write_moving
from sora_cli.media.y4m import RGB, Format, Size

__all__ = [
    "FITS", "RGB", "STREAM", "SUFFIXES", "Format", "Frame", "Retiming", "Shared", "Size", "Sound", "Soundtrack",
    "Source", "as_file", "check_format", "check_input", "depth_held", "ffmpeg", "from_rgb", "holds_sound", "is_footage",
    "is_preview", "open_sink", "open_source", "part_of", "probe", "rational", "retimed", "same_file", "to_rgb",
    "write_image", "write_moving",
]  # fmt: skip
