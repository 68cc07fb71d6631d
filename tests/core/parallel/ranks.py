"""Gradients of one update, by one process and by several, for :mod:`test_parallel`.

    python ranks.py WORLD RESULT.json NAME…

Imports once and forks the processes, which find each other over gloo once and then run one case after the
other. Every case is run by plain data parallel processes and by one, and by processes that share weights, a
sequence, or both; what is written is how far apart the gradients are.
"""

from __future__ import annotations

import bisect
import json
import os
import pickle
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from vader_core.api.configure import complete
from vader_core.assembly.loading import load_parts
from vader_core.assembly.parallel import in_processes
from vader_core.assembly.parts import DTYPES
from vader_core.assembly.prepare import prepare
from vader_core.parallel.whole import in_pieces, own_piece, whole
from vader_core.registry import Registry, load_registry
from vader_core.run.config import validated
from vader_core.testing.plugin import add_testing_plugin
from vader_core.training.joined import join
from vader_core.training.processes import SingleProcess
from vader_core.training.setup import make_trainer
from vader_core.training.texts import encode_up_front

WAN = {
    "backbone": {"name": "wan", "weights": "random", "architecture": "tiny", "max_sequence_length": 16},
    "video": {"height": 32, "width": 32, "num_frames": 5},
    "sampler": {"num_steps": 3},
    "reward": [{"name": "brightness"}],
    "prompts": {"source": "fixed"},
    "lora": {"rank": 2},
    "objective": {"reward_gradient": {"gradient": "last"}},
    "trainer": {"device": "cpu", "lr": 0.01},
    "validation": {"prompts": 0},
}


def varied(**changes: Any) -> dict[str, Any]:
    """The Wan case with other options: ``section__key=value``."""
    tree: dict[str, Any] = json.loads(json.dumps(WAN))
    for name, value in changes.items():
        at, *path = name.split("__")
        section = tree.setdefault(at, {})
        for key in path[:-1]:
            section = section.setdefault(key, {})
        section[path[-1]] = value
    return tree


def objective(**options: Any) -> dict[str, Any]:
    return {f"objective__reward_gradient__{name}": value for name, value in options.items()}


#: Its autoencoder makes 8 frames, and 32 pixels a side, one latent.
LTX = {"height": 32, "width": 64, "num_frames": 9}
HPS = {"name": "hps", "weights": "random", "architecture": "tiny"}
CASES: dict[str, dict[str, Any]] = {
    "last": varied(),
    "last:3": varied(**objective(gradient="last:3"), sampler__num_steps=4),
    "random": varied(**objective(gradient="random")),
    "refl": varied(**objective(gradient="refl:1-2")),
    "detach_input": varied(**objective(gradient="last:2", detach_input=True)),
    "base_weight": varied(**objective(base_weight=0.5)),
    "checkpointing": varied(**objective(gradient="last:2"), performance__gradient_checkpointing=True),
    "bf16": varied(trainer__precision="bf16"),
    "folded": varied(performance__fold_adapter=True),
    "kept": varied(parallel__keep_gathered=True, parallel__shard=2),
    "experts": varied(backbone__architecture="tiny-a14b"),
    "offload": varied(performance__offload=True),
    "rewards": varied(parallel__shard_rewards=True) | {"reward": [HPS]},
    "all frames": varied(**objective(reward_frames="all")),
    "ltx": varied() | {"backbone": {**WAN["backbone"], "name": "ltx"}, "video": LTX},
}


#: What is at rest between two cases: the groups of processes, by who shares what.
_JOINED: dict[tuple[int, int], SingleProcess] = {}


