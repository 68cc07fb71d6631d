"""Feed damaged files, hostile run folders and odd words to the toolkit: each ends well or in one message.

    python tests/core/faults/fuzz.py --what weights:6000,inputs:1000 --folder /some/empty/folder [--seed N]

Every trial is a function of its seed, which is printed where it fails; ``--only SEED`` runs it alone and
``--share 2/5`` the second of five parts of all trials.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import traceback
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

#: A trial may take so many seconds, and a process so many bytes.
PATIENCE, MEMORY = 30, 2 << 30
#: Trials in one process, so that what one leaves behind meets others.
BATCH = 50
#: Words, numbers and forms that people and programs type where others belong.
ODD = (
    "", " ", "0", "-1", "1", "2", "3.5", "-0.0", "1e3", "1e309", "-1e309", "nan", "NaN", "inf", "-inf",
    "Infinity", "1:3", "9:16", "1:2:3", "0x10", "012", "1_000", "١٢", "½", "99999999999999999999", "True",
    "off", "no", "null", "~", "None", "[]", "[1]", "[1, 2", "[[[[1]]]]", "{}", "{a: 1}", "{a: {b: 1}}", "a b",
    "a,b", ",", ":", "=", "a=b", "'", '"quoted"', "'off'", "*a", "&a 1", "!!python/object:os.system", "<b>x",
    "../..", "/", "/dev/null", "/nowhere", "~nobody_here/x", "hub:", "hub:a/b", "http://x", "a\nb", "é",
    "\u202e", "last", "random", "tiny", "x" * 5000, "💥",
)  # fmt: skip


def told(error: Exception) -> None:
    """An error says something."""
    assert str(error), "an empty message"


# -- mutations ---------------------------------------------------------------------------------------------


def bytes_changed(content: bytes, dice: random.Random) -> bytes:
    """A file with some bytes changed, cut, doubled or moved."""
    data = bytearray(content)
    for _ in range(dice.choice([1, 1, 2, 5, 20])):
        if not data:
            break
        place = dice.randrange(len(data)) if dice.random() < 0.5 else dice.randrange(min(len(data), 256))
        match dice.randrange(8):
            case 0:
                data[place] = dice.randrange(256)
            case 1:
                data[place] ^= 1 << dice.randrange(8)
            case 2:
                del data[place:]
            case 3:
                del data[place : place + dice.choice([1, 4, 64])]
            case 4:
                data[place:place] = dice.randbytes(dice.choice([1, 8, 100]))
            case 5:
                number = dice.choice([0, 1, 255, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1])
                data[place : place + 8] = number.to_bytes(8, dice.choice(["little", "big"]))
            case 6:
                data[place:place] = data[place : place + dice.choice([10, 1000])]
            case _:
                data[place : place + 16] = bytes(16)
    return bytes(data)


def value_changed(tree: Any, dice: random.Random) -> Any:
    """JSON with one value somewhere replaced by another kind of value, or one key lost."""
    if isinstance(tree, dict) and tree and dice.random() < 0.85:
        key = dice.choice(list(tree))
        if dice.random() < 0.08:
            return {name: value for name, value in tree.items() if name != key}
        if dice.random() < 0.05:
            return {**tree, dice.choice(["__class__", "", "<script>", "\ud800"]): tree[key]}
        return {**tree, key: value_changed(tree[key], dice)}
    if isinstance(tree, list) and tree and dice.random() < 0.7:
        place = dice.randrange(len(tree))
        return [*tree[:place], value_changed(tree[place], dice), *tree[place + 1 :]]
    deep: Any = 1
    for _ in range(dice.choice([30, 900])):
        deep = [deep]
    choices: list[Any] = [
        None, True, -1, 0, 1.5, 2**70, -(2**63), float("nan"), float("inf"), 1e300, "", "x", "../../x",
        "/etc/passwd", "<img src=x onerror=alert(1)>", "a" * 10_000, [], {}, [None], {"a": {}}, deep, [tree],
        "\ud800", "\x00", "hub:a/b", "nan",
    ]  # fmt: skip
    return dice.choice(choices)


def text_changed(text: str, dice: random.Random) -> bytes:
    """A JSON text with a value changed, or any text with its bytes changed."""
    try:
        if dice.random() < 0.6:
            return json.dumps(value_changed(json.loads(text), dice)).encode(errors="surrogatepass")
    except ValueError:
        pass
    return bytes_changed(text.encode(), dice)


# -- weights -----------------------------------------------------------------------------------------------


def weight_files(folder: Path) -> list[Path]:
    """One of each kind of file of tensors."""
    import torch
    from safetensors.torch import save, save_file

    folder.mkdir()
    tensors = {f"blocks.{i}.to_q.weight": torch.randn(4, 4) for i in range(3)} | {"b": torch.zeros(2).half()}
    lora = {f"unet.m.{i}.lora_{h}.weight": torch.randn(2, 2) for i in range(2) for h in "AB"}
    torch.save({"state_dict": tensors, "step": 3, "list": [1, (2, tensors["b"])]}, folder / "new.pt")
    torch.save(tensors, folder / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"lora": lora, **lora}, folder / "lora.bin")
    note = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 4}), "format": "pt"}
    (folder / "plain.safetensors").write_bytes(save(tensors))
    save_file(lora, folder / "lora.safetensors", note)
    peft = folder / "peft"
    peft.mkdir()
    save_file({f"base_model.model.{k[5:]}": v for k, v in lora.items()}, peft / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "alpha_pattern": {"^m.0": 2}, "bias": "none"}
    (peft / "adapter_config.json").write_text(json.dumps(settings))
    shards = folder / "shards"
    shards.mkdir()
    save_file(tensors, shards / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    return sorted(path for path in folder.rglob("*") if path.is_file())


def changed_weights(content: bytes, name: str, dice: random.Random) -> bytes:
    """A damaged file of tensors: by its bytes, by its header, or by the pickle within."""
    if name.endswith(".json"):
        return text_changed(content.decode(), dice)
    if name.endswith(".safetensors") and dice.random() < 0.6:
        length = int.from_bytes(content[:8], "little")
        header = text_changed(content[8 : 8 + length].decode(), dice)
        return len(header).to_bytes(8, "little") + header + content[8 + length :]
    if content[:2] == b"PK" and dice.random() < 0.6:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = {part: archive.read(part) for part in archive.namelist()}
        victim = dice.choice([*[part for part in parts if part.endswith("data.pkl")] * 3, *parts])
        parts[victim] = bytes_changed(parts[victim], dice)
        made = io.BytesIO()
        packed = zipfile.ZIP_DEFLATED if dice.random() < 0.1 else zipfile.ZIP_STORED
        with zipfile.ZipFile(made, "w", packed) as archive:
            for part, data in parts.items():
                archive.writestr(part, data)
        return made.getvalue()
    return bytes_changed(content, dice)


def try_weights(folder: Path) -> Callable[[random.Random], None]:
    """Damage a file of tensors and read it in every way in which one is read."""
    from vader_core.errors import VaderError
    from vader_core.lora.reader import is_lora
    from vader_core.registry import load_registry
    from vader_core.run.adapters import read_adapter
    from vader_core.weights import load_tensors, notes_of, tensor_names
    from vader_core.wrappings import refuse_not_finite, unwrapped

    files, registry = weight_files(folder / "weights"), load_registry()

    def trial(dice: random.Random) -> None:
        source = dice.choice(files)
        place = folder / "trial"
        shutil.rmtree(place, ignore_errors=True)
        whole = source.parent.name in ("peft", "shards")
        if whole:
            shutil.copytree(source.parent, place)
        else:
            place.mkdir()
        victim = place / source.name
        victim.write_bytes(changed_weights(source.read_bytes(), source.name, dice))
        given = place if whole else victim
        for read in (
            lambda: refuse_not_finite(unwrapped(load_tensors(given), what="it"), what="it"),
            lambda: tensor_names(victim),
            lambda: notes_of(victim),
            lambda: is_lora(given),
            lambda: read_adapter(given, registry),
        ):
            try:
                read()
            except VaderError as error:
                told(error)

    return trial


# -- run folders -------------------------------------------------------------------------------------------

SANE = "--backbone tiny --reward brightness --monitor motion --prompts fixed --device cpu".split()
TINY = (
    "train --backbone tiny --reward brightness --monitor motion --prompts fixed --num-steps 2 --max-steps 3 "
    "--lora-rank 2 --device cpu -o run.checkpoint_every=1 -o validation.prompts=1 -o validation.seeds=1 "
    "-o run.trackers=[] --quiet --keep 2"
).split()


@cache
def command_line() -> Callable[[list[str]], int]:
    """The command line with the testing plugin installed."""
    from vader_core import registry as registry_module
    from vader_core.cli import COMMANDS, run
    from vader_core.registry import load_registry
    from vader_core.testing.plugin import add_testing_plugin

    registry = add_testing_plugin(load_registry())
    registry_module.load_registry = lambda: registry  # type: ignore[assignment]
    for module, _ in COMMANDS.values():
        imported = __import__(f"vader_core.cli.{module}", fromlist=["command"])
        if hasattr(imported, "load_registry"):
            imported.load_registry = lambda: registry
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        assert run(["train", "--dry-run", *SANE]) == 0  # once here: every child finds it all imported
    return run


def try_runs(folder: Path) -> Callable[[random.Random], None]:
    """Damage a run folder, then show it, sample from it and continue it."""
    run = command_line()
    whole = folder / "whole"
    assert run([*TINY, "--out", str(whole)]) == 0
    files = [path for path in sorted(whole.rglob("*")) if path.is_file() and path.suffix != ".html"]
    texts = [path for path in files if path.suffix in (".json", ".jsonl", ".yaml")]
    private = folder / "private"

    def trial(dice: random.Random) -> None:
        out = folder / "out"
        remove(out)
        shutil.copytree(whole, out)
        private.write_text("private")
        source = dice.choice(texts if dice.random() < 0.75 else files)
        victim = out / source.relative_to(whole)
        odd = dice.random()
        if odd < 0.06:
            make_odd(out / dice.choice([".lock", "checkpoints", "samples", "metrics.jsonl"]), private, dice)
        elif odd < 0.15:
            make_odd(victim, private, dice)
        else:
            damage(victim, dice)
        if victim.parent.parent.name == "checkpoints" and dice.random() < 0.8:
            sign(victim.parent)
        sampled = folder / "sampled"
        remove(sampled)
        for arguments in (
            ["report", str(out)],
            ["sample", "--lora", str(out), "--max-prompts", "1", "--out", str(sampled)],
            ["evaluate", str(out), "--pairs", "1", "--json"],
            ["train", "--resume", str(out), "--quiet", "--max-steps", "4", "--allow-changes"],
        ):
            assert run(arguments) in (0, 1, 2), arguments
        assert private.read_text() == "private", "written outside of the run"
        page = out / "report.html"
        if page.is_file() and not page.is_symlink():
            assert "<img src=x" not in page.read_text(), "markup of a file is in the page"

    return trial


def remove(path: Path) -> None:
    """Whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_odd(path: Path, private: Path, dice: random.Random) -> None:
    """Something else than a file, in place of one."""
    remove(path)
    match dice.randrange(6):
        case 0:
            path.symlink_to(private)
        case 1:
            path.symlink_to(private.parent / "elsewhere")
        case 2:
            os.mkfifo(path)
        case 3:
            path.mkdir()
        case 4:
            path.symlink_to("/dev/zero")
        case _:
            path.symlink_to(path)


