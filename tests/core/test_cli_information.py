"""The commands that tell things: plugins, show, doctor, weights, score, lora convert."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vader_core.cli.doctor import examined
from vader_core.cli.plugins import overview, problems
from vader_core.cli.show import described
from vader_core.errors import VaderError
from vader_core.hookspecs import hookimpl
from vader_core.lora.adapter import load_adapter, save_adapter
from vader_core.lora.formats import Adapter
from vader_core.registry import KINDS, Plugin, Registry
from vader_core.video import write_video

REPOSITORY = Path(__file__).parents[2]


def run_python(code, *arguments, **environment):
    """A fresh interpreter; its output as text."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | environment,
        check=False,
    )
    return types.SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


def plugin_module(**hooks):
    """A plugin module made of hook functions."""
    module = types.ModuleType("made_up.plugin")
    for name, hook in hooks.items():
        setattr(module, name, hookimpl(hook))
    return module


# -- plugins -------------------------------------------------------------------------------------------------


def test_plugins_lists_every_component(vader, registry, capsys):
    assert vader("plugins", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["components"]) == set(KINDS)
    for kind in KINDS:
        assert {item["name"] for item in found["components"][kind]} == set(registry.components[kind])
    assert {"peft", "diffusers"} <= {item["name"] for item in found["lora_formats"]}
    assert vader("plugins") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in registry.components["reward"])


@pytest.mark.parametrize(
    "arguments", [["plugins"], ["show", "sampler", "ddim"], ["weights"], ["show", "prompts", "file"]]
)
def test_telling_imports_no_torch(arguments):
    code = (
        "import sys; from vader_core.cli import run\n"
        "assert run(sys.argv[1:]) == 0\n"
        "print('TORCH', 'torch' in sys.modules)"
    )
    assert run_python(code, *arguments).out.strip().endswith("TORCH False")


def broken_registry():
    registry = Registry()
    registry.add(
        plugin_module(register_rewardz=lambda register: None), Plugin("bad", "vader-bad", "1", "bad")
    )
    one = plugin_module(register_rewards=lambda register: register("mine", print))
    two = plugin_module(register_rewards=lambda register: register("mine", print))
    registry.add(one, Plugin("one", "vader-one", "1", "one"))
    registry.add(two, Plugin("two", "vader-two", "1", "two"))
    return registry


def test_broken_plugins_and_clashes_are_named(monkeypatch, capsys):
    registry = broken_registry()
    lines = problems(overview(registry))
    assert len(lines) == 2
    assert "plugin 'bad' (vader-bad 1) failed to load: unknown hook 'register_rewardz'" in lines[0]
    assert "reward 'mine' is registered by 'one' and 'two'; uninstall one of them" in lines[1]
    monkeypatch.setattr("vader_core.registry.load_registry", lambda: registry)
    from vader_core.cli import run

    assert run(["plugins"]) == 0
    text = capsys.readouterr().out
    assert all(line in text for line in lines)
    assert run(["doctor"]) == 1
    assert "failed to load" in capsys.readouterr().err