def gradient(tree: dict[str, Any], registry: Registry, *, reduced: bool = True) -> dict[str, torch.Tensor]:
    """What one update would follow: the reduced gradient of the adapter."""
    # What is left is no rounding; a network that scores takes the pictures as the autoencoder made them.
    wide = tree["trainer"].get("precision") != "bf16" and tree["reward"] == WAN["reward"]
    DTYPES["fp32"] = torch.float64 if wide else torch.float32
    config = complete(validated(tree), registry)
    assembly = prepare(config, registry)
    layout = config.parallel.shard, config.parallel.context
    processes = _joined(layout, assembly)
    assembly.mesh = processes.mesh
    assembly.config = in_processes(assembly.config, processes.layout)
    load_parts(assembly, lambda: encode_up_front(assembly, processes))
    trainer = make_trainer(assembly, processes, None)
    _fill(trainer.updates.parameters)
    found: dict[str, torch.Tensor] = {}

    def kept(finite: bool) -> float:
        if reduced:
            processes.average_gradients(trainer.updates.parameters)
        for name, parameter in assembly.model.tuning.parameters().items():
            assert parameter.grad is not None
            found[name] = parameter.grad.clone()
        return 0.0

    trainer.updates.finish = kept  # type: ignore[method-assign]
    trainer.train_step()
    return found


def _joined(layout: tuple[int, int], assembly: Any) -> SingleProcess:
    return _JOINED[layout] if layout in _JOINED else _JOINED.setdefault(layout, join(assembly))


@torch.no_grad()
def _fill(parameters: list[torch.nn.Parameter]) -> None:
    """Away from the zeros that an adapter starts from, the same on every process."""
    generator = torch.Generator().manual_seed(7)
    for parameter in parameters:
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def together(world: int, work: Callable[[], Any]) -> Any:
    """The first process's result of ``work``, done by ``world`` forked processes that find each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "result"
        children = []
        for rank in range(world):
            child = os.fork()
            if child == 0:
                _work(rank, world, port, work, place)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(codes):
            raise RuntimeError(f"the processes ended with {codes}")
        with place.open("rb") as stream:
            return pickle.load(stream)


def _work(rank: int, world: int, port: int, work: Callable[[], Any], place: Path) -> None:
    code = 1
    try:
        torch.set_num_threads(1)
        if world > 1:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "LOCAL_WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        found = work()
        if rank == 0:
            with place.open("wb") as stream:
                pickle.dump(found, stream)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference over the largest number."""
    assert one.keys() == other.keys()
    largest = max(float(value.abs().max()) for value in one.values())
    assert largest > 0
    return max(float((value - other[name]).abs().max()) for name, value in one.items()) / largest


