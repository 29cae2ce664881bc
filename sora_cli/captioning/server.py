"""A server that can see. No torch."""

import base64
import io
from collections.abc import Callable

from PIL import Image

from sora_cli.captioning import Caption
from sora_cli.captioning.frames import evenly_spaced, sample_frames
from sora_cli.media import Frame
from sora_cli.prompts import llm

FRAMES, FPS, MAX_SIDE = 6, 2.0, 512  # that it is shown, of how many a second, in pixels
MOST = 1000  # tokens of an answer; models that think aloud need many
VIDEO = ("These are {count} frames of one video, in order. Say in one plain sentence of at most 40 words who or what "
         "is to be seen, what it does, where, and how the camera moves. Answer with the sentence alone.")  # fmt: skip
PICTURE = ("Say in one plain sentence of at most 40 words who or what is to be seen in this picture, and where. "
           "Answer with the sentence alone.")  # fmt: skip


class Server:
    def __init__(self, server: llm.Server) -> None:
        self.server = server

    def sample_frames(self, name: str, say: Callable[[str], None] | None = None) -> list[Frame]:
        return evenly_spaced(sample_frames(name, FPS, max_side=MAX_SIDE, say=say), FRAMES)

    def caption(self, frames: list[Frame]) -> Caption:
        asked = PICTURE if len(frames) == 1 else VIDEO.format(count=len(frames))
        content = [*({"type": "image_url", "image_url": {"url": picture(frame)}} for frame in frames),
                   {"type": "text", "text": asked}]  # fmt: skip
        return Caption(self.server.answer([{"role": "user", "content": content}], MOST))


def picture(frame: Frame) -> str:
    """A frame as the URL of a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
