"""`sora-cli serve`, asked by those who mean no good: bad requests, strangers, too much, too slow."""

import contextlib
import io
import json
import re
import socket
import struct
import threading
import time
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
import tiny
from PIL import Image
from serving import PLAIN, SMALL, TOKEN, Served, held, picture, served, server, tiny_engine

from sora_cli import cli, registry
from sora_cli.cli.serve import check_extra
from sora_cli.cli.serve.gate import Gate, is_loopback, token_of
from sora_cli.cli.serve.orders import served_as
from sora_cli.cli.serve.refusal import public
from sora_cli.errors import SoraError

__all__ = ["held", "server", "tiny_engine"]
pytestmark = [pytest.mark.filterwarnings("ignore:.*Sora API.*"), pytest.mark.usefixtures("tiny_engine")]


# ---- what is refused --------------------------------------------------------------------------------------


def huge(side: int) -> bytes:
    """A PNG that says it has so many pixels a side, and has none."""
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


def moving(kind: str) -> bytes:
    file, frames = io.BytesIO(), [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


HOSTILE = {
    "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', "empty": b"",
    "text": b"hello", "gif": picture("GIF"), "tiff": picture("TIFF"), "mp4": b"\0\0\0\x20ftypisom" + b"\0" * 64,
    "magic alone": b"\x89PNG\r\n\x1a\n", "cut off": picture("PNG")[:60], "bomb": huge(60_000), "large": huge(8_000),
    "apng": moving("PNG"), "webp that moves": moving("WEBP"), "playlist in jpeg": b"\xff\xd8\xff#EXTM3U\n/etc/passwd",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_uploads_are_looked_into(server: Served, name: str) -> None:
    before = tiny.everything(server.folder)
    with pytest.raises(openai.BadRequestError) as told:
        server.client.videos.create(prompt="a cat", input_reference=("a.png", HOSTILE[name]), **SMALL)  # type: ignore[arg-type]
    assert str(server.folder) not in str(told.value) and "passwd" not in str(told.value)
    assert tiny.everything(server.folder) == before


@pytest.mark.parametrize(
    "told",
    [
        {"prompt": ""}, {"prompt": "  "}, {"prompt": 7}, {"prompt": "a" * 2001}, {"seconds": 0}, {"seconds": "nan"},
        {"seconds": 21}, {"seconds": True}, {"seconds": [1]}, {"seconds": "1e999"}, {"size": "big"}, {"size": "63x63"},
        {"size": "4000x4000"}, {"size": 64}, {"seed": -2}, {"seed": 1.5}, {"seed": "9" * 30}, {"steps": 101},
        {"steps": 0}, {"fps": 0}, {"fps": 1e9}, {"guidance": 1e9}, {"negative_prompt": {}}, {"model": "../pocket"},
        {"model": "hf:owner/name"}, {"model": ["pocket"]}, {"input_reference": "/etc/passwd"},
        {"input_reference": {"file_id": "x"}}, {"n": 1}, {"prompt": "a\ud800"}, {"\ud800": 1}, {"\x1b[2J": 1},
        *({option: "/etc/passwd"} for option in ("anchor", "image", "end", "lora", "output", "o", "from", "source",
                                                 "sheet", "expand", "input", "plan", "dir", "verb")),
    ],
)  # fmt: skip
def test_bad_requests_are_told_in_the_apis_shape(server: Served, told: dict[str, Any]) -> None:
    answer = server.ask("POST", "/v1/videos", {**PLAIN, **told})
    assert answer.status in (400, 404) and set(answer.error) == {"message", "type", "param", "code"}, answer
    assert answer.error["type"] == "invalid_request_error" and "\n" not in answer.error["message"]
    assert not {"/etc", str(server.folder), str(Path.home())} & set(re.findall(r"/\w+", answer.error["message"]))


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400), (b"[]", "application/json", 400), (b"[" * 100_000, "application/json", 400),
        (b"\xff\xfe", "application/json", 400), (b"{}", "text/plain", 415), (b"{}", "", 415),
        (b"x", "multipart/form-data", 400), (b"--x\r\nbad\r\n", "multipart/form-data; boundary=x", 400),
        (b"prompt=a&prompt=b", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"a%d=b" % n for n in range(99)), "application/x-www-form-urlencoded", 400),
    ],
)  # fmt: skip
def test_bodies_that_are_none(server: Served, body: bytes, kind: str, status: int) -> None:
    answer = server.ask("POST", "/v1/videos", body, content_type=kind)
    assert answer.status == status and answer.error["message"]


