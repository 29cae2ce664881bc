"""What a server lends to its clients. No torch, and nothing of the extra."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import typer

from sora_cli import geometry
from sora_cli.shot import LONGEST_SECONDS

MOST_STEPS = 100       # of the sampler, that a client may ask for
MOST_IMAGES = 10       # of one request
MOST_JSON = 1_000_000  # bytes; pictures are uploaded as files
MOST_PIXELS = 50_000_000  # of an uploaded picture


@dataclass(frozen=True)
class Limits:
    """Limits as options of `sora-cli serve`; sizes in pixels, bytes in millions."""

    panel: ClassVar[str] = "Limits"

    max_res: Annotated[str, typer.Option(metavar="WxH", help="Largest size, by its number of pixels.")] = "1280x720"
    max_seconds: Annotated[float, typer.Option(min=0.1, max=LONGEST_SECONDS, help="Longest video, in seconds.")] = 20.0
    max_queue: Annotated[int, typer.Option(min=1, max=10_000, help="Jobs that may wait; more get status 429.")] = 32
    max_body: Annotated[
        float, typer.Option(min=0.01, max=1e6, help="Largest request, in MB; more gets status 413.")
    ] = 32.0
    max_connections: Annotated[int, typer.Option(min=4, help="Connections at once; more get status 503.")] = 256
    timeout: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="Seconds for a request to arrive, and for a client to read on.")
    ] = 60.0
    keep: Annotated[int, typer.Option(min=1, help="Number of results to keep; the oldest go first.")] = 200
    keep_disk: Annotated[
        float, typer.Option(min=1, max=1e9, help="MB of results to keep; the oldest go first.")
    ] = 10_000.0

    def __post_init__(self) -> None:
        geometry.parse_res(self.max_res)

    @property
    def pixels(self) -> int:
        width, height = geometry.parse_res(self.max_res)
        return width * height
