"""Any server that can see and speaks OpenAI's protocol: Ollama, llama.cpp, vLLM, here or elsewhere. No torch."""

import base64
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from PIL import Image

from sora_cli.captioning import Told
from sora_cli.captioning.frames import spread, watch
from sora_cli.errors import Failed, SoraError
from sora_cli.media import Frame

FRAMES, FPS, WITHIN = 6, 2.0, 512  # that it is shown, of how many a second, in pixels
MOST = 1000  # tokens of an answer; models that think aloud need many
KEY = "OPENAI_API_KEY"
NOBODY = "none"  # what servers that want no key are given: without one, the client would send the token of the Hub
VIDEO = ("These are {count} frames of one video, in order. Say in one plain sentence of at most 40 words who or what "
         "is to be seen, what it does, where, and how the camera moves. Answer with the sentence alone.")  # fmt: skip
PICTURE = ("Say in one plain sentence of at most 40 words who or what is to be seen in this picture, and where. "
           "Answer with the sentence alone.")  # fmt: skip


class Server:
    def __init__(self, url: str, served: str, timeout: float) -> None:
        from huggingface_hub import InferenceClient

        self.url, self.served, self.timeout = url, served, timeout
        self.client = InferenceClient(base_url=url, api_key=key(), timeout=timeout)

    @classmethod
    def at(cls, address: str, served: str | None, timeout: float) -> "Server":
        """The server at http://HOST:PORT or http://HOST:PORT/v1, and its first model unless told which."""
        url = address.rstrip("/").removesuffix("/chat/completions")
        url = url if url.endswith("/v1") else f"{url}/v1"
        return cls(url, served or first_model(url, timeout), timeout)

    def watch(self, name: str) -> list[Frame]:
        return spread(watch(name, FPS, within=WITHIN), FRAMES)

    def tell(self, frames: list[Frame]) -> Told:
        asked = PICTURE if len(frames) == 1 else VIDEO.format(count=len(frames))
        content = [*({"type": "image_url", "image_url": {"url": picture(frame)}} for frame in frames),
                   {"type": "text", "text": asked}]  # fmt: skip
        with answers(self.url, self.timeout):
            answer = self.client.chat_completion(
                [{"role": "user", "content": content}], model=self.served, max_tokens=MOST, temperature=0.0, seed=0
            )
            text = answer.choices[0].message.content
        caption = plain(text or "")
        if not caption:
            raise Failed(f"{self.served} at {self.url} answered without a caption; try another with --served")
        return Told(caption)


def key() -> str:
    return os.environ.get(KEY) or NOBODY


def first_model(url: str, timeout: float) -> str:
    """The first model that a server has."""
    from huggingface_hub.utils import get_session

    with answers(url, timeout):
        response = get_session().get(
            f"{url}/models", headers={"authorization": f"Bearer {key()}"}, timeout=timeout, follow_redirects=False
        )
        if response.status_code != 200:
            raise Failed(f"{url}/models answers {response.status_code}; say which model to ask with --served")
        found = response.json()["data"]
        if not found:
            raise SoraError(f"{url} serves no model; load one that can see pictures first")
        return str(found[0]["id"])


def picture(frame: Frame) -> str:
    """A frame as the URL of a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def plain(text: str) -> str:
    """An answer on one line, without thoughts and quotes around it."""
    text = " ".join(re.sub(r"<think>.*?(</think>|$)", "", text, flags=re.DOTALL).split())
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


@contextmanager
def answers(url: str, timeout: float) -> Iterator[None]:
    """What the client raises, as Failed in one line."""
    from huggingface_hub.errors import HfHubHTTPError, InferenceTimeoutError, OfflineModeIsEnabled

    # of the library that the client speaks HTTP with, whichever that is
    failures = cast(type[Exception], HfHubHTTPError.__mro__[1])
    try:
        yield
    except SoraError:
        raise
    except OfflineModeIsEnabled as error:
        raise Failed(f"HF_HUB_OFFLINE is set, and keeps us from {url}, too; unset it") from error
    except InferenceTimeoutError as error:
        raise Failed(late(url, timeout)) from error
    except HfHubHTTPError as error:
        raise Failed(f"{url} answers {error.response.status_code}: {reason(error.response.text)}") from error
    except (failures, OSError) as error:
        if "Timeout" in type(error).__name__:
            raise Failed(late(url, timeout)) from error
        raise Failed(f"no server answers at {url} ({error}); start it, or check the address") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Failed(f"{url} does not answer as OpenAI's protocol wants it; is that the right address?") from error


def late(url: str, timeout: float) -> str:
    return f"{url} did not answer within {timeout:g} s; --timeout waits longer"


def reason(body: str) -> str:
    """What a refusal says: its message if it is OpenAI's kind of JSON, or its first line."""
    try:
        told = json.loads(body)["error"]
        return str(told["message"] if isinstance(told, dict) else told)
    except (ValueError, LookupError, TypeError):
        return (body.strip().splitlines() or ["no reason given"])[0][:200]
