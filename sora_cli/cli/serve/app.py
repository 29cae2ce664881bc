"""The endpoints: videos and images as OpenAI's API has them, and a page.

Errors, ids, fields: https://platform.openai.com/docs/api-reference/videos, .../images and .../models.
"""

import asyncio
import base64
import hashlib
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from sora_cli.cli.serve import limits
from sora_cli.cli.serve.gate import Gate
from sora_cli.cli.serve.orders import Orders, one_of, picture_of
from sora_cli.cli.serve.refusal import Refusal, missing
from sora_cli.cli.serve.store import COMPLETED, FAILED, IMAGE, QUEUED, VIDEO, Work
from sora_cli.cli.serve.wire import answer
from sora_cli.cli.serve.worker import THUMBNAIL, Worker
from sora_cli.errors import Failed

LISTED = 100       # videos of one answer
KINDS = {"video": ("video/mp4", ".mp4"), "thumbnail": ("image/webp", ".webp")}


class Server:
    """Handlers over one store."""

    def __init__(self, orders: Orders, worker: Worker, gate: Gate, public_url: str = "") -> None:
        self.orders, self.store, self.worker, self.gate = orders, orders.store, worker, gate
        self.public_url = public_url.rstrip("/")
        self.page, self.policy = page()

    # -- videos -------------------------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        with self.store.room():
            wanted, upload = await read(request)
            work = self.orders.video(wanted)
            await self.thread(self.queue, work, upload)
        return self.status_of(request, work)

    def queue(self, work: Work, upload: UploadFile | None = None, reference: Path | None = None) -> None:
        """Save a job and put it into the queue; a refused job leaves nothing behind."""
        folder = self.store.folder_of(work)
        try:
            folder.mkdir()
            if upload:
                with (folder / "upload").open("wb") as file:
                    shutil.copyfileobj(upload.file, file)
                work.reference = "reference" + picture_of(folder / "upload")
                (folder / "upload").rename(folder / work.reference)
            elif reference:
                shutil.copyfile(reference, folder / work.reference)
            self.orders.check(work)
            self.store.add(work)
        except BaseException as error:
            self.store.erase(work)
            if isinstance(error, FileNotFoundError) and reference:
                raise missing("video") from None  # deleted meanwhile
            if isinstance(error, OSError | Failed):
                raise Refusal(507, "the server cannot write the job; its disk may be full", "no_room") from error
            raise

    async def remix(self, request: Request) -> Response:
        """Another video's seed, size and picture with a new prompt."""
        source = self.video(request)
        with self.store.room():
            wanted, _ = await read(request)
            work = self.orders.remix(wanted, source)
            reference = self.store.file(source, source.reference) if source.reference else None
            await self.thread(self.queue, work, None, reference)
        return self.status_of(request, work)

    async def retrieve(self, request: Request) -> Response:
        return self.status_of(request, self.video(request))

    async def list_videos(self, request: Request) -> Response:
        limit, order = request.query_params.get("limit", "20"), request.query_params.get("order", "desc")
        if not (limit.isascii() and limit.isdigit() and len(limit) < 5 and 1 <= int(limit) <= LISTED):
            raise Refusal(400, f"limit must be from 1 to {LISTED}", "invalid_value", "limit")
        one_of("order", order, ("asc", "desc"))
        works = self.store.listed(VIDEO)[:: 1 if order == "asc" else -1]
        if after := request.query_params.get("after"):
            ids = [work.id for work in works]
            if after not in ids:
                raise missing("video")
            works = works[ids.index(after) + 1 :]
        shown = works[: int(limit)]
        ends = {"first_id": shown[0].id if shown else None, "last_id": shown[-1].id if shown else None}
        data = [self.video_of(request, work) for work in shown]
        return JSONResponse({"object": "list", "data": data, **ends, "has_more": len(works) > len(shown)})

    async def delete(self, request: Request) -> Response:
        work = self.video(request)
        await self.thread(self.store.remove, work)
        return JSONResponse({"id": work.id, "object": "video.deleted", "deleted": True})

    async def content(self, request: Request) -> Response:
        work, variant = self.video(request), request.query_params.get("variant", "video")
        one_of("variant", variant, KINDS)
        if work.status != COMPLETED:
            why = f"failed: {work.error}" if work.status == FAILED else f"is {work.status}; ask for its status first"
            raise Refusal(404, f"the video {why}", "not_ready")
        kind, suffix = KINDS[variant]
        return self.served(work, work.result if variant == "video" else THUMBNAIL, kind, work.id + suffix)

    def served(self, work: Work, name: str, kind: str, called: str) -> Response:
        path = self.store.file(work, name)
        if not path.is_file():
            raise missing(work.kind)
        return FileResponse(path, media_type=kind, filename=called, content_disposition_type="inline",
                            headers={"cache-control": "private, max-age=3600"})  # fmt: skip

    def video(self, request: Request) -> Work:
        work = self.store.get(request.path_params["id"], VIDEO)
        if work is None:
            raise missing("video")
        return work

    def status_of(self, request: Request, work: Work) -> Response:
        return JSONResponse(self.video_of(request, work), headers={"openai-poll-after-ms": "500"})

    def video_of(self, request: Request, work: Work) -> dict[str, Any]:
        """The JSON of a video: OpenAI's fields and ours."""
        wanted, url = work.settings, None
        if work.status == COMPLETED:
            url = self.link(request, f"/v1/videos/{work.id}/content")
        error = {"code": "generation_failed", "message": work.error} if work.status == FAILED else None
        return {
            "id": work.id, "object": "video", "model": work.model, "status": work.status, "progress": work.progress,
            "created_at": int(work.created), "completed_at": int(work.completed) or None, "expires_at": None,
            "size": f"{wanted['width']}x{wanted['height']}", "seconds": f"{wanted['frames'] / wanted['fps']:.6g}",
            "prompt": work.prompt, "remixed_from_video_id": work.remixed_from or None, "error": error,
            "seed": wanted["seed"], "fps": wanted["fps"], "steps": wanted["steps"], "guidance": wanted["guidance"],
            "queue_position": self.store.position(work) if work.status == QUEUED else None, "url": url,
        }  # fmt: skip

    # -- images -------------------------------------------------------------------------------------------------

    async def images(self, request: Request) -> Response:
        with self.store.room():
            wanted, _ = await read(request)
        form = wanted.get("response_format") or "b64_json"
        one_of("response_format", form, ("b64_json", "url"))
        works, kept = self.orders.images(wanted), False
        try:
            with self.store.room(len(works)):
                for work in works:
                    await self.thread(self.queue, work)
            data = [await self.image_of(request, work, form) for work in works]
            kept = form == "url"
        finally:
            if not kept:
                await asyncio.shield(self.remove_works(works))
        return JSONResponse({"created": int(works[0].created), "data": data})

    async def remove_works(self, works: Sequence[Work]) -> None:
        for work in works:
            await self.thread(self.store.remove, work)

    async def image_of(self, request: Request, work: Work, form: str) -> dict[str, Any]:
        """Wait for an image and return its JSON; Refusal if it fails or the server stops."""
        while not work.over:
            if self.store.closed:
                raise Refusal(503, "the server is shutting down; try again soon", "shutting_down")
            if await request.is_disconnected():
                raise ClientDisconnect
            await asyncio.sleep(0.05)
        if work.status == FAILED:
            raise Refusal(500, work.error, "generation_failed", headers={"x-should-retry": "false"})
        if form == "url":
            return {"url": self.link(request, f"/v1/images/{work.id}")}
        return {"b64_json": base64.b64encode(await self.thread(self.store.file(work, work.result).read_bytes)).decode()}

    async def image(self, request: Request) -> Response:
        work = self.store.get(request.path_params["id"], IMAGE)
        if work is None or work.status != COMPLETED:
            raise missing("image")
        return self.served(work, work.result, "image/png", work.id + ".png")

    # -- the rest -----------------------------------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model_of(name) for name in self.orders.served]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.orders.served:
            raise Refusal(404, "there is no model with this name", "model_not_found", "model")
        return JSONResponse(model_of(name))

    async def health(self, request: Request) -> Response:
        fine = self.worker.is_alive() and not self.store.closed
        return JSONResponse({"status": "ok" if fine else "ending"}, 200 if fine else 503)

    async def index(self, request: Request) -> Response:
        return HTMLResponse(self.page, headers={"content-security-policy": self.policy, "cache-control": "no-cache"})

    def link(self, request: Request, path: str) -> str:
        return f"{self.public_url or str(request.base_url).rstrip('/')}{path}{self.gate.sign(path)}"

    async def thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run disk work in a thread, a few at a time; it finishes even if the client disconnects."""
        return await to_thread.run_sync(work, *arguments, limiter=self.limiter)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.limiter = CapacityLimiter(2)
        yield


def application(server: Server) -> Starlette:
    one = "/v1/videos/{id}"
    routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/", server.index), ("GET", "/healthz", server.health),
        ("GET", "/v1/models", server.models), ("GET", "/v1/models/{name}", server.model),
        ("POST", "/v1/videos", server.create), ("GET", "/v1/videos", server.list_videos),
        ("GET", one, server.retrieve), ("DELETE", one, server.delete),
        ("GET", f"{one}/content", server.content), ("POST", f"{one}/remix", server.remix),
        ("POST", "/v1/images/generations", server.images), ("GET", "/v1/images/{id}", server.image),
    ]  # fmt: skip
    app = Starlette(
        routes=[Route(path, handler, methods=[method]) for method, path, handler in routes], lifespan=server.lifespan,
        exception_handlers=dict.fromkeys((Refusal, HTTPException, ClientDisconnect, Exception), wrong),
    )  # fmt: skip
    app.router.redirect_slashes = False
    return app


def model_of(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "sora-cli"}


async def read(request: Request) -> tuple[Mapping[str, Any], UploadFile | None]:
    """The fields of a form or JSON body, and the uploaded picture; Refusal for anything else."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        return await read_form(request)
    if kind != "application/json":
        raise Refusal(415, "send JSON (Content-Type: application/json) or a form (multipart/form-data)", "wrong_type")
    raw = bytearray()
    async for piece in request.stream():
        raw += piece
        if len(raw) > limits.MOST_JSON:
            raise Refusal(413, f"JSON has at most {limits.MOST_JSON / 1e6:g} MB; upload pictures as files", "too_large")
    try:
        wanted = json.loads(raw)
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is not valid JSON", "invalid_json") from None
    if not isinstance(wanted, dict):
        raise Refusal(400, "the body must be a JSON object", "invalid_json")
    if wanted.get("input_reference") is not None:
        raise Refusal(400, "input_reference must be a file, uploaded as multipart/form-data", "invalid_type",
                      "input_reference")  # fmt: skip
    return wanted, None


