"""Servers of language models: how long and with what they are asked, and what of their answers is a sentence."""

import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.utils import close_session

from sora_cli.errors import Failed, SoraError
from sora_cli.prompts.llm import KEY, TIMEOUT, Server, answers, client, sentence, wording
from sora_cli.prompts.llm.client import OPENAI_KEY, key_for, pause_of

ASKED = [{"role": "user", "content": "?"}]


def chat(content: Any, finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}]}


class Fake(ThreadingHTTPServer):
    """Answers with one (status, headers, body) after the other, the last of them for good; `seen` is what it got."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.answers: list[tuple[int, dict[str, str], Any]] = []
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.over = threading.Event()
        self.server = Server(f"http://127.0.0.1:{self.server_port}/v1", "m", 5)

    def say(self, *answers: Any) -> Server:
        self.answers = [one if isinstance(one, tuple) else (200, {}, one) for one in answers]
        return self.server


class Answering(BaseHTTPRequestHandler):
    server: Fake

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        status, headers, body = self.server.answers[0]
        del self.server.answers[: len(self.server.answers) > 1]
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"content-length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        while "drip" in headers and not self.server.over.wait(0.02):
            self.wfile.write(b" ")

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(client, "PAUSE", 0.01)
    for name in (KEY, OPENAI_KEY, TIMEOUT):
        monkeypatch.delenv(name, raising=False)
    with Fake() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.over.set()
        server.shutdown()


# ---- the client -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503, 529])
def test_a_busy_server_is_asked_again_when_it_wants_to_be(fake: Fake, status: int) -> None:
    busy = (status, {"retry-after": "0.02"}, {"error": {"message": "Loading model"}})
    assert fake.say(*[busy] * 5, chat("A dog.")).answer(ASKED, 9) == "A dog." and len(fake.seen) == 6


def test_a_broken_one_is_asked_a_few_times(fake: Fake) -> None:
    assert fake.say((500, {}, {"error": "CUDA out of memory"}), chat("A dog.")).answer(ASKED, 9) == "A dog."
    with pytest.raises(Failed, match=r"answers 502 \(Bad gateway\)"):
        fake.say((502, {}, b"Bad gateway\nmore")).answer(ASKED, 9)
    assert len(fake.seen) == 2 + client.TRIES


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_refusal_is_final(fake: Fake, status: int) -> None:
    with pytest.raises(Failed, match=f"answers {status} .no such model.") as told:
        fake.say((status, {}, {"error": {"message": "no such\nmodel"}})).answer(ASKED, 9)
    assert len(fake.seen) == 1 and (KEY in str(told.value)) == (status in (401, 403))


def test_nobody_waits_longer_than_patience(fake: Fake) -> None:
    with pytest.raises(Failed, match="429; busy for longer than 5 s: SORA_LLM_TIMEOUT"):
        fake.say((429, {"retry-after": "3600"}, b"")).answer(ASKED, 9)
    late = Server(fake.server.url, "m", 0.3)
    fake.say((200, {"content-length": "99999", "drip": "yes"}, b"{"))
    with pytest.raises(Failed, match=r"does not answer within 0\.3 s; SORA_LLM_TIMEOUT"):
        late.answer(ASKED, 9)
    assert len(fake.seen) == 2


def test_when_a_server_is_asked_again() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert pause_of("7", 1) == 7 and 90 < pause_of(soon, 1) <= 100 and pause_of("-1", 1) == 0
    assert [pause_of(text, tries) for text in ("", "soon", "inf", "nan") for tries in (1, 3)] == [1, 4] * 4
    assert pause_of("", 50) == client.LONGEST_PAUSE


@pytest.mark.parametrize("where", ["http://localhost:{port}/v1/chat/completions", "https://127.0.0.1:{port}/v1",
                                   "//evil.example/v1", "/elsewhere"])  # fmt: skip
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_nothing_is_sent_on(fake: Fake, where: str, status: int) -> None:
    with pytest.raises(Failed, match=r"redirects to http.*; give that address to use it"):
        fake.say((status, {"location": where.format(port=fake.server_port)}, b"")).answer(ASKED, 9)
    assert len(fake.seen) == 1


@pytest.mark.parametrize("where", ["http://[", "//[x/", "http://[v1.x"])
def test_a_redirect_to_no_address_is_one_line(fake: Fake, where: str) -> None:
    with pytest.raises(Failed, match="does not speak OpenAI's protocol"):
        fake.say((302, {"location": where}, b"")).answer(ASKED, 9)
    with pytest.raises(Failed, match=r"answers 304$"):
        fake.say((304, {}, b"")).answer(ASKED, 9)


@pytest.fixture
def proxied(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Asked through the fake server as a proxy, with the client's session made anew."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{fake.server_port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    close_session()
    yield
    close_session()


def test_a_key_goes_to_no_proxy_that_could_read_it(fake: Fake, proxied: None, monkeypatch: pytest.MonkeyPatch) -> None:
    far = Server("http://llm.invalid/v1", "m", 2)
    fake.say(chat("A dog."))
    assert far.answer(ASKED, 9) == "A dog."
    assert fake.seen[-1][0] == "http://llm.invalid/v1/chat/completions", "a proxy is used where there is no key"
    monkeypatch.setenv(KEY, "mine")
    with pytest.raises(Failed, match=r"llm\.invalid/v1 cannot be reached"):
        far.answer(ASKED, 9)
    assert fake.server.answer(ASKED, 9) == "A dog." and len(fake.seen) == 2
    assert fake.seen[-1] == ("/v1/chat/completions", fake.seen[-1][1] | {"authorization": "Bearer mine"})


@pytest.mark.parametrize("proxy", ["foo://bar", "http://[::1", "http://\u00fc\udc80"])
def test_a_proxy_that_is_none_is_one_line(fake: Fake, proxied: None, proxy: str,
                                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy)
    with pytest.raises(SoraError, match=r"a proxy or the certificates cannot be used .*; check HTTP_PROXY"):
        fake.server.answer(ASKED, 9)


def test_a_key_goes_where_it_belongs(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.say(chat("A dog.")).answer(ASKED, 9)
    assert "authorization" not in fake.seen[-1][1]
    monkeypatch.setenv(OPENAI_KEY, "sk-mine")
    fake.server.answer(ASKED, 9)
    assert not {"sk-mine", "hf_secret"} & set(" ".join(fake.seen[-1][1].values()).split())
    monkeypatch.setenv(KEY, " other\n")
    fake.server.answer(ASKED, 9)
    assert fake.seen[-1][1]["authorization"] == "Bearer other"
    assert [key_for(url) for url in ("https://api.openai.com/v1", "https://api.openai.com:443/v1")] == ["sk-mine"] * 2
    for url in ("http://api.openai.com/v1", "https://api.openai.com.evil.org/v1", "https://api.openai.com:8443/v1",
                "https://evil.org/api.openai.com", "http://gpu-box:8000/v1"):  # fmt: skip
        assert key_for(url) == "other"
    monkeypatch.setenv(KEY, "sch\u00fcssel")
    with pytest.raises(SoraError, match=f"{KEY} contains characters that no key can have"):
        fake.server.answer(ASKED, 9)


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TIMEOUT, raising=False)
    for text in ("http://a:1", "http://a:1/", "http://a:1/v1", "http://a:1/v1/chat/completions", "http://a:1/v1/#m"):
        assert Server.at(text).url == "http://a:1/v1"
    assert Server.at("https://a/openai/v1beta").url == "https://a/openai/v1beta"
    assert Server.at("http://a/v1#org/b%20c") == Server("http://a/v1", "org/b c", client.PATIENCE)
    monkeypatch.setenv(TIMEOUT, "240")
    assert Server.at("http://a").patience == 240 and Server.at("http://a", patience=3).patience == 3
    for text in ("soon", "-1", "0", "nan", "inf"):
        monkeypatch.setenv(TIMEOUT, text)
        with pytest.raises(SoraError, match="must be a number of seconds"):
            Server.at("http://a")
    for text in ("", "a:80", "ftp://a", "http://", "http://a b", "http://a:0x", "http://a\x1b", "http://ä",
                 "http://a..b", "http://...", f"http://{'a' * 64}", "http://[v1.x]", "http://[::1"):  # fmt: skip
        with pytest.raises(SoraError, match="is not an address"):
            Server.at(text)


PARTS = [
    ("A dog.", "A dog."),
    ([{"type": "text", "text": "A "}, {"type": "text", "text": "dog."}], "A dog."),
    ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "A dog."}],
     "A dog."),
    ([{"type": "output_text", "text": "A dog."}], "A dog."),
    (["A dog."], "A dog."),
]


@pytest.mark.parametrize(("content", "text"), PARTS)
def test_an_answer_is_a_text_or_its_parts(fake: Fake, content: Any, text: str) -> None:
    assert fake.say(chat(content)).answer(ASKED, 9) == text


@pytest.mark.parametrize("body", [
    b"<html>", b"", b"[]", b"5", b'{"choices": []}', b'{"choices": 5}', b'{"choices": [{"message": {}}]}', b"[" * 9999,
    chat(5), chat([{"type": "image_url"}]), chat({"text": "x"}), chat([5]), chat([{"type": "text", "text": 5}]),
    chat(True),
    b"x" * 5_000_000,
])  # fmt: skip
def test_what_is_no_answer_is_told_in_one_line(fake: Fake, body: Any) -> None:
    with pytest.raises(Failed, match="does not speak OpenAI's protocol") as told:
        fake.say(body).answer(ASKED, 9)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("body", "line"), [
    ({"error": {"message": "no\x1b[2J memory", "code": 1}}, r"answers with an error \(no\[2J memory\)"),
    (chat("A dog and", "length"), 'cut off: "A dog and"'), (chat("A dog", "content_filter"), "refusal"),
    (chat(None, refusal="That is not for me."), "refusal"), (chat(None), "nothing"),
    (chat(None, tool_calls=[{"id": 1}]), "nothing"),
])  # fmt: skip
def test_other_ways_to_say_nothing(fake: Fake, body: Any, line: str) -> None:
    with pytest.raises(Failed, match=line):
        fake.say(body).answer(ASKED, 9)


def test_the_first_model_of_a_server(fake: Fake) -> None:
    nobody = Server(fake.server.url, "", 5)
    fake.say({"data": [{"id": "a"}, {"id": "b"}]})
    assert nobody.first().model == "a" and fake.server.first() is fake.server
    for body, line in (({"data": []}, "serves no model"), ({"data": 5}, "protocol"), ({"data": [5]}, "protocol")):
        fake.say(body)
        with pytest.raises(SoraError, match=line):
            nobody.first()


# ---- answers --------------------------------------------------------------------------------------------------

DOG = "A dog runs."
WRAPPED = [
    DOG, f'"{DOG}"', f"“{DOG}”", f"«{DOG}»", f"\n {DOG}\n", f"**{DOG}**", f"- {DOG}", f"1. {DOG}", f"> {DOG}",
    f"<think>hm</think>\n{DOG}", f"hm, a cat?\n</think>\n\n{DOG}", f"{DOG}<think>good", f"<thinking>a</thinking>{DOG}",
    f"[THINK]a[/THINK]{DOG}", f"◁think▷a◁/think▷{DOG}", f"<|begin_of_thought|>a<|end_of_thought|>{DOG}",
    f"<seed:think>a</seed:think>{DOG}", f"<reasoning>a</reasoning><answer>{DOG}</answer>",
    f"<unused94>thought a<unused95>{DOG}",
    f"<|channel|>analysis<|message|>We need<|end|><|start|>assistant<|channel|>final<|message|>{DOG}<|return|>",
    f"<|channel|>final<|message|>{DOG}", f"analysisWe need one.assistantfinal{DOG}",
    f"<|channel>thought\na<channel|>{DOG}",
    f"{DOG}<|im_end|>\n<|im_start|>user\nAnd now?", f"<s> {DOG}</s>", f"<|im_start|>assistant\n{DOG}",
    f"{DOG}<end_of_turn>",
    f"Sure! Here is a caption:\n\n{DOG}", f"Sure, here's the caption: {DOG}", f"Certainly: {DOG}",
    f"**Caption:** {DOG}",
    f"Here\u2019s a one-sentence description of the video: “{DOG}”", f"Description: {DOG}", f"The answer is: {DOG}",
    f"{DOG}\n\nLet me know if you want another!", f"{DOG} I hope this helps.", f"{DOG}\n(Note: 3 words)",
    f"```\n{DOG}\n```", f'```json\n{{"caption": "{DOG}"}}\n```', f"Here it is:\n```text\n{DOG}\n```\nEnjoy!",
    f'{{"description": {{"text": "{DOG}"}}}}', f'["{DOG}"]', f'{{"whatever": "{DOG}"}}',
    "A dog\u202e runs.\u2066", "A dog\x1b[31m runs\x1b[0m.", "A \x9b1mdog\x1b]0;title\x07 runs.",
    "A dog \x1b]8;;http://x\x1b\\runs\x1b]8;;\x1b\\.", "A dog\x90q sixels\x9c runs.",
    f"Here's what I came up with: {DOG}", f"Here is your rewritten scene: {DOG}", f"Here is one more:\n{DOG}",
    "A\u200b dog\ufeff runs.\x00",
]  # fmt: skip
SAID = [
    "a small boat moving left slow, ocean, camera zoom in", "a dog shaking fast, sky, camera zoom out, left side, low",
    "A man holds a sign that reads \"I can't help you\" in the rain.", "A sorry-looking dog walks away.",
    "Afraid of the dark, a child hides.", "Unable to fly, a penguin walks.", "The image shows a cat.",
    "Very, very small.",
    "A family 👨\u200d👩\u200d👧 walks.", "Кот на доске.", "A woman asks \"why?\" and leaves.",
    "Up and down and up and down goes it.",
    "The user interface of a phone lights up.", "A robot says that it will not stop.",
    "A queue of people, so long that it ends nowhere.", "Here is a small dog: it runs.",
    "Here are two boys with a red kite: one holds it.", "This is the sea: it glitters.", "Voici un chien : il court.",
]  # fmt: skip


BESIDE = [  # @ is the answer
    'Thinking...\nWe need a caption. A cat?\n...done thinking.\n\n@',
    'assistant: @',
    'Assistant: @',
    'ASSISTANT:\n@',
    'Hier ist die Beschreibung: @',
    'Hier ist eine kurze Beschreibung des Bildes:\n\n@',
    'Voici la description : @',
    'Bien sûr ! Voici une légende :\n@',
    'Aquí está la descripción: @',
    '¡Claro! Aquí tienes una descripción:\n@',
    'Ecco la descrizione: @',
    'Claro! Aqui está a legenda: @',
    'Beschreibung: @',
    'Légende : @',
    'Описание: @',
    'Вот описание: @',
    '描述：@',
    '以下是图片的描述：\n@',
    '以下は画像の説明です：\n@',
    '다음은 설명입니다:\n@',
    '\\boxed{@}',
    '$\\boxed{\\text{@}}$',
    'The answer is \\boxed{@}',
    '### Reasoning\nThere is a cat? no.\n\n### Caption\n@',
    '**Reasoning:** A cat? No.\n\n**Caption:** @',
    '## Analysis\n- grass\n- dog\n\n## Final Answer\n@',
    'Reasoning: it is a dog.\nCaption: @',
    '1. **Analysis**: a dog\n2. **Caption**: @',
    'Natürlich! Hier ist die Bildbeschreibung: @',
    'Oto opis: @',
    'Hier is de beschrijving: @',
]  # fmt: skip
LISTS = Path(__file__).parent / "data"


@pytest.mark.parametrize("text", (LISTS / "captions.txt").read_text(encoding="utf-8").splitlines())
def test_fair_captions_in_many_languages_pass(text: str) -> None:
    assert sentence(text, "stop", "it") == text


@pytest.mark.parametrize("answer", (LISTS / "no_captions.txt").read_text(encoding="utf-8").splitlines())
def test_what_tells_of_the_talk_and_not_of_the_picture_is_none(answer: str) -> None:
    with pytest.raises(Failed, match="it answers"):
        sentence(answer, "stop", "it")


@pytest.mark.parametrize("answer", BESIDE)
def test_words_beside_an_answer_in_many_languages_are_left_out(answer: str) -> None:
    assert sentence(answer.replace("@", DOG), "stop", "it") == DOG


@pytest.mark.parametrize("answer", WRAPPED)
def test_what_is_said_beside_an_answer_is_left_out(answer: str) -> None:
    assert sentence(answer, "stop", "it") == DOG


@pytest.mark.parametrize("text", SAID)
def test_what_may_be_a_caption_is_left_alone(text: str) -> None:
    assert sentence(text, "", "it") == text


NONE = {
    "nothing": ["", " \n", "<think>", "<think>a dog", "a dog</think>", "<|channel|>analysis<|message|>a dog", "\u202e"],
    "nonsense": ["...", "42", "A dog \ufffd\ufffd"],
    "its thoughts": ["Okay, the user wants a caption. A dog, perhaps.", "We need to describe it. A dog.",
                       "Let me think: a dog.",
                       "A dog. <tool_call>", "A dog <|box|>", "Hmm, the user gave six frames."],
    "a refusal": [
        "I'm sorry, but I can't help with that.", "I\u2019m sorry, but I can\u2019t.", "I`m sorry.", "Im sorry, no.",
        "Sorry!",
        "Unfortunately, I am not able to describe this.", "As an AI language model, I have no eyes.",
        "I cannot view videos.",
        "Please provide the image you would like me to describe!", "I don't see any image.",
        "It seems no image was attached.",
        "It looks like the image didn't load.", "I apologize, but the frames are too dark.", "I am just a text model.",
        "My guidelines do not allow this.", "I\u02bcm unable to identify people.",
        "I'd be happy to help! Please upload the video.",
        "Es tut mir leid, das geht nicht.", "抱歉，我无法描述这张图片。", "Lo siento, no puedo.",
        "Let me know which frames you mean.",
    ],
    "a question": ["What would you like me to caption?", "这是什么？", "Do you want a short one or a long one?"],
    "over and over": ["the boat and the boat and " * 9, "There is a dog. " * 6, "a cat, a dog, " * 4, "冲浪" * 20,
                      "a" * 60,
                      "very very very very very good"],
    "half a sentence": ["A dog and the", "A dog,", "A dog runs with", "A dog (", "Here a dog jumps over a"],
    "characters; at most": ["word " + " ".join(str(n) for n in range(600))],
}  # fmt: skip


@pytest.mark.parametrize(("fault", "answer"), [(fault, answer) for fault,
                                               answers in NONE.items() for answer in answers])
def test_what_is_no_caption_is_named(fault: str, answer: str) -> None:
    with pytest.raises(Failed, match=f"it answers with .*{fault}") as told:
        sentence(answer, "stop", "it")
    assert str(told.value).isprintable() and len(str(told.value)) < 160


def test_long_answers_take_no_time() -> None:
    """Patterns that try everything twice would take hours for these."""
    for text in ("<think>", "```", "sure, ", "a ", '"', "the image ", "{", "\n", "*a", "[a]("):
        text = text * (10_000 // len(text))
        with pytest.raises(Failed):
            sentence(text, "stop", "it")


@pytest.mark.parametrize("mark", ["<think>", "\u25c1think\u25b7", "<think>x</think>", "</think>", "</think><think>"])
def test_marks_by_the_thousand_are_read_in_one_pass(mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one search has read, no later one reads again."""
    read = 0

    def counting(pattern: re.Pattern[str]) -> Any:
        def search(text: str, at: int = 0) -> re.Match[str] | None:
            nonlocal read
            found = pattern.search(text, at)
            read += (found.end() if found else len(text)) - at
            return found

        return SimpleNamespace(search=search, split=pattern.split, match=pattern.match)

    answer = mark * 5000 + "a boat"
    for name in ("OPEN", "CLOSE"):
        monkeypatch.setattr(wording, name, counting(getattr(wording, name)))
    answers.thoughtless(answer)
    assert read <= 3 * len(answer)


def test_thoughts_are_taken_out_as_pairs() -> None:
    assert answers.thoughtless("a<think>b<think>c</think>d</think>e<thought>f</thinking>g<think>h") == (
        "ad</think>eg<think>h")
    assert answers.inside_tags("<output><answer>a boat</Answer>") == "a boat"
    assert answers.inside_tags("<answer>a") == "<answer>a"
