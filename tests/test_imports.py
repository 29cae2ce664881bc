"""The import table: which part may know which, and what `--help` must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import forked
import pytest

PACKAGE = Path(__file__).parent.parent / "sora_cli"

# part -> the parts of sora_cli it may import, at module level or inside functions
TABLE: dict[str, set[str]] = {
    "errors": set(),
    "geometry": {"errors"},
    "shot": {"errors", "geometry"},
    "files": {"errors"},
    "media": {"errors", "files"},
    "models": {"errors"},
    "sampling": {"errors", "geometry"},
    "world": {"errors", "media"},
    "registry": {"errors", "files", "geometry", "models", "shot"},
    "prompts": {"errors", "files", "shot", "world"},
    "storage": {"errors", "files", "geometry", "registry", "shot"},
    "placement": {"errors", "files", "geometry", "models", "registry", "sampling", "shot"},
    "captioning": {"errors", "files", "media", "models", "placement", "prompts", "registry"},
    "dataset": {"errors", "files", "geometry", "media", "models", "placement", "registry"},
    "pipelines": {
        "errors", "files", "geometry", "models", "placement", "prompts", "registry", "sampling", "shot",
        "storage",
    },
    "generation": {
        "errors", "files", "geometry", "media", "pipelines", "placement", "prompts", "registry", "sampling",
        "shot", "storage",
    },
    "evaluate": {"errors", "generation", "geometry", "media", "models", "prompts", "registry", "shot", "world"},
}  # fmt: skip
EVERYTHING = ("cli", "train", "__main__", "__init__")
WITHOUT_TORCH = (
    "errors", "geometry", "shot", "files.owned", "files.headers", "files.gguf_header", "files.quantised",
    "files.published", "files.sniff", "files.weights", "media", "sampling.planner", "registry.comfy",
    "registry.families",
    "world.vocabulary", "registry", "registry.hub", "registry.hub_client", "registry.lora", "prompts.cache",
    "prompts.grammar", "prompts.llm", "prompts.notation", "prompts.rewriting",
    "storage.latent_file", "storage.resume", "placement.estimate",
    "placement.machine", "placement.memory", "captioning", "generation.anchors", "cli",
)  # fmt: skip


def part_of(module: str) -> str:
    """sora_cli.models.sora.vae -> models"""
    return [*module.split("."), "__init__"][1]


def imports(path: Path) -> set[str]:
    """The parts of sora_cli that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [node.module or ""]
            if node.module == "sora_cli":
                names = [f"sora_cli.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {part_of(name) for name in names if name.split(".")[0] == "sora_cli"}
    return found


def files(part: str) -> list[Path]:
    return sorted((PACKAGE / part).rglob("*.py")) or [PACKAGE / f"{part}.py"]


@pytest.mark.parametrize("part", TABLE)
def test_a_part_knows_only_its_own(part: str) -> None:
    for path in files(part):
        strangers = imports(path) - TABLE[part] - {part, "__version__"}
        assert not strangers, f"{path.relative_to(PACKAGE)} imports {strangers}"


def test_the_models_do_not_know_one_another() -> None:
    """text, vae and dit are strangers, and the architectures too; only the parts named here are shared, at home, and
    what lies beside the architectures by all."""
    shared = ("patches", "conv", "tiles", "causal", "attention", "configs")
    for path in (PACKAGE / "models").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sora_cli.models"):
                *_, family, name = (node.module or "").split(".")
                assert name in shared and family in (path.parent.name, "models"), f"{path} imports {node.module}"


def test_the_table_is_complete() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert modules | packages == {*TABLE, *EVERYTHING}


def loaded(module: str, *codes: str) -> list[str]:
    """After which of these, run one after the other in a fresh interpreter, `module` is in sys.modules."""
    script = ["import sys", "found = []"]
    for code in codes:
        script += ["try:", f"    {code}", "except SystemExit:", "    pass",
                   f"if '{module}' in sys.modules: found.append({code!r})"]  # fmt: skip
    command = [sys.executable, "-c", "\n".join([*script, "print(*found, sep='\\n')"])]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return [code for code in codes if code in result.stdout.splitlines()]


def commands(*lines: str) -> list[str]:
    return [f"from sora_cli.cli import main; main({line.split()})" for line in lines]


def test_help_and_refusals_never_load_torch() -> None:
    lines = ("--help", "generate --help", "generate x --res 0x0", "encode nowhere.mp4", "decode nowhere.safetensors",
             "info nowhere.mp4", "serve --host 0.0.0.0")  # fmt: skip
    assert not loaded("torch", *commands(*lines))


def test_the_client_of_the_hub_waits_until_it_is_needed() -> None:
    assert not loaded("huggingface_hub", *commands("--help", "weights --help", "generate x --res 0x0"))


@pytest.mark.parametrize("module", ["starlette", "uvicorn", "asyncio"])
def test_the_server_waits_until_it_is_needed(module: str) -> None:
    assert not loaded(module, *commands("serve --help"))


def test_these_parts_do_without_torch() -> None:
    names = ", ".join(f"sora_cli.{part}" for part in WITHOUT_TORCH)
    assert not loaded("torch", f"import {names}")


def test_our_models_do_without_the_tokenizers_of_others() -> None:
    done = forked.run("import sys, sora_cli.pipelines.sora; print('tokenizers' in sys.modules)")
    assert done.stdout == "False\n"


def test_this_test_can_fail() -> None:
    assert loaded("json", "import sys", "import json", "import re") == ["import json", "import re"]
    assert imports(PACKAGE / "cli" / "filming.py") >= {"media", "shot", "generation", "registry"}