def damage(path: Path, dice: random.Random) -> None:
    """Other bytes, or other values, in place of a file's own."""
    if path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        place = dice.randrange(len(lines))
        changed = [line.encode() for line in lines]
        changed[place] = text_changed(lines[place], dice)
        path.write_bytes(b"\n".join(changed) + b"\n")
    elif path.suffix == ".yaml":
        import yaml

        tree = yaml.safe_load(path.read_text())
        if dice.random() < 0.6:
            path.write_text(json.dumps(value_changed(tree, dice)), encoding="utf-8", errors="surrogatepass")
        else:
            path.write_bytes(bytes_changed(path.read_bytes(), dice))
    elif path.suffix == ".json":
        path.write_bytes(text_changed(path.read_text(), dice))
    else:
        path.write_bytes(changed_weights(path.read_bytes(), path.name, dice))


def sign(place: Path) -> None:
    """Checksums that fit what is there, as somebody hostile would write them."""
    from vader_core.files import sha256_of

    sums = place / "checksums.json"
    if sums.is_file() and not sums.is_symlink():
        files = [path for path in sorted(place.iterdir()) if path.is_file() and not path.is_symlink()]
        sums.write_text(json.dumps({path.name: sha256_of(path) for path in files if path != sums}))


# -- prompts, pictures and clips ---------------------------------------------------------------------------


