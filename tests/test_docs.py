"""Every command that README, docs, examples and our own messages name is one: verbs, options and values are those of
the command line, and scripts and targets of make are there. What README types in a row is not in its own way."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from sora_cli.cli import app
from sora_cli.cli.outputs import slug

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = sorted((ROOT / "examples").glob("*.sh"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
CALL = re.compile(r"(?:\bsora-cli|-m sora_cli|\$SORA) +(?=[a-z-])(?!ffmpeg})(.+)")
OTHERS = {  # options of other programs, by who has them
    "torchrun": {"--nproc-per-node", "--max-restarts"},
    "ray": {"--num-gpus", "--num-cpus", "--head"},
    "sbatch": {"--requeue", "--array"},
    "Midjourney": {"--ar"},
}
ROOT_COMMAND = typer.main.get_command(app)


def words_of(line: str) -> list[str]:
    """The words of one command at the beginning of a line of a shell, without a comment and what follows a pipe."""
    lexer = shlex.shlex(re.sub(r"\s#.*", "", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    try:
        for word in lexer:
            if set(word) <= set("|&;<>()"):
                break
            words.append(word)
    except ValueError:  # inside of somebody else's quotes, which end here
        return words_of(line[: max(line.rfind("'"), line.rfind('"'))])
    return words


def calls(text: str) -> Iterator[str]:
    for line in text.replace("\\\n", " ").splitlines():
        for match in CALL.finditer(line):
            yield match[1]


def settled(script: Path) -> str:
    """A script with the values that its settings have by default; numbers that it computes are 1."""
    text = script.read_text()
    for name, value in re.findall(r"\b([A-Z_]+)=\$\{\1:-([^}]*)\}", text):
        text = text.replace(f"${name}", value)
    return re.sub(r"\$\(\(.*?\)\)", "1", text)


def blocks(page: Path) -> str:
    """All that a page shows in blocks, of whatever language."""
    return "\n".join(text for _, text in BLOCK.findall(page.read_text()))


def spans(page: Path) -> list[str]:
    """What stands in backticks between the words of a page."""
    return re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text()))


def parse(line: str, whole: bool = True) -> None:
    """What the command line makes of a line, short of the work; click's usage error for what it refuses. Of a mere
    mention, which is not `whole`, the verb and the names of its options count."""
    words: list[str] = words_of(line)
    command: Any = ROOT_COMMAND
    parents: Any = None
    while getattr(command, "commands", None) and words and not words[0].startswith("-"):
        context = command.context_class(command, info_name=command.name, parent=parents)
        name, found, words = command.resolve_command(context, words)
        command, parents = found, context
    if whole:
        command.make_context(command.name, words, parent=parents)
        return
    known = names_of(command)
    for word in words:
        if re.match(r"--?[a-zA-Z]", word) and word.partition("=")[0] not in known:
            raise LookupError(f"{command.name} has no {word}")


def names_of(command: Any) -> set[str]:
    """All names of a command's options."""
    parameters = command.get_params(command.context_class(command))
    return {name for one in parameters for name in (*one.opts, *one.secondary_opts)}


CASES = [pytest.param(line, True, id=f"{page.name}: {line[:70]}") for page in PAGES for line in calls(blocks(page))]
CASES += [pytest.param(line, True, id=f"{script.name}: {line[:70]}") for script in SCRIPTS
          for line in calls(settled(script))]  # fmt: skip
CASES += [pytest.param(span.removeprefix("sora-cli "), False, id=f"{page.name}: `{span[:70]}`") for page in PAGES
          for span in spans(page) if span.startswith("sora-cli ")]  # fmt: skip
CASES += [pytest.param(re.sub(r"\{.*?\}", "X", span), False, id=f"{code.name}: `{span[:60]}`")
          for code in sorted((ROOT / "sora_cli").rglob("*.py"))
          for span in re.findall(r"`sora-cli ([^`\n]+)`", code.read_text())]  # fmt: skip


@pytest.mark.parametrize(("line", "whole"), CASES)
def test_every_command_is_one(line: str, whole: bool) -> None:
    if line.startswith("ffmpeg ") and whole:
        return  # whose words are its own
    parse(line, whole)


def test_this_test_can_fail() -> None:
    for line in ("generate x --no-such-option", "genrate x", "weights fetch x", "generate x --device tpu",
                 "generate x --count many", "extend", "train dit --shards"):  # fmt: skip
        with pytest.raises(Exception, match=r".") as caught:
            parse(line)
        assert hasattr(caught.value, "format_message"), line
    with pytest.raises(LookupError, match="generate has no --flavour"):
        parse("generate --flavour", whole=False)
    assert words_of("batch a --shard {}/4' ::: 1 2") == ["batch", "a", "--shard", "{}/4"]
    assert words_of('generate "a b" --expand http://x/v1#q -o - | ffplay -  # it plays') == [
        "generate", "a b", "--expand", "http://x/v1#q", "-o", "-"]  # fmt: skip
    assert len(CASES) > 150


def options() -> set[str]:
    """All options of all commands."""
    found: set[str] = set()
    commands: list[Any] = [ROOT_COMMAND]
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        found |= names_of(command)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_and_script_that_a_page_mentions_is_there(page: Path) -> None:
    scripts = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "scripts").glob("*.py")]
    known = options().union(*OTHERS.values(), *(re.findall(r'"(--[a-z-]+)"', script.read_text()) for script in scripts))
    for span in spans(page):
        if span.startswith("--"):
            assert re.split(r"[ =]", span)[0] in known, span
    text = page.read_text()
    for script, words in re.findall(r"python ((?:benchmarks|scripts)/\w+\.py)([^`\n#]*)", text):
        code = (ROOT / script).read_text()
        for option in re.findall(r"--[a-z][a-z-]*", words):
            assert option in code, f"{option} in: python {script}{words}"
    makefile = (ROOT / "Makefile").read_text()
    for target, settings in re.findall(r"(?:^|`)make ([a-z]+)((?: [A-Z]+=\S+)*)", text, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
        for name in re.findall(r"([A-Z]+)=", settings):
            assert re.search(rf"^{name} \?=", makefile, re.M), name


def row_of(page: Path) -> list[str]:
    """What a reader types in a row: all of README, and a block of another page."""
    texts = [text for _, text in BLOCK.findall(page.read_text())]
    return ["\n".join(texts)] if page.parent == ROOT else texts


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_what_is_typed_in_a_row_is_not_in_its_own_way(page: Path) -> None:
    """Each output has a name that no earlier one has, unless it is overwritten or continued on purpose."""
    for text in row_of(page):
        written: dict[str, str] = {}
        for line in calls(text):
            words = words_of(line)
            makes = words[0] in ("generate", "loop", "extend", "reverse", "encode", "decode")
            if not makes or {"--dry-run", "--force", "--resume"} & set(words):
                continue
            name = words[words.index("-o") + 1] if "-o" in words else {
                "generate": f"{slug(words[1])}.mp4", "loop": f"{Path(words[1]).stem}-loop.mp4",
                "extend": f"{Path(words[1]).stem}-extended.mp4", "reverse": f"{Path(words[1]).stem}-reverse.mp4",
            }[words[0]]  # fmt: skip
            assert name == "-" or name not in written, f"{line} and {written[name]} both write {name}"
            written[name] = line