async def read_form(request: Request) -> tuple[Mapping[str, Any], UploadFile | None]:
    form = await request.form(max_files=1, max_fields=32, max_part_size=1 << 16)
    wanted: dict[str, Any] = {}
    upload: UploadFile | None = None
    for name, value in form.multi_items():
        if name in wanted or (name == "input_reference" and upload):
            raise Refusal(400, f"{name[:40]!a} is given twice", "invalid_value", name[:40])
        if isinstance(value, UploadFile):
            if name != "input_reference":
                raise Refusal(400, f"{name[:40]!a} is not a file; only input_reference is", "invalid_type", name[:40])
            upload = value
        elif name.partition("[")[0] == "input_reference":
            raise Refusal(400, "input_reference must be a file, uploaded as multipart/form-data", "invalid_type",
                          "input_reference")  # fmt: skip
        elif value != "":
            wanted[name] = value
    return wanted, upload


async def wrong(request: Request, error: Exception) -> Response:
    """The response for an error."""
    match error:
        case Refusal():
            return answer(error)
        case ClientDisconnect():
            return Response(status_code=400)  # nobody reads it
        case HTTPException():
            words = {404: "there is nothing at this address", 405: "this address does not support this method"}
            message = words.get(error.status_code, "the form is not valid multipart/form-data")
            return answer(Refusal(error.status_code, message, headers=error.headers or {}))
        case _:
            return answer(Refusal(500, "the server failed; its log says why", "internal_error"))


def page() -> tuple[str, str]:
    """The HTML page, and the content security policy that allows only its own script and style."""
    text = (files("sora_cli.cli.serve") / "page.html").read_text(encoding="utf-8")
    script, style = (digest(text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]) for tag in ("script", "style"))
    return text, (f"default-src 'none'; script-src {script}; style-src {style}; img-src 'self' data:; "
                  "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
                  "frame-ancestors 'none'")  # fmt: skip


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