def input_files(folder: Path) -> list[Path]:
    """One of each kind of prompt file, picture and clip."""
    import torch
    from PIL import Image

    from vader_core.video import write_video

    folder.mkdir()
    picture = Image.effect_noise((40, 24), 80)
    picture.save(folder / "a.png")
    picture.convert("RGB").save(folder / "a.jpg", exif=Image.Exif())
    picture.convert("RGBA").save(folder / "b.webp")
    picture.save(folder / "a.bmp")
    picture.convert("P").save(folder / "a.gif", save_all=True, append_images=[picture.convert("P")])
    Image.new("I;16", (9, 9), 300).save(folder / "c.png")
    write_video(torch.rand(6, 3, 24, 32), folder / "a.mp4", 8.0)
    (folder / "p.txt").write_text("a cat\na dog\n\n  a bird \n")
    (folder / "p.csv").write_text('prompt,negative_prompt,image\n"a, b",ugly,a.png\nc,,\n')
    rows = [{"prompt": "a cat", "image": "a.png"}, {"prompt": "b", "negative_prompt": "x", "seed": 1}]
    (folder / "p.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "p.json").write_text(json.dumps(rows))
    return sorted(folder.iterdir())


def try_inputs(folder: Path) -> Callable[[random.Random], None]:
    """Damage a prompt file, a picture or a clip, and read it."""
    import torch

    from vader_core.builtin.prompts import parse_prompts
    from vader_core.errors import VaderError
    from vader_core.pictures import read_picture
    from vader_core.registry import load_registry
    from vader_core.video import count_frames, read_frames, read_video

    files, registry = input_files(folder / "inputs"), load_registry()

    def prompts(text: str) -> None:
        name, options = parse_prompts(text)
        made = registry.get("prompt source", name)
        source = made.make(options, device=torch.device("cpu"), dtype=torch.float32)
        source.draw([0, 1, 5], 0)
        source.all()

    def trial(dice: random.Random) -> None:
        place = folder / "trial"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(folder / "inputs", place)
        source = dice.choice(files)
        victim = place / source.name
        if source.suffix in (".json", ".txt", ".csv"):
            victim.write_bytes(text_changed(source.read_text(), dice))
        elif source.suffix == ".jsonl":
            damage(victim, dice)
        else:
            victim.write_bytes(bytes_changed(source.read_bytes(), dice))
        if dice.random() < 0.1:
            victim = victim.rename(place / f"x{dice.choice(files).suffix}")
        for read in (
            lambda: read_picture(victim),
            lambda: read_video(victim),
            lambda: read_frames(victim, [0, count_frames(victim) - 1]),
            lambda: prompts(f"file:{victim}"),
            lambda: prompts(f"images:{place}"),
        ):
            try:
                read()
            except VaderError as error:
                told(error)

    return trial


# -- command lines -----------------------------------------------------------------------------------------

#: What a command needs to end soon, before odd words are added.
QUICK = {
    "train": ["--dry-run"],
    "sample": ["--backbone", "tiny", "--num-steps", "1", "--max-prompts", "1", "--prompts", "fixed"],
    "evaluate": [],
    "bench": ["--backbone", "tiny", "--reward", "brightness", "--prompts", "fixed", "--num-steps", "1"],
    "gradient-norms": ["--backbone", "tiny", "--reward", "brightness", "--prompts", "fixed"],
}
#: Commands that ask the network or the machine.
NOT_TRIED = ("weights", "doctor", "check", "bench", "gradient-norms")


def try_commands(folder: Path) -> Callable[[random.Random], None]:
    """Any command with any flags and odd words."""
    run, commands = command_line(), dict(every_command())

    def trial(dice: random.Random) -> None:
        work = folder / "work"
        os.chdir(folder)
        remove(work)
        work.mkdir()
        os.chdir(work)
        name = dice.choice([*commands, "train", "train", "sample", "score", "x", ""])
        command = commands.get(name)
        arguments = [*name.split(), *QUICK.get(name, [])] or [""]
        parameters = command.params if command is not None else []
        for _ in range(dice.choice([0, 1, 2, 4, 8])):
            word = dice.choice(ODD)
            if not parameters or dice.random() < 0.1:
                arguments.append(word)
                continue
            arguments += words_for(dice.choice(parameters), word, dice)
        arguments = [part for part in arguments if "\0" not in part]
        assert run(arguments) in (0, 1, 2), arguments

    return trial


def words_for(parameter: Any, word: str, dice: random.Random) -> list[str]:
    """What a person may type for one parameter."""
    if getattr(parameter, "is_flag", False):
        return [parameter.opts[-1]]
    if parameter.opts[-1] == "-o" and dice.random() < 0.7:
        keys = [
            "trainer.lr",
            "backbone.x",
            "video",
            "sampler.eta",
            "reward.brightness.weight",
            "lora.targets",
        ]
        word = f"{dice.choice(keys)}={word}"
    return words_of(parameter, word)


# -- values ------------------------------------------------------------------------------------------------


#: A command line that does something, for every command whose flags are tried.
BASES = {
    "train": ["train", "--dry-run", *SANE],
    "config": ["config", *SANE],
    "sample": ["sample", *QUICK["sample"], "--device", "cpu", "--height", "16", "--width", "16"],
    "score": ["score", "a.png", "--reward", "brightness"],
    "data scan": ["data", "scan", "."],
}


#: What ``sample`` does as it is told: a thousand clips or frames, or twelve processes that each import torch.
GRANTED = {"--count": ("1_000",), "--num-frames": ("1_000",), "--num-processes": ("2", "012", "١٢")}


def trials_of_values() -> list[list[str]]:
    """Every flag of every command and every ``-o`` key with every odd value."""
    from vader_core.cli.run_options import run_options

    found = []
    for name, command in every_command():
        base = BASES.get(name, name.split())
        for parameter in command.params:
            if not getattr(parameter, "is_flag", False):
                flag = parameter.opts[-1]
                granted = GRANTED.get(flag, ()) if name == "sample" else ()
                found += [
                    without(base, flag) + words_of(parameter, word) for word in ODD if word not in granted
                ]
    own = ["reward.brightness.weight", "reward.brightness.cap", "monitor.motion.x", "backbone.weights"]
    own += ["backbone.x", "sampler.eta", "prompts.count", "objective.reward_gradient.segments"]
    for key in dict.fromkeys([one.key for one in run_options()] + own):
        found += [[*BASES["train"], "-o", f"{key}={word}"] for word in ODD]
    return [words for words in found if not any("\0" in word for word in words)]


def every_command() -> list[tuple[str, Any]]:
    """The commands and those within them, by the words that call them."""
    import click

    from vader_core.cli import COMMANDS, cli

    context = click.Context(cli)
    found = []
    for name in COMMANDS:
        command = cli.get_command(context, name)
        if name in NOT_TRIED or command is None:
            continue
        if isinstance(command, click.Group):
            inner = [(one, command.get_command(context, one)) for one in command.list_commands(context)]
            found += [(f"{name} {one}", each) for one, each in inner if each is not None]
        else:
            found.append((name, command))
    return found


def without(base: list[str], flag: str) -> list[str]:
    """A command line without a flag and its value."""
    if flag not in base:
        return base
    place = base.index(flag)
    return base[:place] + base[place + 2 :]


def words_of(parameter: Any, word: str) -> list[str]:
    """One parameter with one word; nothing is written but into the trial's own folder."""
    if parameter.opts[-1] == "--out":
        word = word.replace("/", "_")
    return [word] if parameter.param_type_name == "argument" else [parameter.opts[-1], word]


def try_values(folder: Path) -> Callable[[random.Random], None]:
    """A command line with one odd value; the seed is the trial's number."""
    from PIL import Image

    run, trials = command_line(), trials_of_values()
    os.chdir(folder)
    assert run([*BASES["sample"], "--out", "first"]) == 0  # imports what every child needs

    def trial(dice: random.Random) -> None:
        work = folder / "work"
        os.chdir(folder)
        remove(work)
        work.mkdir()
        os.chdir(work)
        Image.new("RGB", (16, 16)).save("a.png")
        arguments = trials[dice.number % len(trials)]  # type: ignore[attr-defined]
        assert run(arguments) in (0, 1, 2), arguments

    trial.total = len(trials)  # type: ignore[attr-defined]
    return trial


# -- running -----------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[Path], Callable[[random.Random], None]]] = {
    "weights": try_weights,
    "runs": try_runs,
    "inputs": try_inputs,
    "commands": try_commands,
    "values": try_values,
}


