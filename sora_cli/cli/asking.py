"""From a line of a list to a job, through the verb's own command: options have the names, types and refusals that they
have on the command line. No torch."""

import difflib
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import typer

from sora_cli.cli import seeds
from sora_cli.cli.jobs import Job
from sora_cli.cli.lines import Line, plain
from sora_cli.cli.outputs import FIELDS, slug
from sora_cli.errors import SoraError
from sora_cli.media import STREAM

WHOLE = ("quiet", "debug", "preview", "dry_run", "as_json")  # options of all jobs together
LENGTHS = {"seconds": "frames", "frames": "seconds"}  # of which one is enough
SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(eq=False)
class Item:
    """A job of a batch and the line that asks for it."""

    line: Line
    job: Job

    @property
    def name(self) -> str:
        return self.job.target.name

    def shard(self, shards: int) -> int:
        """Which of `shards` it belongs to; only the name of its output decides, not the rest of the list."""
        digest = hashlib.sha256(self.name.encode(errors="surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % shards

    def again(self, error: str) -> dict[str, Any]:
        """The job as a line of a list, and why it failed."""
        asked = self.job.target.asked
        wished = {plain(name): value for name, value in self.line.options.items()}
        wished = {name: value for name, value in wished.items() if name not in ("o", "n", "count")}  # this one alone
        fixed = {"seed": asked["shot"]["seed"]} if "shot" in asked else {}
        fixed |= {"count": 1} if asked["verb"] == "generate" else {}
        more = {"verb": asked["verb"], "output": self.name, "line": self.line.number, "error": error}
        return wished | fixed | more


class Verb:
    """A command, its parameters by all their names, and their defaults."""

    def __init__(self, name: str, command: Any, parent: typer.Context) -> None:
        self.name, self.command, self.parent = name, command, parent
        self.names = {plain(word): parameter for parameter in command.params
                      for word in (*parameter.opts, *parameter.secondary_opts, parameter.name)}  # fmt: skip
        self.arguments = [one for one in command.params if one.param_type_name == "argument"]
        self.needed = [one for one in self.arguments if one.required]
        if self.arguments[0].name != "prompt":
            self.names["input"] = self.arguments[0]
        self.default_context = self.context()
        for parameter in command.params:
            if parameter not in self.needed:
                parameter.handle_parse_result(self.default_context, {}, [])

    def context(self) -> typer.Context:
        return type(self.parent)(self.command, parent=self.parent.parent, info_name=self.name)

    @cached_property
    def many(self) -> list[str]:
        """The names of options that may be given several times."""
        return [name for name, parameter in self.names.items() if getattr(parameter, "multiple", False)]

    def values(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters' values as command-line strings, by their own names; SoraError for unknown options."""
        found: dict[str, Any] = {}
        for written, value in options.items():
            name = plain(written)
            if value is None:
                continue
            if name not in self.names:
                near = difflib.get_close_matches(name, self.names, 1)
                hint = f"did you mean {near[0]}?" if near else f"its options: {', '.join(sorted(self.own))}"
                raise SoraError(f"{self.name} has no option {written[:40]!a}; {hint}")
            parameter = self.names[name]
            if parameter.name in WHOLE:
                raise SoraError(f"{written} is for all jobs; give it to `batch` itself")
            if parameter.name in found:
                raise SoraError(f"{written} is given twice, as {name} and by another name")
            found[parameter.name] = value_of(parameter, written, value)
        return found

    @property
    def own(self) -> set[str]:
        """The options that a line of a list may use."""
        return {one.name for one in self.command.params} - {*WHOLE, "help"}

    def jobs(self, values: Mapping[str, Any]) -> list[Job]:
        """The jobs that a command line of these values asks for; SoraError or a usage error of click's otherwise."""
        context = self.context()
        context.params = dict(self.default_context.params)
        for parameter in self.command.params:
            if parameter.name in values or parameter in self.needed:
                parameter.handle_parse_result(context, values, [])
        return self.command.invoke(context)


def value_of(parameter: Any, written: str, value: Any) -> Any:
    """A JSON value as the string(s) that the command-line parser would get."""
    if getattr(parameter, "is_flag", False):
        on = SWITCH.get(str(value).strip().lower())
        if on is None:
            raise SoraError(f"{written} is {value!a}; it must be on or off, true or false")
        off = any(plain(word) == plain(written) for word in parameter.secondary_opts)
        return on is not off
    if getattr(parameter, "multiple", False):
        return [text_of(written, item) for item in (value if isinstance(value, list) else [value])]
    return text_of(written, value)


def text_of(written: str, value: Any) -> str:
    if isinstance(value, list):
        raise SoraError(f"{written} takes one value, not a list; --expand-grid makes a job of each value")
    if isinstance(value, bool | dict) or (isinstance(value, float) and not math.isfinite(value)):
        raise SoraError(f"{written} is {json.dumps(value)[:40]}; it must be a string or a number")
    return str(value)


@dataclass
class Asking:
    """Turns lines into jobs; `defaults` apply unless a line says otherwise, `preview` applies to all jobs."""

    verbs: Mapping[str, Verb]
    verb: str
    defaults: Mapping[str, Any]
    preview: bool = False
    drawn: Counter[str] = field(default_factory=Counter)  # seeds of jobs that are asked alike
    used: set[str] = field(default_factory=set)  # defaults that a verb has an option for

    def jobs(self, line: Line) -> list[Job]:
        """What a line asks for; SoraError or click's usage error otherwise."""
        if line.wrong:
            raise SoraError(line.wrong)
        wished = {name: value for name, value in line.options.items() if name not in ("verb", "line", "error")}
        verb = self.verbs.get(str(line.options.get("verb") or self.verb))
        if verb is None:
            raise SoraError(f"unknown verb {line.options['verb']!a}; choose one of {', '.join(self.verbs)}")
        values = self.merged(verb, verb.values(wished))
        if values.get(verb.arguments[0].name) == STREAM:
            raise SoraError("a job of a batch cannot read standard input; give a file instead of -")
        if "output" in values:
            number = line.options.get("line", line.number)
            values["output"] = filled(verb.name, values, number, verb.arguments[0].name)
        return [whole(job, self.preview) for job in verb.jobs(values)]

    def merged(self, verb: Verb, wished: dict[str, Any]) -> dict[str, Any]:
        """The line's options with the defaults that the verb knows, and a number in place of a `random` seed."""
        defaults = {name: value for name, value in self.defaults.items() if name in verb.own}
        self.used |= defaults.keys()
        values = {name: value for name, value in defaults.items() if LENGTHS.get(name) not in wished} | wished
        first = verb.arguments[0].name
        if verb.name == "loop" and first not in values and "prompt" in values:
            values[first] = values.pop("prompt")  # as it stands on the command line, where it is alone
        if values.get("seed") in seeds.RANDOM:
            values["seed"] = self.seed(verb, values)
        return values

    def seed(self, verb: Verb, values: Mapping[str, Any]) -> str:
        """A seed for a job that asks for a random one: the same at every reading, another for the same job again."""
        asked = json.dumps([verb.name, values], sort_keys=True)
        self.drawn[asked] += 1
        digest = hashlib.sha256(f"{asked} {self.drawn[asked]}".encode()).digest()
        return str(int.from_bytes(digest[:8], "big") % seeds.DRAWN)


def filled(verb: str, values: Mapping[str, Any], line: Any, source: str) -> str:
    """The output's name with its fields: {line}, {input}, and options that are given. `generate` fills in its own."""
    fields = {name: slug(str(value)) for name, value in values.items() if name != "output"}
    fields |= {"line": str(line), "seed": str(values.get("seed", 0))}
    fields["prompt"] = slug(values.get("prompt", values.get(source, "")))
    if source in values:
        fields["input"] = slug(Path(values[source]).stem)
    if verb == "generate":
        fields |= {name: f"{{{name}}}" for name in FIELDS}

    def field(match: re.Match[str]) -> str:
        if match[1] not in fields:
            raise SoraError(f"unknown {{{match[1]}}} in the output; use {{line}}, {{input}} or a given option")
        return fields[match[1]]

    return re.sub(r"\{(.*?)\}", field, values["output"])


def whole(job: Job, preview: bool = False) -> Job:
    """A job as part of a batch, which resumes where it stopped. SoraError for a pipe, which cannot resume."""
    if job.target.stream:
        raise SoraError("a job of a batch cannot write to standard output; give a file instead of -")
    target = replace(job.target, resume=True, as_json=False)
    return replace(job, target=target, showing=replace(job.showing, preview=preview))


def words(error: Exception) -> str:
    """What is wrong, on one line."""
    said = error.format_message() if hasattr(error, "format_message") else str(error) or type(error).__name__
    return " ".join(said.split())