# -- show ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sampler", "reward", "prompts", "backbone"])
def test_show_tells_every_option(vader, registry, capsys, kind):
    table = registry.components["prompt source" if kind == "prompts" else kind]
    own = [name for name, found in table.items() if found.plugin in ("builtin", "testing")]
    for name in own:
        assert vader("show", kind, name, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        fields = table[name].config.model_fields
        assert len(found["options"]) == len(fields)
        for option, field in zip(found["options"], fields, strict=True):
            assert option["option"].endswith(f".{field}")
            assert option["type"]
            assert option["help"], f"{kind} {name} {field} has no description"
        assert vader("show", kind, name) == 0
        assert name in capsys.readouterr().out


def test_show_speaks_of_types_and_defaults(registry):
    options = {option["option"]: option for option in described(registry.get("sampler", "ddim"))["options"]}
    assert options["sampler.eta"]["type"] == "number, >= 0 and <= 1"
    assert options["sampler.eta"]["default"] == "0.0"
    assert options["sampler.timestep_spacing"]["type"] == "leading | trailing | linspace"
    assert options["sampler.set_alpha_to_one"]["default"] == "false"
    options = {
        option["option"]: option for option in described(registry.get("prompt source", "file"))["options"]
    }
    assert options["prompts.path"]["default"] == "required"
    assert options["prompts.negative"]["type"] == "text or null"


def test_show_tells_a_backbones_targets_and_defaults(registry):
    found = described(registry.get("backbone", "tiny"))
    backbone = registry.get("backbone", "tiny").make({}, device=torch.device("cpu"), dtype=torch.float32)
    assert tuple(found["lora_targets"]) == backbone.lora_targets
    assert found["defaults"]["num_steps"] == backbone.defaults.num_steps
    assert found["defaults"]["sampler"] == backbone.defaults.sampler


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "sampler", "ddmi"], "did you mean 'ddim'?"),
        (["show", "modell", "tiny"], "backbone"),
        (["show", "sampler"], "NAME"),
        (["weights", "hps_v9"], "did you mean 'hps_v"),
        (["score", "--reward", "brightnes", "a.mp4"], "did you mean 'brightness'?"),
        (["score", "a.mp4"], "--reward"),
        (["score", "--reward", "brightness", "absent.mp4"], "no such file or folder"),
        (["score", "--reward", "brightness", "--reward", "brightness", "a.mp4"], "given twice"),
        (["score", "--reward", "brightness", "-o", "reward.brightness.x=1", "a.mp4"], "no option 'x'"),
        (
            ["score", "--reward", "brightness", "--prompt", "a", "--prompt", "b", "a.mp4"],
            "2 prompts, but 1 video: give --prompt once",
        ),
        (["lora", "convert", "absent", "out", "--to", "peft"], "no such file or folder"),
        (["lora", "convert", "absent", "out", "--to", "pefft"], "did you mean 'peft'?"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(vader, capsys, arguments, message):
    assert vader(*arguments) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert "Traceback" not in told.err


# -- doctor --------------------------------------------------------------------------------------------------


def test_doctor_knows_the_machine(vader, registry, capsys):
    assert vader("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["torch"] == torch.__version__.partition("+")[0] or found["packages"]["torch"]
    assert found["memory"]["total_gib"] > 0
    assert found["video_encoder"] is True
    assert len(found["torch"]["devices"]) == torch.cuda.device_count()
    assert found["weights"]["prompt source hps_v2"].endswith(" of 4")
    assert found["faults"] == []
    assert vader("doctor") == 0
    assert "H.264 can be written" in capsys.readouterr().out


def test_doctor_never_prints_a_token(registry, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    assert "secretsecret" not in json.dumps(examined(registry))


# -- weights -------------------------------------------------------------------------------------------------


def test_weights_lists_what_is_wanted(vader, capsys):
    assert vader("weights", "hps_v2", "--json") == 0
    (files,) = json.loads(capsys.readouterr().out).values()
    assert [item["file"] for item in files] == [
        f"benchmark/{style}.json" for style in ("anime", "concept-art", "paintings", "photo")
    ]
    assert files[0]["repository"] == "zhwang/HPDv2"
    assert vader("weights", "builtin") == 0
    assert "zhwang/HPDv2/benchmark/photo.json" in capsys.readouterr().out
    assert vader("weights", "ddim") == 0
    assert "no files are wanted" in capsys.readouterr().out


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """As much of the hub as a download needs, on this machine."""

    def __init__(self):
        self.files = {}
        self.asked = []
        self.stall_after = None  # bytes of an answer after which nothing more comes
        self.cut_after = None  # bytes of an answer after which the connection closes, once
        self.gated = False
        self.released = threading.Event()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request, *, body):
        name = re.sub(r"^.*/resolve/[^/]+/", "", request.path.partition("?")[0])
        if request.path.startswith("/api/models/made/up/tree/"):
            tree = [
                {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for file, content in self.files.items()
            ]
            return self.send(request, json.dumps(tree).encode(), body)
        if request.path.startswith("/api/models/made/up"):
            names = [{"rfilename": file} for file in self.files]
            return self.send(
                request, json.dumps({"id": "made/up", "sha": COMMIT, "siblings": names}).encode(), body
            )
        if self.gated:
            return self.refuse(request, 403, {"X-Error-Code": "GatedRepo"})
        if name not in self.files:
            return self.refuse(request, 404, {"X-Error-Code": "EntryNotFound"})
        if body:
            self.asked.append((name, request.headers.get("Range")))
        return self.send(request, self.files[name], body)

    def refuse(self, request, code, headers):
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def send(self, request, content, body):
        start = 0
        ranged = request.headers.get("Range")
        if ranged:
            start = int(ranged.removeprefix("bytes=").rstrip("-"))
        request.send_response(206 if ranged else 200)
        request.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Length", str(len(content) - start))
        if ranged:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.end_headers()
        if body:
            self.send_body(request, content[start:])

    def send_body(self, request, content):
        if self.stall_after is not None and len(content) > self.stall_after:
            request.wfile.write(content[: self.stall_after])
            request.wfile.flush()
            self.released.wait(60)
            request.close_connection = True
        elif self.cut_after is not None:
            request.wfile.write(content[: self.cut_after])
            self.cut_after = None
            request.close_connection = True
        else:
            request.wfile.write(content)


@pytest.fixture
def hub():
    made = Hub()
    yield made
    made.close()


WANTING = """
import sys, types
import vader_core.registry as registry
from vader_core.hookspecs import hookimpl
from vader_core.weights import WeightFile
module = types.ModuleType("made_up.plugin")
files = {
    "one": (WeightFile("made/up", "one.bin", note="a note"),),
    "two": (WeightFile("made/up", "one.bin"), WeightFile("made/up", "missing.bin")),
    "all_of_it": (WeightFile("made/up"),),
    "its_folders": (WeightFile("made/up", folders=("sub", "text"), numbers=2**20),),
    "elsewhere": (WeightFile("github.com/made/up", "head.pt", note="get it by hand"),),
}
def register_rewards(register):
    for name, wanted in files.items():
        register(name, print, weights=wanted)
module.register_rewards = hookimpl(register_rewards)
made = registry.Registry()
made.add(module, registry.Plugin("made_up", "vader-made-up", "1", "made_up.plugin"))
registry.load_registry = lambda: made
from vader_core.cli import run
sys.exit(run(["weights", *sys.argv[1:]]))
"""


def online(hub, cache):
    return {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def test_weights_are_downloaded(hub, tmp_path):
    hub.files = {"one.bin": os.urandom(100_000), "sub/two.bin": b"two"}
    before = run_python(WANTING, "one", "--json", **online(hub, tmp_path))
    assert json.loads(before.out)["reward one"][0]["path"] is None
    done = run_python(WANTING, "one", "--download", **online(hub, tmp_path))
    assert done.code == 0, done.err
    assert "one.bin" in done.err  # the progress bar
    assert "here made/up/one.bin" in done.out
    assert "a note" in done.out
    (facts,) = json.loads(run_python(WANTING, "one", "--json", **online(hub, tmp_path)).out)["reward one"]
    assert Path(facts["path"]).read_bytes() == hub.files["one.bin"]
    assert facts["size"] == 100_000
    asked = len(hub.asked)
    assert run_python(WANTING, "one", "--download", **online(hub, tmp_path)).code == 0
    assert len(hub.asked) == asked  # what is here is not fetched again

    whole = run_python(WANTING, "all_of_it", "--download", "--json", **online(hub, tmp_path))
    assert whole.code == 0, whole.err
    folder = Path(json.loads(whole.out)["reward all_of_it"][0]["path"])
    assert (folder / "sub" / "two.bin").read_bytes() == b"two"
    assert hub.asked[asked:] == [("sub/two.bin", None)]


def test_of_a_repository_the_folders_that_are_read_are_downloaded(hub, tmp_path):
    hub.files = {"all_in_one.safetensors": b"other layout", "index.json": b"{}", "other/x.bin": b"x"}
    hub.files |= {"sub/two.bin": b"two", "sub/config.json": b"{ }", "text/three.bin": b"3"}
    cache = tmp_path / "hub" / "models--made--up" / "snapshots" / COMMIT
    for name in ("sub", "text"):  # what a plan fetches: JSON alone
        (cache / name).mkdir(parents=True)
        (cache / name / "config.json").write_text("{}")
    before = run_python(WANTING, "its_folders", **online(hub, tmp_path))
    assert "made/up  the folders sub, text; about 2.0 MiB in 16 bit, 4.0 MiB in 32" in before.out
    assert "here" not in before.out
    done = run_python(WANTING, "its_folders", "--download", **online(hub, tmp_path))
    assert done.code == 0, done.err
    assert "here made/up" in done.out
    asked = {name for name, _ in hub.asked}
    assert asked == {"index.json", "sub/two.bin", "sub/config.json", "text/three.bin"}
    offline = online(hub, tmp_path) | {"HF_HUB_OFFLINE": "1"}
    again = run_python(WANTING, "its_folders", "--download", "--json", **offline)
    assert again.code == 0, again.err
    (facts,) = json.loads(again.out)["reward its_folders"]
    assert Path(facts["path"]) == cache
    hub.files = {"all_in_one.safetensors": b"other layout"}
    none = run_python(WANTING, "its_folders", "--download", **online(hub, tmp_path / "new"))
    assert none.code == 2
    assert "hub repository made/up: it has no files in sub, text" in none.err


def test_a_killed_download_is_continued(hub, tmp_path):
    content = os.urandom(8_000_000)
    hub.files = {"one.bin": content}
    hub.stall_after = 5_000_000
    process = subprocess.Popen(
        [sys.executable, "-c", WANTING, "one", "--download"],
        cwd=REPOSITORY,
        env=os.environ | online(hub, tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    part = tmp_path / "hub" / "models--made--up" / "blobs" / f"{hashlib.sha256(content).hexdigest()}.part"
    for _ in range(400):
        if part.is_file() and part.stat().st_size >= 4_000_000:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.stat().st_size
    assert 4_000_000 <= kept < 8_000_000
    hub.stall_after = None
    done = run_python(WANTING, "one", "--download", "--json", **online(hub, tmp_path))
    assert done.code == 0, done.err
    assert hub.asked == [("one.bin", None), ("one.bin", f"bytes={kept}-")]
    assert Path(json.loads(done.out)["reward one"][0]["path"]).read_bytes() == content
    assert not part.exists()


def test_a_broken_connection_is_taken_up_again(hub, tmp_path):
    content = os.urandom(3_000_000)
    hub.files, hub.cut_after = {"one.bin": content}, 2_000_000
    done = run_python(WANTING, "one", "--download", "--json", **online(hub, tmp_path))
    assert done.code == 0, done.err
    assert Path(json.loads(done.out)["reward one"][0]["path"]).read_bytes() == content
    (first, second) = hub.asked
    assert first == ("one.bin", None)
    assert second[1] is not None


def test_a_damaged_part_is_found_out(hub, tmp_path):
    content = os.urandom(50_000)
    hub.files = {"one.bin": content}
    part = tmp_path / "hub" / "models--made--up" / "blobs" / f"{hashlib.sha256(content).hexdigest()}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 20_000)
    done = run_python(WANTING, "one", "--download", **online(hub, tmp_path))
    assert done.code == 2
    assert "arrived damaged; run the command again" in done.err
    assert run_python(WANTING, "one", "--download", **online(hub, tmp_path)).code == 0


def test_what_cannot_be_downloaded_is_told_after_the_rest(hub, tmp_path):
    hub.files = {"one.bin": b"one"}
    done = run_python(WANTING, "two", "elsewhere", "--download", **online(hub, tmp_path))
    assert done.code == 2
    assert "file missing.bin" in done.err
    assert "github.com/made/up/head.pt: get it by hand" in done.err
    assert "Traceback" not in done.err
    found = json.loads(run_python(WANTING, "two", "--json", **online(hub, tmp_path)).out)["reward two"]
    assert [item["path"] is not None for item in found] == [True, False]


def test_gated_and_offline_name_what_to_do(hub, tmp_path):
    hub.files, hub.gated = {"one.bin": b"one"}, True
    done = run_python(WANTING, "one", "--download", **online(hub, tmp_path))
    assert done.code == 2
    assert "is gated: accept its licence on the hub and set HF_TOKEN" in done.err
    done = run_python(WANTING, "one", "--download", **(online(hub, tmp_path) | {"HF_HUB_OFFLINE": "1"}))
    assert done.code == 2
    assert "made/up, file one.bin" in done.err
    assert "go online" in done.err
    assert "Traceback" not in done.err


# -- score ---------------------------------------------------------------------------------------------------


@pytest.fixture
def clips(tmp_path):
    """A grey mp4, a gif, and a folder of pictures of known brightness."""
    write_video(torch.full((4, 3, 32, 32), 0.5), tmp_path / "grey.mp4", 8)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, level in enumerate((0, 255)):
        Image.new("RGB", (16, 16), (level, level, level)).save(folder / f"{index}.png")
    levels = [Image.new("RGB", (16, 16), (level, level, level)) for level in (0, 255, 254, 255)]
    levels[0].save(tmp_path / "a.gif", save_all=True, append_images=levels[1:], duration=100)
    return tmp_path


def test_score_files(vader, clips, capsys):
    paths = [clips / "grey.mp4", clips / "a.gif", clips / "pictures"]
    assert (
        vader("score", "--reward", "brightness", "--reward", "motion", *paths, "--prompt", "grey", "--json")
        == 0
    )
    found = json.loads(capsys.readouterr().out)["videos"]
    assert [item["video"] for item in found] == [str(path) for path in paths]
    assert [item["prompt"] for item in found] == ["grey"] * 3
    assert [item["scores"]["brightness"] for item in found] == pytest.approx([0.5, 0.75, 0.5], abs=0.01)
    assert [item["scores"]["motion"] for item in found] == pytest.approx([0.0, 1 / 3, 1.0], abs=0.01)
    assert vader("score", "--reward", "brightness", *paths) == 0
    text = capsys.readouterr().out
    assert "0.749" in text
    assert "mean" in text


def test_score_chooses_frames_and_prompts(vader, clips, capsys):
    assert (
        vader("score", "--reward", "brightness", clips / "a.gif", "--reward-frames", "first", "--json") == 0
    )
    assert json.loads(capsys.readouterr().out)["videos"][0]["scores"]["brightness"] == 0.0
    assert vader("score", "--reward", "brightness", clips / "a.gif", "--reward-frames", "9") == 2
    assert "the clip has 4 frames" in capsys.readouterr().err
    (clips / "00.mp4").write_bytes((clips / "grey.mp4").read_bytes())
    (clips / "prompts.json").write_text(json.dumps([{"prompt": "a grey wall", "scores": {}}]))
    assert vader("score", "--reward", "brightness", clips / "00.mp4", "--json") == 0
    assert json.loads(capsys.readouterr().out)["videos"][0]["prompt"] == "a grey wall"


# -- lora convert --------------------------------------------------------------------------------------------


def adapter(rank=4, alpha=8.0, modules=("blocks.0.attn1.to_q", "blocks.1.attn1.to_k"), odd=None):
    """A random adapter; ``odd`` gives one module another rank."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for module in modules:
        own = (odd or {}).get(module, rank)
        tensors[f"{module}.lora_A.weight"] = torch.randn(own, 6, generator=generator)
        tensors[f"{module}.lora_B.weight"] = torch.randn(8, own, generator=generator)
    return Adapter(tensors, rank, alpha)


def updates(found):
    """What an adapter adds to each weight."""
    scale = found.alpha / found.rank
    ends = ".lora_A.weight"
    return {
        name.removesuffix(ends): scale
        * found.tensors[name.replace("lora_A", "lora_B")].flatten(1)
        @ value.flatten(1)
        for name, value in found.tensors.items()
        if name.endswith(ends)
    }


def same(one, other):
    first, second = updates(one), updates(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.allclose(value, second[name], atol=1e-5)


@pytest.mark.parametrize("odd", [None, {"blocks.1.attn1.to_k": 2}])
def test_a_lora_goes_there_and_back(vader, tmp_path, capsys, odd):
    source = adapter(odd=odd)
    save_adapter(source, tmp_path / "first")
    assert vader("lora", "convert", tmp_path / "first", tmp_path / "a.safetensors", "--to", "diffusers") == 0
    told = capsys.readouterr().out
    assert "2 modules, rank 4, alpha 8" in told
    names = load_file(tmp_path / "a.safetensors")
    assert "transformer.blocks.0.attn1.to_q.lora_A.weight" in names
    assert vader("lora", "convert", tmp_path / "a.safetensors", tmp_path / "second", "--to", "peft") == 0
    same(load_adapter(tmp_path / "second"), load_adapter(tmp_path / "first"))
    assert vader("lora", "convert", tmp_path / "first", tmp_path / "a.safetensors", "--to", "diffusers") == 2
    assert "--overwrite" in capsys.readouterr().err
    arguments = ("lora", "convert", tmp_path / "first", tmp_path / "a.safetensors", "--to", "diffusers")
    assert vader(*arguments, "--overwrite") == 0
    tensors_file = tmp_path / "second" / "adapter_model.safetensors"
    assert vader("lora", "convert", tensors_file, tmp_path / "b.safetensors", "--to", "diffusers") == 0


def test_diffusers_reads_what_we_write_and_we_what_it_writes(tmp_path):
    from diffusers import UNet2DConditionModel

    from vader_core.builtin.lora.diffusers import DiffusersFile
    from vader_core.lora.adapter import LoraSettings, adapter_of, attach_lora

    def model():
        torch.manual_seed(0)
        return UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=8,
            attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ).eval()

    ours, theirs, base = model(), model(), model()
    attach_lora(ours, LoraSettings(rank=4, alpha=12.0, targets=("to_q", "to_out.0", "conv1")))
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    path = tmp_path / "a.safetensors"
    file = DiffusersFile()
    file.write(adapter_of(ours), path)
    assert file.recognises(path)
    theirs.load_lora_adapter(path, prefix="unet")
    inputs = (torch.randn(1, 4, 8, 8), torch.tensor([10]), torch.randn(1, 5, 8))
    with torch.no_grad():
        expected, found, plain = (one(*inputs).sample for one in (ours, theirs, base))
    assert float((expected - plain).abs().max()) > 1e-3
    assert torch.allclose(expected, found, atol=1e-5)

    theirs.save_lora_adapter(tmp_path / "theirs", adapter_name="default_0")
    (saved,) = (tmp_path / "theirs").glob("*.safetensors")
    bare = {f"unet.{name.removeprefix('unet.')}": value for name, value in load_file(saved).items()}
    note = {"unet.r": 4, "unet.lora_alpha": 12.0, "unet.alpha_pattern": {}}
    for notes, factor in ({}, 1.0), ({"lora_adapter_metadata": json.dumps(note)}, 3.0):
        save_file(bare, tmp_path / "b.safetensors", notes)
        read = file.read(tmp_path / "b.safetensors")
        same(Adapter(read.tensors, read.rank, read.alpha / factor), adapter_of(ours))


def test_older_diffusers_files_are_read(tmp_path):
    from vader_core.builtin.lora.diffusers import DiffusersFile

    source = adapter(alpha=4.0)
    older = {".lora_A.weight": ".lora.down.weight", ".lora_B.weight": ".lora.up.weight"}
    tensors = {}
    for name, value in source.tensors.items():
        ending = ".lora_A.weight" if "lora_A" in name else ".lora_B.weight"
        tensors[f"unet.{name.removesuffix(ending)}{older[ending]}"] = value
    tensors["unet.blocks.0.attn1.to_q.alpha"] = torch.tensor(4.0)
    tensors["unet.blocks.1.attn1.to_k.alpha"] = torch.tensor(2.0)  # half as strong as the other
    save_file(tensors, tmp_path / "a.safetensors")
    read = DiffusersFile().read(tmp_path / "a.safetensors")
    expected, found = updates(source), updates(read)
    assert torch.allclose(found["blocks.0.attn1.to_q"], expected["blocks.0.attn1.to_q"], atol=1e-5)
    assert torch.allclose(found["blocks.1.attn1.to_k"], expected["blocks.1.attn1.to_k"] / 2, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["unet.a.lora_A.weight"], r"unet\.a\.lora_A\.weight has no counterpart"),
        (["unet.a.weight"], "no tensor of a plain LoRA"),
        (["unet.a.lora_A.weight", "text_encoder.a.lora_B.weight"], "belongs to a text encoder"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, names, message):
    from vader_core.builtin.lora.diffusers import DiffusersFile

    path = tmp_path / "a.safetensors"
    save_file({name: torch.zeros(2, 2) for name in names}, path)
    with pytest.raises(VaderError, match=message):
        DiffusersFile().read(path)
    (tmp_path / "b.safetensors").write_bytes(b"not safetensors")
    assert not DiffusersFile().recognises(tmp_path / "b.safetensors")