class TooLongError(BaseException):
    """A trial did not end."""


def in_a_process(trial: Callable[[random.Random], None], seeds: list[int], log: Path) -> list[str]:
    """Run trials in one forked process, and in another those after one that ended it; what went wrong."""
    number = os.fork()
    if number:
        status = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        wrong = [line for line in log.read_text().split("\0") if line] if log.exists() else []
        begun = [line for line in wrong if line.startswith("begun")]
        wrong = [line for line in wrong if not line.startswith("begun")]
        if status:
            wrong.append(f"{begun[-1] if begun else seeds[0]}: the process ended with {status}")
            log.unlink(missing_ok=True)
            left = seeds[max(len(begun), 1) :]
            return wrong + (in_a_process(trial, left, log) if left else [])
        return wrong
    signal.signal(signal.SIGALRM, give_up)
    with log.open("w") as told, Path(f"{log}.out").open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        for seed in seeds:
            told.write(f"begun {seed}\0")
            told.flush()
            dice = random.Random(seed)
            dice.number = seed  # type: ignore[attr-defined]
            signal.alarm(PATIENCE)
            try:
                trial(dice)
            except BaseException:
                told.write(f"seed {seed}: {shortened(traceback.format_exc())}\0")
            signal.alarm(0)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if most > MEMORY:
            told.write(f"seeds {seeds[0]} to {seeds[-1]}: {most >> 20} MiB of memory\0")
        told.flush()
        os._exit(0)


