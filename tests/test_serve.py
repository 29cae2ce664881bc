"""`sora-cli serve`, asked by the client that people have, by browsers, and by those who mean no good."""

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import openai
import pytest
import tiny
from PIL import Image
from serving import PLAIN, SMALL, Served, free_port, held, picture, process, served, server, tiny_engine

from sora_cli import cli, media
from sora_cli.cli.serve import app, store
from sora_cli.cli.serve.limits import Limits
from sora_cli.cli.serve.refusal import Refusal
from sora_cli.cli.serve.store import Store, Work
from sora_cli.cli.serve.worker import Worker
from sora_cli.errors import SoraError
from sora_cli.files import sniff

__all__ = ["held", "server", "tiny_engine"]
pytestmark = [pytest.mark.filterwarnings("ignore:.*Sora API.*"), pytest.mark.usefixtures("tiny_engine")]


# ---- what the client of the API sees ----------------------------------------------------------------------


def test_a_video_from_asking_to_deleting(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = server.client
    video = client.videos.create_and_poll(prompt="a cat", **SMALL)  # type: ignore[arg-type]
    assert (video.status, video.progress, video.size, video.seconds) == ("completed", 100, "64x64", "0.375")
    assert (video.model, video.prompt, video.error) == ("pocket", "a cat", None) and video.completed_at
    content = client.videos.download_content(video.id).read()
    monkeypatch.chdir(tmp_path)
    words = ["--seed", "3", "--frames", "9", "--res", "64x64", *tiny.QUICK, "--no-metadata", "-q"]
    assert cli.run(["generate", "a cat", "-o", "a.mp4", *words]) == 0
    assert content == Path("a.mp4").read_bytes()
    with Image.open(io.BytesIO(client.videos.download_content(video.id, variant="thumbnail").read())) as image:
        assert (image.format, image.size) == ("WEBP", (64, 64))
    again = client.videos.remix(video.id, prompt="a dog")
    assert again.remixed_from_video_id == video.id and again.model_extra["seed"] == 3  # type: ignore[index]
    server.wait(again.id)
    assert client.videos.delete(again.id).deleted and client.videos.delete(video.id).id == video.id
    for gone in (video.id, again.id):
        with pytest.raises(openai.NotFoundError):
            client.videos.retrieve(gone)
        assert not (server.folder / gone).exists()


def test_another_rate_is_no_other_length(server: Served) -> None:
    """Pocket makes five seconds where nothing is said, whatever the rate."""
    for fps in (12, 30):
        video = server.ask("POST", "/v1/videos", {"prompt": "a cat", "size": "64x64", "steps": 1, "fps": fps})
        answer = json.loads(video.body)
        assert (video.status, answer["seconds"], answer["fps"]) == (200, "5", fps)
        server.client.videos.delete(answer["id"])


def test_lists_are_paged(server: Served) -> None:
    client = server.client
    made = [client.videos.create(prompt=f"a cat {n}", **SMALL).id for n in range(5)]  # type: ignore[arg-type]
    assert [one.id for one in client.videos.list(limit=2)][:5] == made[::-1]  # the client fetches page after page
    assert [one.id for one in client.videos.list(limit=100, order="asc")][-5:] == made
    page = client.videos.list(limit=2, after=made[3])
    assert [one.id for one in page.data] == [made[2], made[1]] and page.has_more
    for query in ("limit=0", "limit=101", "limit=x", "limit=%C2%B2", "order=up"):
        assert server.ask("GET", f"/v1/videos?{query}").status == 400
    assert server.ask("GET", "/v1/videos?after=video_0").status == 404
    for id in made:
        server.wait(id)
        client.videos.delete(id)


def test_ranges_of_a_video(server: Served) -> None:
    id = server.client.videos.create_and_poll(prompt="a cat", poll_interval_ms=20, **SMALL).id  # type: ignore[arg-type]
    path = f"/v1/videos/{id}/content"
    whole = server.ask("GET", path)
    assert whole.headers["content-type"] == "video/mp4" and whole.headers["accept-ranges"] == "bytes"
    for told, part in (("bytes=0-9", slice(0, 10)), ("bytes=100-", slice(100, None)), ("bytes=-7", slice(-7, None))):
        answer = server.ask("GET", path, range=told)
        assert (answer.status, answer.body) == (206, whole.body[part])
    assert server.ask("GET", path, range="bytes=99999999-").status == 416
    head = server.ask("HEAD", path)
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(whole.body)))
    assert server.ask("GET", f"{path}?variant=spritesheet").error["param"] == "variant"
    server.client.videos.delete(id)


