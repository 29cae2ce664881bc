"""What may stand in a weights.toml: its keys, the types of their values, and what must go together. No torch."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sora_cli.errors import SoraError
from sora_cli.shot import PLANS

TEXT = "umt5"  # the kind of an entry that is a text encoder for others, and no model
TINY = "tiny"  # the kind, and the role, of a tiny decoder that models share: for previews and drafts
SHARED = ("text", TINY)  # keys of a model that name the entries of what it shares with others
KINDS = ("sora", "wan", TEXT, TINY)
ROLES = ("dit", "vae", "text", "tokenizer")  # of the parts of a Hub model that it cannot do without
REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
CHOICES = {"solver": ("euler", "unipc", "dmd"), "plan": PLANS}

# keys of a weights.toml, and the types of their values
FILE_KEYS = {"name": str, "bytes": int, "sha256": str}
PART_KEYS = {
    "role": str, "repo": str, "revision": str, "folder": str, "bytes": int, "names": list, "sha256": dict, "path": str,
}  # fmt: skip
MODEL_KEYS = {
    "kind": str, "about": str, "folder": str, "files": list, "parts": list, "text": str, TINY: str, "like": str,
    "licence": str, "licence_url": str, "accept": bool, "parameters": float, "memory": float, "speed": str, "cell": int,
    "usage": dict, "network": dict,
}  # fmt: skip
USAGE_KEYS = {
    "width": int, "height": int, "fps": float, "frames": int, "steps": int, "guidance": float, "negative": str,
    "plan": str, "solver": str, "shift": float, "window": int, "context": int, "known_noise": int, "trained": list,
    "grammar": bool, "bar": float, "fastest": float,
}  # fmt: skip
TEXT_LISTS = ("names", "trained")
TYPES = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "a table",
}  # fmt: skip


def check_model(name: str, model: object) -> None:
    """The table of one model has the keys that it must have, no others, and values of their types."""
    check_table(f"[{name}]", model, MODEL_KEYS, ("kind", "about"))
    assert isinstance(model, dict)
    if model["kind"] not in KINDS:
        raise SoraError(f"[{name}] is of kind {model['kind']!r}; there are {', '.join(KINDS)}")
    if bool(model.get("files")) == bool(model.get("parts")):
        raise SoraError(f"[{name}] needs files (on this machine) or parts (of a repository), one of the two")
    check_usage(name, model)
    for file in model.get("files", ()):
        check_table(f"[{name}] files", file, FILE_KEYS, tuple(FILE_KEYS))
    for part in model.get("parts", ()):
        check_table(f"[{name}] parts", part, PART_KEYS, ("role",) if "path" in part else ("role", "repo", "bytes"))
        if part["role"] not in (*ROLES, TINY):
            raise SoraError(f"[{name}] parts has role = {part['role']!r}; there are {', '.join((*ROLES, TINY))}")
        if "path" not in part and not REPOSITORY.fullmatch(part["repo"]):
            raise SoraError(f"[{name}] parts has repo = {part['repo']!r}; it must look like OWNER/NAME")


def check_usage(name: str, model: Mapping[str, Any]) -> None:
    usage = model.get("usage", {})
    check_table(f"[{name}] usage", usage, USAGE_KEYS)
    if model["kind"] == "wan" and not usage and "like" not in model:
        raise SoraError(f"[{name}] needs usage, or the name of a shipped model that it is used like as `like`")
    for key, known in CHOICES.items():
        if usage.get(key, known[0]) not in known:
            raise SoraError(f"[{name}] usage has {key} = {usage[key]!r}; there are {', '.join(known)}")


def check_whole(name: str, kind: str, roles: Sequence[str], window: int, context: int) -> None:
    """A model has all its networks, once, and something to make in every window."""
    if not context < window:
        raise SoraError(f"[{name}] usage has context = {context}; it must be less than window, which is {window}")
    for role in ROLES if kind == "wan" else ():
        if role not in roles:
            hint = "; text = \"umt5-xxl\" names the shared one" if role in ("text", "tokenizer") else ""
            raise SoraError(f"[{name}] has no part with role = {role!r}{hint}")
        if roles.count(role) > 1:
            raise SoraError(f"[{name}] has several parts with role = {role!r}; keep one")


def shared_parts(name: str, model: Mapping[str, Any], others: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The parts of entries that several models share, of which the model has no own."""
    own = {part["role"] for part in model.get("parts", ())}
    for key in SHARED:
        if key in model and model[key] not in others:
            raise SoraError(f"[{name}] has {key} = {model[key]!r}, and there is no such entry")
        found = others[model[key]].get("parts", ()) if key in model else ()
        yield from (part for part in found if part["role"] not in own)


def check_table(where: str, table: object, keys: Mapping[str, type], needed: Sequence[str] = ()) -> None:
    if not isinstance(table, dict):
        raise SoraError(f"{where} must be a table of {', '.join(keys)}")
    for key in needed:
        if key not in table:
            raise SoraError(f"{where} lacks {key}")
    for key, value in table.items():
        if key not in keys:
            raise SoraError(f"{where} has an unknown key {key}; there are {', '.join(keys)}")
        right = (int, float) if keys[key] is float else keys[key]
        if not isinstance(value, right) or isinstance(value, bool) and keys[key] is not bool:
            raise SoraError(f"{where} has {key} = {value!r}; it must be {TYPES[keys[key]]}")
        if key in TEXT_LISTS and not all(isinstance(item, str) for item in table[key]):
            raise SoraError(f"{where} has {key} = {value!r}; it must be a list of texts")