TRICKS = [
    "..", "../job.json", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "..%5c..", "a" * 5000, "%00",
    "video_" + "0" * 32, "video_" + "A" * 32, "image_" + "0" * 32, "video_%00" + "0" * 31, "lock", "identity.json",
    "video_*", "%C0%AE%C0%AE", "%", "%zz", "~", "-", "con", ".", "{id}", "video_" + "0" * 32 + "%0d%0aX: y",
]  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
def test_ids_are_no_paths(server: Served, trick: str) -> None:
    for method, path in (("GET", "{}"), ("GET", "{}/content"), ("DELETE", "{}"), ("POST", "{}/remix")):
        line = f"{method} /v1/videos/{path.format(trick)} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        found = server.raw(line.encode())
        assert re.match(rb"HTTP/1.1 (404|405|400) ", found), found[:200]
        assert b"passwd" not in found and b"root:" not in found and str(server.folder).encode() not in found
    assert (server.folder / "lock").exists()


def test_no_words_about_this_machine() -> None:
    said = "anchor /home/me/.local/share/x/reference.png has 2 frames; see ../a/b.txt, C:\\Users\\me\\c.png or ~/d/e"
    assert public(said) == "anchor reference.png has 2 frames; see b.txt, c.png or e"
    for fine in ("1/2 of and/or", "http://localhost:1/v1 fails", "as 1280x720 / 24 fps", "a / b"):
        assert public(fine) == fine


def test_other_addresses_and_methods(server: Served) -> None:
    for method, path, status in (("GET", "/v2", 404), ("PUT", "/v1/videos", 405), ("GET", "/v1/videos/", 404),
                                 ("POST", "/healthz", 405), ("GET", "/page.html", 404)):  # fmt: skip
        answer = server.ask(method, path)
        assert answer.status == status and answer.error["type"] == "invalid_request_error"


# ---- who may ask ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:1"}, 200), ({"host": "127.0.0.1"}, 200), ({"host": "[::1]:80"}, 200),
        ({"host": "evil.example"}, 403), ({"host": "localhost.evil.example"}, 403), ({"host": ""}, 403),
        ({"host": "127.0.0.1.evil.example:8000"}, 403), ({"host": "localhost@evil.example"}, 403),
        ({"host": "192.168.0.7"}, 403), ({"host": "[::1"}, 403), ({"host": "0.0.0.0"}, 403),
        ({"host": "localhost:1", "origin": "http://localhost:1"}, 200), ({"origin": "http://localhost:1"}, 403),
        ({"origin": "null"}, 403), ({"origin": "https://evil.example"}, 403), ({"origin": "http://[::1"}, 403),
        ({"sec_fetch_site": "same-origin"}, 200), ({"sec_fetch_site": "none"}, 200),
        ({"sec_fetch_site": "cross-site"}, 403), ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, 403),
    ],
)  # fmt: skip
def test_pages_of_strangers_are_not_answered(server: Served, headers: dict[str, str], status: int) -> None:
    assert server.ask("GET", "/v1/videos", **headers).status == status


def test_a_link_to_the_page_may_be_followed(server: Served) -> None:
    assert server.ask("GET", "/", sec_fetch_site="cross-site", sec_fetch_mode="navigate").status == 200
    assert server.ask("GET", "/", sec_fetch_site="cross-site", sec_fetch_mode="no-cors").status == 403