def test_images(server: Served) -> None:
    client, more = server.client, {"steps": 1, "guidance": 1, "seed": 5}
    two = client.images.generate(prompt="a cat", size="64x32", n=2, extra_body=more)  # type: ignore[call-overload]
    pictures = [base64.b64decode(one.b64_json) for one in two.data]
    for raw in pictures:
        with Image.open(io.BytesIO(raw)) as image:
            assert (image.format, image.size) == ("PNG", (64, 32))
    assert pictures[0] != pictures[1]
    linked = client.images.generate(prompt="a cat", size="64x32", response_format="url",
                                    extra_body={**more, "seed": 6})  # type: ignore[call-overload]  # fmt: skip
    url = linked.data[0].url
    answer = server.ask("GET", url.split(str(server.port))[1])
    assert (answer.body, answer.headers["content-type"]) == (pictures[1], "image/png")  # seeds follow one another
    assert server.ask("GET", url.split(str(server.port))[1].replace("images", "videos")).status == 404
    with pytest.raises(openai.BadRequestError, match="n must be"):
        client.images.generate(prompt="a cat", n=11)


def test_models_and_health(server: Served) -> None:
    assert [model.id for model in server.client.models.list()] == ["pocket"]
    assert server.client.models.retrieve("pocket").owned_by == "sora-cli"
    assert json.loads(server.ask("GET", "/healthz").body) == {"status": "ok"}
    with pytest.raises(openai.NotFoundError, match="known models: pocket"):
        server.client.videos.create(prompt="a cat", model="sora-2")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_the_first_frame(server: Served, kind: str, tmp_path: Path) -> None:
    name = ("../../../evil.png", picture(kind))
    id = server.client.videos.create_and_poll(prompt="a cat", input_reference=name, poll_interval_ms=20, **SMALL).id  # type: ignore[arg-type]
    path = tmp_path / "a.mp4"
    path.write_bytes(server.client.videos.download_content(id).read())
    assert re.fullmatch(r"reference\.(png|jpg|webp)", *[one.name for one in (server.folder / id).glob("ref*")])
    with media.open_source(str(path)) as source:
        first = next(iter(media.to_rgb(source, source.format, (64, 64))))
    with Image.open(io.BytesIO(picture(kind))) as image:
        given = image.convert("L").getdata()
    shown = Image.fromarray(first).convert("L").getdata()
    assert sum(abs(a - b) for a, b in zip(given, shown, strict=True)) / len(shown) < 12
    assert b"reference" not in path.read_bytes() and str(server.folder).encode() not in path.read_bytes()
    server.client.videos.delete(id)


# ---- what outlives the server -----------------------------------------------------------------------------


def test_a_server_that_is_killed_in_mid_job_loses_nothing(tmp_path: Path) -> None:
    """Begun jobs are made, finished ones served, and the videos are the same as without the kill."""
    folder, long = tmp_path / "kept", {**PLAIN, "seconds": 4, "steps": 4}
    with process(folder) as (server, child):
        listening = [line.split()[1] for path in Path(f"/proc/{child.pid}/net").glob("tcp*")
                     for line in path.read_text().splitlines() if line.split()[3] == "0A"]  # fmt: skip
        assert [one for one in listening if one.endswith(f":{server.port:04X}")] == [f"0100007F:{server.port:04X}"]
        done = json.loads(server.ask("POST", "/v1/videos", PLAIN).body)["id"]
        server.wait(done)
        content = server.ask("GET", f"/v1/videos/{done}/content").body
        begun, queued = (json.loads(server.ask("POST", "/v1/videos", {**long, "seed": n}).body)["id"] for n in (1, 2))
        while json.loads(server.ask("GET", f"/v1/videos/{begun}").body)["progress"] == 0:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert json.loads((folder / begun / "job.json").read_text())["status"] == "in_progress"
    (folder / ("video_" + "1" * 32)).mkdir()
    (folder / ("video_" + "1" * 32) / "result.mp4").write_bytes(b"no job's")
    with served(folder) as server:
        assert server.ask("GET", f"/v1/videos/{done}/content").body == content
        assert json.loads(server.ask("GET", f"/v1/videos/{done}").body)["progress"] == 100
        assert server.ask("GET", f"/v1/videos/video_{'1' * 32}/content").status == 404
        for id, seed in ((begun, 1), (queued, 2)):
            assert server.wait(id)["status"] == "completed"
            other = json.loads(server.ask("POST", "/v1/videos", {**long, "seed": seed}).body)["id"]
            server.wait(other)
            assert (folder / id / "result.mp4").read_bytes() == (folder / other / "result.mp4").read_bytes()
        left = {path.name for path in folder.glob("video_*/*")}
        assert left == {"job.json", "result.mp4", "thumbnail.webp"} and len(list(folder.glob("video_*"))) == 5


