"""What a file is that should hold weights and does not: downloads without a login leave web pages and errors under the
names of weights, and clones of repositories leave pointers. No torch."""

import html
import json
import re
from pathlib import Path
from typing import Any

from sora_cli.errors import short

READ = 65536  # bytes
LFS = b"version https://git-lfs"
MAGIC = {
    b"GGUF": "a GGUF file; its name must end in .gguf", b"PK\x03\x04": "a ZIP file, or a torch pickle",
    b"\x80\x02": "a pickle, which runs code", b"\x80\x03": "a pickle, which runs code",
    b"\x80\x04": "a pickle, which runs code", b"\x80\x05": "a pickle, which runs code", b"\x1f\x8b": "a gzip file",
    b"Rar!": "a RAR file", b"7z\xbc\xaf": "a 7z file", b"%PDF": "a PDF", b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture", b"\x89HDF": "an HDF5 file",
}  # fmt: skip
SAYS = ("error", "error_description", "message", "detail", "title", "reason")  # keys of APIs that refuse


def instead(path: Path) -> str:
    """What a file under the name of weights is, on one line; "" if it may be weights. OSError if unreadable."""
    with path.open("rb") as file:
        head = file.read(READ)
    if head[7:9] == b"\x00{":
        return ""  # the length of a header, then the header
    if head.startswith(LFS):
        return "it is a Git LFS pointer, not the file itself; `git lfs pull` fetches that"
    if kind := next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), ""):
        return f"it is {kind}"
    try:
        return of_text(head.decode("utf-8-sig" if len(head) < READ else "latin-1").strip())
    except ValueError:
        return ""


def of_text(text: str) -> str:
    """The same of text."""
    if not text or re.search(r"[\x00-\x08\x0e-\x1f]", text):
        return ""
    if re.match(r"<!doctype html|<html|<head|<body|<script", text, re.IGNORECASE):
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        named = f" ({short(html.unescape(title[1]))})" if title and title[1].strip() else ""
        return f"it is a web page{named}; fetch the file itself, logged in if need be"
    if text.startswith("<"):
        messages = re.findall(r"<(?:Code|Message)>(.*?)</", text, re.DOTALL)
        return f"it says: {short(': '.join(messages))}" if messages else "it is XML"
    try:
        messages = said(json.loads(text))
        return f"it says: {short(': '.join(messages))}" if messages else "it is JSON"
    except (ValueError, RecursionError):
        return "it is JSON that is cut off; fetch it again" if text[0] in "{[" else f"it is text: {short(text)}"


def said(found: Any) -> list[str]:
    """What JSON of an API complains of."""
    if isinstance(found, str):
        return [found] if found.strip() else []
    if not isinstance(found, dict):
        return []
    return list(dict.fromkeys(text for key in SAYS if key in found for text in said(found[key])))


PICTURE_HEAD = 12  # bytes that tell
PICTURES = {rb"\x89PNG\r\n\x1a\n": ".png", rb"\xff\xd8\xff": ".jpg", rb"RIFF....WEBP": ".webp"}


def picture(head: bytes) -> str:
    """The ending of the name that suits a PNG, JPEG or WebP picture, by its first bytes; "" for anything else."""
    return next((suffix for magic, suffix in PICTURES.items() if re.match(magic, head, re.DOTALL)), "")