def test_a_token_is_asked_for_before_anything_is_read(tmp_path: Path) -> None:
    with served(tmp_path / "kept", token=TOKEN) as server:
        wrong = ("", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer \xe9\xff",
                 f"Bearer {TOKEN.upper()}", "Bearer " + "x" * 9000)  # fmt: skip
        for given in wrong:
            for method, path in (("GET", "/v1/videos"), ("POST", "/v1/videos"), ("GET", "/none")):
                answer = server.ask(method, path, authorization=given)
                assert (answer.status, answer.error["code"]) == (401, "invalid_api_key"), given
        assert server.ask("POST", "/v1/videos", b"x" * 2_000_000, authorization="Bearer x").status == 401
        assert server.ask("GET", "/healthz", authorization="").status == 200
        assert b"token" in server.ask("GET", "/", authorization="").body
        assert server.ask("GET", "/v1/videos", host="video.example.org", origin="https://a.example").status == 200
        video = server.client.videos.create_and_poll(prompt="a cat", poll_interval_ms=20, **SMALL)  # type: ignore[arg-type]
        link = video.model_extra["url"].split(str(server.port))[1]  # type: ignore[index]
        assert server.ask("GET", link, authorization="").body == server.client.videos.download_content(video.id).read()
        thumbnail = server.ask("GET", f"{link}&variant=thumbnail", authorization="")
        assert thumbnail.headers["content-type"] == "image/webp"
        changed = link.replace("expires=", "expires=9"), link[:-1], link.replace("/content", ""), link.split("?")[0]
        for other in (*changed, re.sub("video_[0-9a-f]+", "video_" + "0" * 32, link)):
            assert server.ask("GET", other, authorization="").status == 401
        assert server.ask("DELETE", link.replace("/content", ""), authorization="").status == 401


def test_links_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(TOKEN)
    query = gate.sign("/a")[1:]
    assert gate.signed("GET", "/a", query) and not gate.signed("POST", "/a", query)
    assert not gate.signed("GET", "/b", query) and not Gate(TOKEN + "x").signed("GET", "/a", query)
    assert not gate.signed("GET", "/a", "expires=²&signature=x") and not gate.signed("GET", "/a", "")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * 3600 + 1)
    assert not gate.signed("GET", "/a", query)


def test_nothing_listens_to_others_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                           monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    def refused(*words: str) -> str:
        assert cli.run(["serve", "--dir", str(tmp_path / "kept"), *words]) in (1, 2)
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and not (tmp_path / "kept").exists()
        return said

    for host in ("0.0.0.0", "::", "192.0.2.1"):
        assert "give a token" in refused("--host", host)
    monkeypatch.setenv("SORA_SERVE_TOKEN", "")
    assert "give a token" in refused("--host", "0.0.0.0")
    assert "give a token" in refused("--public-url", "https://video.example.org")
    assert "is not an address" in refused("--public-url", "video.example.org")
    assert "at least 16" in refused("--token", "short") and "at least 16" in refused("--token", "a b" * 9)
    file = tmp_path / "token"
    file.write_text("\n")
    assert "at least 16" in refused("--token-file", str(file))
    assert "could not read" in refused("--token-file", str(tmp_path / "none"))
    assert "keep one" in refused("--token-file", str(file), "--token", TOKEN)
    file.write_text(f"{TOKEN}\n")
    assert token_of(None, file) == TOKEN
    assert "is not an address here" in refused("--host", "no.such.host.invalid")
    assert "unknown model" in refused("--model", "none")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "--port chooses another" in refused("--port", str(taken.getsockname()[1]))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").touch()
    assert cli.run(["serve", "--dir", str(tmp_path / "mine")]) == 2
    assert "holds other files" in capsys.readouterr().err and tiny.everything(tmp_path / "mine") == ["a.txt"]
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.", "example.org", "")))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SoraError, match=r"pip install 'sora-cli\[serve\]'"):
        check_extra()


def test_models_have_names_that_tell_nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    pocket = registry.entry("pocket")
    assert served_as(["pocket"]) == {"pocket": pocket}
    assert served_as(["sora-2=pocket", "pocket"]) == {"sora-2": pocket, "pocket": pocket}
    monkeypatch.setattr("sora_cli.registry.entry", lambda name: SimpleNamespace(name=name))
    assert list(served_as(["/home/me/my-wan", "./other", "hf:owner/third", "sora-2=./a=b"])) == [
        "my-wan", "other", "third", "sora-2"]  # fmt: skip
    with pytest.raises(SoraError, match="two models are called"):
        served_as(["pocket", "pocket"])


# ---- how much, how fast -----------------------------------------------------------------------------------


