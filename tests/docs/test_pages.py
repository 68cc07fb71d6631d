"""The pages' commands: every one parses, those in ```bash blocks run, and every link leads somewhere."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", *sorted(ROOT.glob("plugins/*/README.md"))]
#: Pages whose ```bash blocks run here; writing-a-plugin.md has a test of its own.
RUN = ["start/first-run.md", "do/own-reward.md", "do/own-prompts.md", "do/own-clips.md"]
_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.M | re.S)


def commands(page: Path) -> list[str]:
    """Every line of a page that begins with ``vader``, continued lines joined, without placeholders."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if re.match(r"^(    )?vader [a-z]", line)]
    return [line for line in lines if not re.search(r"…|\.\.\.|\b[A-Z]{4,}\b|=N\b| N\b|&&|\|", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_parses(page):
    from vader_core.cli import cli

    for line in commands(page):
        words = shlex.split(line, comments=True)[1:]
        context, command = click.Context(cli, info_name="vader"), cli
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            command = command.get_command(context, words.pop(0))
        parser = command.make_parser(click.Context(command, info_name=line))
        try:
            parser.parse_args(list(words))
        except click.UsageError as error:
            pytest.fail(f"{page.relative_to(ROOT)}: {line}: {error.format_message()}")


def names_of(page: Path) -> list[tuple[str, str]]:
    """Every component and recipe that a page's commands name."""
    kinds = {"--backbone": "backbone", "--reward": "reward", "--monitor": "reward", "--sampler": "sampler"}
    kinds |= {"--recipe": "recipe", "--objective": "objective"}
    found = []
    for line in commands(page):
        words = shlex.split(line, comments=True)
        found += [
            (kinds[flag], name.partition(":")[0])
            for flag, name in itertools.pairwise(words)
            if flag in kinds and ".py" not in name
        ]
    return found


#: Names that pages make up: of packages that the reader writes.
OWN = {"warmth", "words", "warm", "policy_gradient", "example_redness", "latte", "toy", "slow_start"}


def test_every_name_in_a_command_is_installed():
    from vader_core.registry import load_registry
    from vader_core.run.layers import recipes

    registry = load_registry()
    known = {kind: set(table) for kind, table in registry.components.items()}
    known["recipe"] = set(recipes(registry))
    wrong = [
        f"{page.relative_to(ROOT)}: {kind} {name}"
        for page in PAGES
        for kind, name in names_of(page)
        if name not in known[kind] and name not in OWN
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow_cases("start/first-run.md", "do/own-clips.md")
@pytest.mark.parametrize("name", RUN)
def test_the_blocks_run(name, tmp_path, monkeypatch, capsys):
    from vader_core.cli import run

    monkeypatch.chdir(tmp_path)
    ran = 0
    for _, attributes, body in _BLOCK.findall((DOCS / name).read_text(encoding="utf-8")):
        if placed := re.search(r"file=(\S+)", attributes):
            Path(placed[1]).write_text(body, encoding="utf-8")
    for language, _, body in _BLOCK.findall((DOCS / name).read_text(encoding="utf-8")):
        for line in body.replace("\\\n", " ").splitlines() if language == "bash" else ():
            words = shlex.split(line, comments=True)
            few = ["--num-steps", "2"] if words[1] in ("train", "sample") and "--resume" not in words else []
            assert run([*words[1:], *few]) == 0, f"{line}\n{capsys.readouterr().err}"
            ran += 1
    assert ran


def trainings() -> list[str]:
    """Every training on a page that needs nothing that a reader makes first: a run, a package, a cache."""
    made = re.compile(r"--resume|hub:|cache:|build/weights|--dry-run$")
    every = dict.fromkeys(
        re.sub(r"\s*(--dry-run|#.*)$", "", line).strip()
        for page in PAGES
        for line in commands(page)
        if line.split()[1] == "train"
    )
    own = re.compile("|".join(rf"(?<![\w.]){name}(?![\w.])" for name in OWN - {"warmth"}) + r"|toy| warmth")
    return [line for line in every if not made.search(line) and not own.search(line)]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """The files that the pages' commands name."""
    import torch
    from PIL import Image

    from vader_core.video import write_video

    folder = tmp_path_factory.mktemp("material")
    rows = []
    for place in ("my_clips", "clips"):
        (folder / place).mkdir()
        for number in range(6):
            write_video(torch.full((130, 3, 360, 640), 0.1 * number), folder / place / f"{number}.mp4", 24)
            (folder / place / f"{number}.txt").write_text("a red star")
            rows.append({"file_path": f"{place}/{number}.mp4", "text": "a red star", "type": "video"})
    (folder / "clips.json").write_text(json.dumps(rows))
    (folder / "my_clips" / "prompts.json").write_text(
        json.dumps([{"file": f"{number}.mp4", "prompt": "a red star"} for number in range(6)])
    )
    lines = [f"{row['file_path']},{row['text']}" for row in rows]
    (folder / "clips.csv").write_text("\n".join(["video,text", *lines]))
    (folder / "clips" / "opensora.csv").write_text(
        "path,text\n" + "\n".join(f"{n}.mp4,a red star" for n in range(6))
    )
    (folder / "hps.json").write_text('["a red star", "two gulls"]')
    (folder / "stills").mkdir()
    Image.new("RGB", (1024, 576), "teal").save(folder / "stills" / "lighthouse.jpg")
    for _, attributes, body in _BLOCK.findall((DOCS / "do/own-reward.md").read_text(encoding="utf-8")):
        if placed := re.search(r"file=(\S+)", attributes):
            (folder / placed[1]).write_text(body, encoding="utf-8")
    return folder


@pytest.mark.soak
@pytest.mark.parametrize("line", trainings())
def test_every_training_on_a_page_can_be_planned(line, material, monkeypatch, capsys):
    from vader_core.cli import run

    module = importlib.import_module("vader_core.api.plan")
    monkeypatch.setattr(module, "memory_facts", lambda *given, **named: {})  # minutes for each
    monkeypatch.setattr(
        "vader_core.builtin.prompts.hps_v2.fetch", lambda *given, **named: material / "hps.json"
    )
    monkeypatch.chdir(material)
    assert run([*shlex.split(line)[1:], "--dry-run"]) == 0, capsys.readouterr().err
    assert "writes" in capsys.readouterr().out


#: What a page's command needs that no machine without network and accelerator has, or another test holds.
NOT_RUN = {
    r"data run": "tests/data and tests/examples cut real footage",
    r"vader studio": "a server: tests/studio",
    r"--suite": "VBench's file of prompts: tests/rewards/test_vbench.py",
    r"hub:": "the hub",
    r"cuda_graphs": "a CUDA device",
}
#: What a model of full size is replaced by; everything else of the command stays.
TINY = ["--weights", "random", "-o", "backbone.architecture=tiny"]
#: The model of a run whose LoRA is written in a format.
MODEL_OF = {
    "easyanimate": "easyanimate",
    "videocrafter": "videocrafter",
    "diffusers": "wan",
    "comfyui": "wan",
}


def others() -> list[tuple[str, str]]:
    """Every other command of the pages, once each, with its page."""
    done = {DOCS / name for name in RUN} | {DOCS / "writing-a-plugin.md"}
    found: dict[str, str] = {}
    for page in PAGES:
        for line in commands(page) if page not in done else ():
            if line.split()[1] != "train" and not any(re.search(one, line) for one in NOT_RUN):
                found.setdefault(re.sub(r"\s*#.*", "", line), str(page.relative_to(ROOT)))
    return [(page, line) for line, page in found.items()]


def model_of(words: list[str]) -> str:
    """The backbone that a command is for."""
    given = dict(itertools.pairwise(words))
    if "--backbone" in given:
        return given["--backbone"]
    return "opensora" if "opensora" in " ".join(words) else MODEL_OF.get(given.get("--to", ""), "demo")


@pytest.fixture(scope="module")
def trained(material):
    """A function that puts a run of one step of a model into a place."""
    from vader_core.cli import run

    few = ["--max-steps", "1", "--num-steps", "3", "--quiet", "--lora-rank", "2"]
    few += ["-o", "validation.prompts=0", "-o", "run.trackers=[]", "--reward", "example_redness"]

    def put(backbone: str, place: Path) -> None:
        source = material / "made" / backbone
        if not source.is_dir():
            tiny = [] if backbone == "demo" else [*TINY, "--prompts", "text:a boat"]
            assert run(["train", "--backbone", backbone, *tiny, *few, "--out", str(source)]) == 0
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(source, place)

    return put


@pytest.fixture
def written(material, trained, monkeypatch):
    """A folder with what the commands read: clips, a sampled batch, a page."""
    from vader_core.cli import run

    monkeypatch.chdir(material)
    if not Path("page.html").exists():
        caption = "a red star spinning on a navy background"
        Path("shots.csv").write_text(f"text\n{caption}\n")
        trained("demo", Path("runs/first"))
        asked = ["--prompts", f"text:{caption}", "--num-steps", "2"]
        assert run(["sample", "--backbone", "demo", *asked, "--out", "clips/shots"]) == 0
        assert run(["compare", "runs/first", "--max-prompts", "1", "--out", "page.html"]) == 0
    return material


@pytest.mark.soak
@pytest.mark.parametrize(("page", "line"), others())
def test_every_other_command_on_a_page_runs(page, line, trained, written, monkeypatch, capsys):
    from vader_core.cli import run

    monkeypatch.setattr("vader_core.cli.weights.fetch", lambda *given, **named: written)
    words = shlex.split(line)[1:]
    backbone, places = model_of(words), re.findall(r"runs/[\w-]+", line)
    for place in places:
        trained(backbone, Path(place))
    if not places and "--backbone" in words and backbone != "demo":
        words += TINY
    if words[0] == "bench":
        words += ["-o", "reward.hps.weights=random", "-o", "reward.hps.architecture=tiny", "--steps", "1"]
    if words[0] == "evaluate":
        words += [] if "--pairs" in words else ["--pairs", "2"]
        words = ["2" if before == "--pairs" else word for before, word in itertools.pairwise(["", *words])]
    if words[0] == "export":  # its page trains the whole model
        shutil.rmtree(places[0])
        few = ["--max-steps", "1", "--num-steps", "2", "--quiet", "-o", "validation.prompts=0"]
        full = ["train", "--backbone", "demo", "--reward", "demo_aesthetic", "--tune", "full", *few]
        assert run([*full, "--out", places[0]]) == 0
    shutil.rmtree("site", ignore_errors=True)
    words += ["--overwrite"] if words[0] == "sample" else []
    assert run(words) == 0, f"{page}: {line}\n{capsys.readouterr().err}"


_LINK = re.compile(r"\]\(([^)#\s]+)?(#[^)\s]+)?\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the site and GitHub make them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"`", "", head)).strip().lower() for head in heads]
    return {re.sub(r"[\s]+", "-", head) for head in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for place, anchor in _LINK.findall(text):
        if place.startswith(("http:", "https:", "mailto:")):
            continue
        if place.endswith(("commands.md", "options.md", "components.md")):
            continue  # generated
        target = Path(os.path.normpath(page.parent / place)) if place else page
        assert target.exists(), f"{page.relative_to(ROOT)}: {place}"
        if anchor and target.suffix == ".md":
            assert anchor[1:] in anchors(target), f"{page.relative_to(ROOT)}: {place}{anchor}"


def test_every_row_of_what_a_newcomer_meets_names_tests_that_are_there():
    rows = [
        line for line in (DOCS / "reference/first-hour.md").read_text().splitlines() if line.count("|") > 4
    ]
    rows = [row for row in rows if not re.match(r"\|(-|.* held by \|$)", row)]
    assert len(rows) > 60
    wrong = []
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", row.split(" | ")[-1])
        wrong += [row] if not named else []
        for file, test in named:
            place = ROOT / "tests" / file
            if not place.is_file() or not re.search(rf"^def {test}\(", place.read_text(), flags=re.M):
                wrong.append(f"{file}::{test}")
    assert not wrong, "\n".join(wrong)


def test_every_page_in_a_menu_is_there():
    listed = set(re.findall(r"[\w/.-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    generated = {f"reference/{name}.md" for name in ("commands", "options", "components")}
    assert not [name for name in listed - generated if not (DOCS / name).is_file()]


def test_what_a_page_from_a_folder_needs_is_in_the_folder():
    """The search's shim is our own file: left out, the plugin names one of another site's."""
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "  - offline" in settings
    (shim,) = re.findall(r"polyfills: \[([^\]]*)\]", settings)
    assert "iframe-worker" in shim  # what the plugin looks for
    assert "Permission is hereby granted" in (DOCS / shim).read_text(encoding="utf-8")


def sentences(text: str) -> list[int]:
    """Words per sentence of running text: no tables, code, lists of links or headings."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    lines = [line for line in text.splitlines() if not re.match(r"\s*(\||#|!|    |<)", line)]
    prose = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(lines))
    prose = re.sub(r"[*_`]", "", prose)
    found = [sentence.split() for sentence in re.split(r"(?<=[.!?:])\s+", prose)]
    return [len(words) for words in found if len(words) > 2]


#: Pages that a newcomer reads.
TAUGHT = ["README.md", *(f"docs/{name}.md" for name in ("index", "demo", "studio", "python", "fine-tuning"))]
TAUGHT += [
    str(page.relative_to(ROOT))
    for kind in ("start", "learn", "do")
    for page in sorted((DOCS / kind).glob("*.md"))
]


@pytest.mark.parametrize("name", TAUGHT)
def test_sentences_are_short(name):
    lengths = sentences((ROOT / name).read_text(encoding="utf-8"))
    assert sum(lengths) / len(lengths) < 20


def test_the_demos_page_lists_every_word_by_its_part():
    from vader_demo.captions import ATTRIBUTES

    page = (DOCS / "demo.md").read_text(encoding="utf-8")
    for name, values in ATTRIBUTES.items():
        assert f"| {name} | {', '.join(values)} |" in page