def shortened(text: str) -> str:
    """A traceback with long lines cut."""
    return "\n".join(line[:300] for line in text.splitlines())


def give_up(*_: object) -> None:
    """A trial took too long."""
    raise TooLongError(f"not ended within {PATIENCE} s")


def tried(what: str, count: int | None, first: int, share: tuple[int, int], folder: Path) -> bool:
    """Trials of one kind, or a share of them; whether any went wrong."""
    folder.mkdir()
    trial = KINDS[what](folder)
    total = getattr(trial, "total", None)
    if total is None:
        seeds = list(range(first, first + (count or 1000)))
    else:  # all of them, or some at random
        seeds = random.Random(first).sample(range(total), min(count or total, total))
    number, parts = share
    seeds = seeds[len(seeds) * (number - 1) // parts : len(seeds) * number // parts]
    wrong: list[str] = []
    for start in range(0, len(seeds), BATCH):
        found = in_a_process(trial, seeds[start : start + BATCH], folder / "log.txt")
        for line in found:
            print(line, flush=True)
        wrong += found
    print(f"{what}: {len(seeds)} trials, {len(wrong)} wrong", flush=True)
    return bool(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", required=True, help="KIND or KIND:TRIALS, with commas between.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="One trial, by its seed.")
    parser.add_argument("--share", default="1/1", help="I/N: the I-th of N parts.")
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    folder: Path = given.folder.resolve()
    import torch

    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    if given.only is not None:
        dice = random.Random(given.only)
        dice.number = given.only  # type: ignore[attr-defined]
        KINDS[given.what](folder)(dice)
        return 0
    failed = False
    for part in given.what.split(","):
        what, _, count = part.partition(":")
        share = given.share.partition("/")
        parts = int(share[0]), int(share[2])
        failed |= tried(what, int(count) if count else None, given.seed, parts, folder / what)
    return failed


if __name__ == "__main__":
    sys.exit(main())