def compared(world: int, names: Sequence[str], registry: Registry) -> dict[str, dict[str, float]]:
    """How far the ways of sharing are from the plain ones, by case and by way."""
    plain = {name: {**CASES[name], "parallel": {}} for name in names}

    def batch(name: str, videos: int) -> dict[str, Any]:
        return dict(plain[name], trainer={**plain[name]["trainer"], "batch_size": videos})

    def shared(name: str) -> dict[str, dict[str, torch.Tensor]]:
        halves = {"shard": 2, **CASES[name].get("parallel", {})}
        ways = {"plain": {}, "shard": halves, "context": {"context": 2}, "both": {"context": 2, **halves}}
        found = {
            way: gradient({**plain[name], "parallel": parallel}, registry) for way, parallel in ways.items()
        }
        tree = {**plain[name], "parallel": {"context": 2}}
        found["not summed"] = gradient(tree, registry, reduced=False)
        return found

    def alone(name: str) -> dict[str, dict[str, torch.Tensor]]:
        # Two that share a sequence make one video, so with four of them there are two.
        videos = {"all": world, "half": world // 2}
        return {way: gradient(batch(name, count), registry) for way, count in videos.items()}

    several = together(world, lambda: {name: shared(name) for name in names})
    ones = together(1, lambda: {name: alone(name) for name in names})
    found = {}
    for name in names:
        ways, one = several[name], ones[name]
        found[name] = {
            "shard": apart(ways["plain"], ways["shard"]),
            "data": apart(one["all"], ways["plain"]),
            "context": apart(one["half"], ways["context"]),
            "both": apart(one["half"], ways["both"]),
        }
        if world == 2:
            found[name]["context, not summed"] = apart(one["half"], ways["not summed"])
    return found


FULL = {
    "backbone": {"name": "tiny"},
    "sampler": {"num_steps": 2},
    "reward": [{"name": "brightness"}],
    "prompts": {"source": "fixed"},
    "tuning": {"kind": "full"},
    "trainer": {"device": "cpu", "lr": 0.001, "max_steps": 3, "ema": 0.5},
    "validation": {"prompts": 2, "seeds": 1, "batch": 1, "evaluation_pairs": 3},
    "run": {"trackers": [], "checkpoint_every": 2},
    "objective": {"reward_gradient": {"gradient": "last", "reward_frames": "all"}},
}


def trained(world: int, registry: Registry, folder: Path, **changes: Any) -> dict[str, Any]:
    """A whole run of full weights: what it kept, and what it said."""

    def work() -> dict[str, Any]:
        from vader_core.api.train import train
        from vader_core.tuning.full import WEIGHTS_FILE

        tree = {**FULL, "parallel": changes.get("parallel", {})}
        tree["trainer"] = FULL["trainer"] | changes.get("trainer", {})
        resume = changes.get("resume", False)
        summary = train(
            validated(tree), out=folder, registry=registry, resume=resume, allow_changes=bool(resume)
        )
        from safetensors.torch import load_file

        kept = load_file(sorted((folder / "checkpoints").glob("step-*"))[-1] / WEIGHTS_FILE)
        metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return {"kept": kept, "summary": summary, "metrics": metrics}

    return together(world, work)


def full(registry: Registry) -> dict[str, Any]:
    """Full weights in pieces against one process with twice the batch; resumed too."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        one = trained(1, registry, folder / "one", trainer={"batch_size": 2})
        two = trained(2, registry, folder / "two", parallel={"shard": 2})
        first = {"max_steps": 2}
        trained(2, registry, folder / "again", parallel={"shard": 2}, trainer=first)
        again = trained(2, registry, folder / "again", parallel={"shard": 2}, resume=True)
        scores = [run["summary"]["evaluation"]["brightness"] for run in (one, two)]
        watched = [
            [line["watch"] | line["rewards"] for line in run["metrics"] if line["kind"] == "validation"]
            for run in (one, two)
        ]
        start = Path(folder / "one" / "checkpoints" / "step-000002")
        assert start.is_dir()
    return {
        "kept": apart(one["kept"], two["kept"]),
        "resumed": apart(two["kept"], again["kept"]),
        "evaluation": max(abs(scores[0][name] - scores[1][name]) for name in ("base", "tuned")),
        "validation": max(
            abs(value - other[name])
            for mine, other in zip(*watched, strict=True)
            for name, value in mine.items()
        ),
    }


FIGURES = {
    **WAN,
    "lora": {"rank": 2},
    "sampler": {"num_steps": 2},
    "trainer": {"device": "cpu", "lr": 0.05, "max_steps": 1, "global_batch": 4},
    "validation": {"prompts": 3, "seeds": 1, "batch": 1, "evaluation_pairs": 3},
    "run": {"trackers": []},
    "reward": [HPS],
}


def judged(tree: dict[str, Any], registry: Registry, folder: Path) -> dict[str, Any]:
    """What a run says of itself, and what is said of one adapter later: validation, evaluation, clips."""
    from vader_core.api.evaluate import evaluate
    from vader_core.api.sample import sample
    from vader_core.api.train import train

    DTYPES["fp32"] = torch.float32
    config = validated(tree)
    summary = train(config, out=folder / "run", registry=registry)
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    lora = str(folder.parent / "alone" / "run")
    made = sample(config, lora=lora, max_prompts=3, rewards=["brightness"], registry=registry)
    return {
        "validation": [line["watch"] | line["rewards"] for line in lines if line["kind"] == "validation"],
        "run": summary["evaluation"]["hps"],
        "evaluation": evaluate(config, lora, pairs=3, registry=registry)["evaluation"]["1"]["hps"],
        "clips": made.videos,
        "scores": made.scores,
    }


def figures(world: int, registry: Registry, *names: str) -> dict[str, dict[str, float]]:
    """How far the figures of processes that share something are from one process's, by way and by figure."""
    pieces = {"shard": 2, "shard_rewards": True, "shard_text_encoders": True}
    ways = {"shard": pieces, "context": {"context": 2}, "both": {"context": 2, **pieces}}
    with tempfile.TemporaryDirectory() as place:

        def of(way: str, count: int, parallel: dict[str, Any]) -> dict[str, Any]:
            tree = {**FIGURES, "parallel": parallel}
            found: dict[str, Any] = together(count, lambda: judged(tree, registry, Path(place) / way))
            return found

        alone = of("alone", 1, {})
        assert alone["evaluation"]["tuned"] != alone["evaluation"]["base"]
        assert len(alone["clips"]) == 3
        return {way: _figures_apart(alone, of(way, world, ways[way])) for way in names}


def _figures_apart(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    found = {
        "validation": max(
            abs(value - theirs[name])
            for mine, theirs in zip(one["validation"], other["validation"], strict=True)
            for name, value in mine.items()
        )
    }
    for name in ("run", "evaluation"):
        numbers = [key for key, value in one[name].items() if isinstance(value, float)]
        assert {"base", "tuned"} <= set(numbers)
        found[name] = max(abs(one[name][key] - other[name][key]) for key in numbers)
    found["clips"] = float((one["clips"] - other["clips"]).abs().max())
    found["scores"] = max(
        float((value - other["scores"][name]).abs().max()) for name, value in one["scores"].items()
    )
    return found


def unread(world: int, registry: Registry) -> dict[str, dict[str, Any]]:
    """Weights of which each process reads its own rows, beside those that it reads whole, by case."""
    cases = {"float32": varied(), "experts in bfloat16": varied(trainer__precision="bf16")}

    def loaded(tree: dict[str, Any]) -> tuple[bool, dict[str, torch.Tensor]]:
        DTYPES["fp32"] = torch.float32
        assembly = prepare(complete(validated(tree), registry), registry)
        layout = assembly.config.parallel.shard, assembly.config.parallel.context
        assembly.mesh = _joined(layout, assembly).mesh
        load_parts(assembly, lambda: None)
        denoiser = assembly.backbone.denoiser
        state = {**denoiser.state_dict(), **dict(denoiser.named_buffers())}
        whole_state = {key: whole(value.detach()) for key, value in state.items()}
        return assembly.backbone.unread is not None, whole_state

    def work(folder: Path) -> dict[str, dict[str, Any]]:
        found = {}
        for name, case in cases.items():
            stored = {"name": "wan", "weights": str(folder / name), "max_sequence_length": 16}
            tree = {**case, "backbone": stored}
            cut = {**tree, "parallel": {"shard": world}}
            (plain, one), (later, other) = loaded(tree), loaded(cut)
            assert one.keys() == other.keys()
            alike = [
                value.dtype == other[key].dtype and torch.equal(value, other[key])
                for key, value in one.items()
            ]
            found[name] = {"left unread": [plain, later], "weights": len(alike), "alike": sum(alike)}
            found[name]["gradient"] = apart(gradient(tree, registry), gradient(cut, registry))
        return found

    DTYPES["fp32"] = torch.float32
    with tempfile.TemporaryDirectory() as place:
        for name, model in zip(cases, ("tiny", "tiny-a14b"), strict=True):
            tiny_pipeline("wan", model, Path(place) / name)
        found: dict[str, dict[str, Any]] = together(world, lambda: work(Path(place)))
    return found


def tiny_pipeline(family: str, model: str, folder: Path, **given: Any) -> Path:
    """A pipeline's folder with a text encoder, as diffusers saves it."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "diffusers"))
    from tiny_pipelines import build

    return build(family, model, folder, **given)


class Watched:
    """What of this process lies in the machine's memory, many times a second; of a shared page its part."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
            held = next(line for line in lines if line.startswith("Pss:"))
            self.seen.append((time.monotonic(), 1024 * int(held.split()[1])))


def stored(world: int, registry: Registry, **options: Any) -> dict[str, float]:
    """What loading a model from its files takes of the machine's memory, as shares of the model.

    Its text encoder is real, and in pieces too.

    Args:
        world: Processes.
        registry: Where components come from.
        **options: Of the backbone.
    """
    with tempfile.TemporaryDirectory() as place:
        wide = {"num_layers": 6, "ffn_dim": 2**18}
        folder = tiny_pipeline("wan", "tiny", Path(place) / "model", network=wide)
        backbone = {"name": "wan", "weights": str(folder), "max_sequence_length": 16, **options}
        tree = {**WAN, "backbone": backbone}

        def loaded(parallel: dict[str, Any]) -> dict[str, Any]:
            assembly = prepare(complete(validated({**tree, "parallel": parallel}), registry), registry)
            processes = join(assembly)
            assembly.mesh = processes.mesh
            with Watched() as watched:
                cut: dict[str, bool] = {}

                def encode() -> None:
                    encoder = assembly.backbone.modules()["text_encoder"]
                    cut["before"] = any(map(in_pieces, encoder.parameters()))
                    encode_up_front(assembly, processes)
                    cut["after"] = any(map(in_pieces, encoder.parameters()))

                load_parts(assembly, encode)
            texts = assembly.backbone.encode_text(assembly.draw_prompts([0])).positive
            held = sum(own_piece(one)[0].nbytes for one in assembly.backbone.denoiser.parameters())
            told = {"seen": watched.seen, "held": held, "cut": cut}
            every: list[Any] = [told] * processes.layout.world
            if processes.layout.world > 1:
                torch.distributed.all_gather_object(every, told)
            return {"every": every, "texts": texts}

        alone = together(1, lambda: loaded({}))
        shared = together(world, lambda: loaded({"shard": world, "shard_text_encoders": True}))
    size = alone["every"][0]["held"]
    assert all(one["cut"] == {"before": True, "after": True} for one in shared["every"])
    return {
        "model, MiB": size / 2**20,
        "kept by each": max(one["held"] for one in shared["every"]) / size,
        "most in one process": max(map(_grown, (one["seen"] for one in shared["every"]))) / size,
        "most on the machine": _together(one["seen"] for one in shared["every"]) / size,
        "texts": max(
            float((value - shared["texts"][name]).abs().max()) for name, value in alone["texts"].items()
        ),
    }


def _grown(seen: list[tuple[float, int]]) -> float:
    return max(held for _, held in seen) - seen[0][1]


def _together(every: Iterable[list[tuple[float, int]]]) -> float:
    """The most that several processes had at one time beyond what they began with."""
    grown = [[(at, held - seen[0][1]) for at, held in seen] for seen in every]
    moments = sorted(at for seen in grown for at, _ in seen)
    return max(sum(_at(seen, moment) for seen in grown) for moment in moments)


def _at(seen: list[tuple[float, int]], moment: float) -> int:
    before = bisect.bisect_right(seen, (moment, sys.maxsize))
    return seen[before - 1][1] if before else 0


def waits(world: int, registry: Registry) -> list[float]:
    """Seconds that each group of a process waits, where half a minute was asked for."""

    def work() -> list[float]:
        from torch.distributed import distributed_c10d

        parallel = {"shard": 2, "context": 2, "timeout": 0.5}
        assembly = prepare(complete(validated({**WAN, "parallel": parallel}), registry), registry)
        processes = join(assembly)
        assembly.mesh = processes.mesh
        load_parts(assembly, lambda: None)
        cpu = torch.device("cpu")
        groups = list(distributed_c10d._world.pg_map)
        return [group._get_backend(cpu).options._timeout.total_seconds() for group in groups]

    found: list[float] = together(world, work)
    return found


def _import_what_a_case_imports(registry: Registry) -> None:
    """A case in this process: else each fork would import 1,000 modules, longer than its own work takes."""
    before = dict(DTYPES)
    gradient({**WAN, "parallel": {}}, registry)
    DTYPES.update(before)
    _JOINED.clear()
    import vader_core.parallel.context
    import vader_core.parallel.shard  # noqa: F401


def main() -> None:
    world, place, *names = int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
    torch.set_num_threads(1)
    registry = add_testing_plugin(load_registry())
    _import_what_a_case_imports(registry)
    others = {"full": lambda: full(registry), "waits": lambda: waits(world, registry)}
    others["unread"] = lambda: unread(world, registry)
    others["stored"] = lambda: stored(world, registry)
    others["stored whole"] = lambda: stored(world, registry, transformer_subfolder="transformer")
    others["figures"] = lambda: figures(world, registry, "shard", "context", "both")
    others["figures of both"] = lambda: figures(world, registry, "both")
    names = names or [*CASES, "full", "figures"]
    cases = [name for name in names if name in CASES]
    found: dict[str, Any] = compared(world, cases, registry) if cases else {}
    found |= {name: others[name]() for name in names if name in others}
    place.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