def test_oversized_bodies(server: Served) -> None:
    head = b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    assert b" 413 " in server.raw(head + b"Content-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n")[:20]
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    assert b" 413 " in server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n", chunk * 20, b"0\r\n\r\n")[:20]
    with pytest.raises(openai.APIStatusError) as told:
        server.client.videos.create(prompt="a cat", input_reference=("a.png", picture() + b"\0" * 1_500_000))
    assert told.value.status_code == 413 and told.value.code == "too_large"
    assert server.ask("POST", "/v1/videos", {"prompt": "a" * 999_999}).status in (400, 413)
    both = server.raw(head + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n")
    assert both.count(b"HTTP/1.1 ") == 1  # nothing is smuggled in


def test_slow_senders_are_let_go(tmp_path: Path) -> None:
    with served(tmp_path / "kept", "--timeout", "0.3") as server:
        assert server.raw() == b""  # says nothing
        with socket.create_connection(("127.0.0.1", server.port)) as connection, pytest.raises(OSError):
            for letter in b"GET / HTTP/1.1\r\nX: " + b"a" * 1000:
                connection.sendall(bytes([letter]))
                time.sleep(0.01)
        head = b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        assert b" 408 " in server.raw(head + b"Content-Length: 9\r\n\r\n{")[:20]
        assert server.ask("GET", "/healthz").status == 200
        id = json.loads(server.ask("POST", "/v1/videos", PLAIN).body)["id"]
        server.wait(id)
        (server.folder / id / "result.mp4").write_bytes(b"\0" * 30_000_000)
        with socket.socket() as connection:  # reads nothing
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(f"GET /v1/videos/{id}/content HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            while not server.connections:
                time.sleep(0.01)
            while server.connections:
                time.sleep(0.01)
            count = 0
            with contextlib.suppress(ConnectionResetError):
                while more := connection.recv(1 << 20):
                    count += len(more)
        assert count < 30_000_000


def test_too_many_connections(tmp_path: Path) -> None:
    with served(tmp_path / "kept", "--max-connections", "4") as server, contextlib.ExitStack() as idle:
        for _ in range(4):
            idle.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        assert server.ask("GET", "/healthz").status == 503
        for _ in range(4):
            idle.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        assert server.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
        idle.close()
        while server.ask("GET", "/healthz").status != 200:
            time.sleep(0.01)


def test_a_full_queue_and_a_deleted_job(tmp_path: Path, held: threading.Event) -> None:
    with served(tmp_path / "kept", "--max-queue", "2") as server:
        first = server.client.videos.create(prompt="a cat", **SMALL).id  # type: ignore[arg-type]
        while json.loads(server.ask("GET", f"/v1/videos/{first}").body)["status"] == "queued":
            time.sleep(0.01)
        waiting = [server.client.videos.create(prompt="a cat", **SMALL).id for _ in range(2)]  # type: ignore[arg-type]
        full = server.ask("POST", "/v1/videos", PLAIN)
        assert (full.status, full.error["code"]) == (429, "queue_full") and 1 <= int(full.headers["retry-after"]) <= 60
        assert server.ask("POST", "/v1/images/generations", {"prompt": "a cat"}).status == 429
        assert server.ask("GET", f"/v1/videos/{waiting[1]}/content").error["code"] == "not_ready"
        position = json.loads(server.ask("GET", f"/v1/videos/{waiting[1]}").body)["queue_position"]
        assert position == 1
        server.client.videos.delete(first)  # in mid-job
        server.client.videos.delete(waiting[0])
        held.set()
        assert server.wait(waiting[1])["status"] == "completed"
        assert [one for one in tiny.everything(server.folder) if first in one or waiting[0] in one] == []


def test_who_waits_for_an_image_and_leaves(tmp_path: Path, held: threading.Event) -> None:
    with served(tmp_path / "kept") as server:
        body = json.dumps({"prompt": "a cat", "size": "64x64"}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                               b"application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))  # fmt: skip
            while not any(server.folder.glob("image_*/job.json")):
                time.sleep(0.01)
        while any(server.folder.glob("image_*")):
            time.sleep(0.01)


def test_old_results_make_room(tmp_path: Path) -> None:
    with served(tmp_path / "kept", "--keep", "2") as server:
        made = [server.client.videos.create_and_poll(prompt="a", poll_interval_ms=20, **SMALL).id  # type: ignore[arg-type]
                for _ in range(4)]  # fmt: skip
        assert [one.id for one in server.client.videos.list()] == [made[3], made[2]]
        assert len(list(server.folder.glob("video_*"))) == 2
