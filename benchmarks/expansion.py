"""Whether expanding short prompts helps: what the judge finds of subject, action and place, by how a prompt is read.

    python benchmarks/expansion.py --clips 64
    python benchmarks/expansion.py --clips 8 --expand http://localhost:11434/v1#qwen2.5:7b
    python benchmarks/expansion.py --clips 64 --keep rows.jsonl --json

Held-out combinations of subject, action and place, typed as people do: in synonyms, and one word in every second prompt
misspelled. Each is made three times with the same seed: read as it is (--expand off), expanded, and asked for by its
scene's own caption, which is the most that any expansion can reach.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from bar import glimpsed
from measuring import Ledger, Row, grid, note, parser, show, with_ledger

from sora_cli import registry
from sora_cli.cli.expanding import OFF, Expansion
from sora_cli.cli.screen import Screen
from sora_cli.evaluate import clips
from sora_cli.evaluate import measure as exam
from sora_cli.generation.engine import Engine
from sora_cli.models.sora import evaluator
from sora_cli.shot import Shot
from sora_cli.world.captions import dense, parse, sparse
from sora_cli.world.scene import Scene

WAYS = ("as typed", "expanded", "caption")
ASPECTS = ("subject", "action", "place")


def typed(scene: Scene, rng: random.Random, misspelled: bool) -> str:
    """What someone types who says subject, action and place, and may swap two letters of the subject."""
    while True:
        prompt = sparse(scene, rng)
        said = parse(prompt)
        if said.action == scene.action and said.place == scene.place:
            return slipped(prompt, rng) if misspelled else prompt


def slipped(prompt: str, rng: random.Random) -> str:
    """The longest word with two of its inner letters swapped."""
    word = max(prompt.split(), key=len)
    at = rng.randrange(1, len(word) - 1)
    return prompt.replace(word, word[:at] + word[at + 1] + word[at] + word[at + 2 :], 1)


def prompts(scenes: list[Scene], seed: int) -> list[str]:
    rng = random.Random(f"expansion/{seed}")
    return [typed(scene, rng, number % 2 == 1) for number, scene in enumerate(scenes)]


def ways(shot: Shot, scene: Scene, expansion: Expansion) -> Iterator[tuple[str, Shot]]:
    """The same shot, as it is read in each way."""
    for name, asked in (("as typed", replace(expansion, mode=OFF)), ("expanded", expansion)):
        yield name, asked.captioned([shot], Screen())[0]
    yield "caption", replace(shot, captions=(dense(scene),))


def main() -> None:
    options = with_ledger(parser(__doc__))
    options.add_argument("--clips", type=int, default=64)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--expand", default="grammar", help="grammar, or the address of an LLM")
    asked = options.parse_args()
    entry = registry.entry(asked.model)
    expansion, usage = Expansion.asked(asked.expand, None, entry), entry.usage
    judge = evaluator.from_weights(*registry.load_model_files(registry.entry(exam.JUDGE), "evaluator"))
    engine, ledger = Engine(entry), Ledger(asked.keep, asked.model)
    scenes = clips.held_out(asked.clips, asked.seed)

    def found(shot: Shot, scene: Scene) -> Row:
        named = evaluator.name(judge, glimpsed(engine, shot), clips.FPS)
        return dict(exam.right(named, scene))

    rows: dict[str, list[Row]] = {way: [] for way in WAYS}
    for number, (scene, prompt) in enumerate(zip(scenes, prompts(scenes, asked.seed), strict=True)):
        plain = Shot(prompt, "", clips.WIDTH, clips.HEIGHT, clips.SHORT, clips.FPS, asked.seed + number, usage.steps,
                     usage.guidance, asked.model)  # fmt: skip
        note(f"{number + 1}/{len(scenes)} {prompt}")
        for way, shot in ways(plain, scene, expansion):
            rows[way].append(ledger.row(shot.to_dict(), lambda shot=shot, scene=scene: found(shot, scene)))  # type: ignore[misc]

    shares = {way: {what: share(made, [what]) for what in ASPECTS} | {"all": share(made, ASPECTS)}
              for way, made in rows.items()}  # fmt: skip
    table = grid(f"what the judge finds of {len(scenes)} short prompts, %", "read", *ASPECTS, "all")
    for way, values in shares.items():
        table.add_row(way, *(f"{value:.0f}" for value in values.values()))
    show({"clips": asked.clips, "expand": asked.expand, "found": shares}, [table], asked.json)


def share(rows: list[Row], aspects: Sequence[str]) -> float:
    """Percent of the clips in which all of these are as asked."""
    return 100 * sum(all(row[what] for what in aspects) for row in rows) / len(rows)


if __name__ == "__main__":
    main()