def test_a_server_that_is_stopped_goes_on(tmp_path: Path, held: threading.Event,
                                          capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    with served(tmp_path / "kept") as server:
        id = server.client.videos.create(prompt="a cat", **SMALL).id  # type: ignore[arg-type]
        while json.loads(server.ask("GET", f"/v1/videos/{id}").body)["status"] == "queued":
            time.sleep(0.01)
        capsys.readouterr()
        assert cli.run(["serve", "--dir", str(server.folder), "--port", str(free_port())]) == 2
        assert "is in use by process" in capsys.readouterr().err
    held.set()
    with served(tmp_path / "kept") as server:
        assert server.wait(id)["status"] == "completed"


def kept(folder: Path, **more: Any) -> Work:
    """A job as a server leaves it."""
    settings = {"negative": "", "width": 64, "height": 64, "frames": 9, "fps": 24, "seed": 0, "steps": 1, "guidance": 1}
    work = Work(**{"id": store.new_id("video"), "kind": "video", "model": "pocket", "prompt": "a", "settings": settings,
                   **more})  # fmt: skip
    (folder / work.id).mkdir(parents=True)
    one = Store(folder, Limits())
    one.add(work)
    return work


def test_what_cannot_be_gone_on_with(tmp_path: Path) -> None:
    poison, fine = kept(tmp_path, begun=store.MOST_BEGUN), kept(tmp_path)
    image, damaged, lost = kept(tmp_path, id=store.new_id("image"), kind="image"), kept(tmp_path), kept(tmp_path)
    elsewhere = kept(tmp_path, reference="../../etc/passwd")
    (tmp_path / damaged.id / "job.json").write_text('{"id": 3}')
    (tmp_path / lost.id / "job.json").write_text(
        (tmp_path / lost.id / "job.json").read_text().replace("queued", "completed"))  # fmt: skip
    warned: list[str] = []
    one = Store(tmp_path, Limits())
    one.load(warned.append)
    assert set(one.works) == {poison.id, fine.id} and len(warned) == 3
    assert one.works[poison.id].status == "failed" and one.works[fine.id].status == "queued"
    assert not (tmp_path / image.id).exists()
    assert (tmp_path / damaged.id).exists() and (tmp_path / elsewhere.id).exists()


def test_a_disk_that_is_full_loses_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = kept(tmp_path)
    one = Store(tmp_path, Limits())
    one.load(print)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", raising(OSError(28, "No space left on device")))
        with pytest.raises(SoraError):
            one.take("")
        assert one.works[work.id].status == "queued" and one.works[work.id].begun == 0
    taken = one.take("")
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", raising(OSError(28, "No space left on device")))
        one.finish(taken, 1.0)
    assert taken.status == "failed" and "full" in taken.error
    again = Store(tmp_path, Limits())
    again.load(print)
    assert again.works[work.id].status == "queued"


def raising(error: Exception) -> Any:
    def fails(*_: Any) -> None:
        raise error

    return fails


def test_jobs_of_the_loaded_model_come_first_but_not_for_ever(tmp_path: Path) -> None:
    one = Store(tmp_path, Limits())
    for model in ["other", *["pocket"] * 20]:
        work = kept(tmp_path, model=model)
        one.works[work.id] = work
    taken = []
    for _ in range(21):
        work = one.take("pocket")
        assert work
        one.settle(work, "completed")
        taken.append(work.model)
    assert taken.index("other") == store.PASSED_OVER


def test_a_queue_is_full_for_all_at_once(tmp_path: Path) -> None:
    one = Store(tmp_path, Limits(max_queue=3))
    with one.room(2):
        with pytest.raises(Refusal), one.room(2):
            pass
        with one.room():
            pass
    one.close()
    with pytest.raises(Refusal), one.room():
        pass


def test_a_job_that_fails_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, errors = Worker.make, [RuntimeError("secret /etc/passwd"), SoraError("no room in /a/b/c"), MemoryError()]

    def failing(self: Worker, work: Work) -> None:
        if errors:
            raise errors.pop(0)
        make(self, work)

    monkeypatch.setattr(Worker, "make", failing)
    with served(tmp_path / "kept") as server:
        told = [server.client.videos.create_and_poll(prompt="a", poll_interval_ms=20, **SMALL) for _ in range(4)]  # type: ignore[arg-type]
    assert [one.status for one in told] == ["failed"] * 3 + ["completed"]
    said = [one.error.message for one in told[:3] if one.error]
    assert said[0].startswith("the server could not") and said[1] == "no room in c" and "memory" in said[2]


# ---- the page ---------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_from_elsewhere(server: Served) -> None:
    text, policy = app.page()
    assert not re.findall(r"(?:src|href|url\(|@import|action)\s*=?\s*['\"(]?\s*(?:https?:)?//", text)
    assert "unsafe" not in policy and "on" + "click=" not in text and "innerHTML" not in text
    answer = server.ask("GET", "/")
    assert answer.headers["content-security-policy"] == policy and answer.body.decode() == text


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs a browser")
def test_the_page_in_a_browser(server: Served) -> None:
    prompt = "<img src=x onerror=alert(1)>"
    id = server.client.videos.create_and_poll(prompt=prompt, poll_interval_ms=20, **SMALL).id  # type: ignore[arg-type]
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000",
               "--dump-dom", f"http://127.0.0.1:{server.port}/"]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert f'src="v1/videos/{id}/content"' in shown and "<option" in shown
    assert "&lt;img src=x" in shown and "<img" not in shown
    server.client.videos.delete(id)


def test_pictures_are_known_by_their_first_bytes() -> None:
    kinds = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": "", "TIFF": "", "BMP": ""}
    assert {kind: sniff.picture(picture(kind)[: sniff.PICTURE_HEAD]) for kind in kinds} == kinds
