"""Every page in a real browser: nothing wrong on it, nothing off the screen, nothing too faint to read."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest
from serving import Served, make_studio, until

from vader_core import api

#: What is shown with less contrast than 4.5 to its background, with the contrast.
FAINT = """() => {
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const numbers = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const found = numbers(getComputedStyle(one).backgroundColor);
      if (found.length < 4 || found[3] > 0.99) return found;
    }
    return [255, 255, 255];
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    const element = text.parentElement;
    if (!text.data.trim() || element.closest("script, style, template")) continue;
    if (!element.getBoundingClientRect().width) continue;
    const style = getComputedStyle(element);
    const drawn = element.closest("svg");
    const a = light(numbers(drawn ? style.fill : style.color));
    const b = light(behind(drawn || element));
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push([contrast.toFixed(2), text.data.trim().slice(0, 40)]);
  }
  return found;
}"""
HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A studio with a run, a batch, a comparison and a failed job, of names and words as bad as can be."""
    folder = tmp_path_factory.mktemp("studio")
    for name in ("runs", "clips", "state", "loras"):
        (folder / name).mkdir()
    (folder / "loras" / "style.safetensors").write_bytes(b"x")
    for name in ("run_with_a_long_name_of_many_words", HOSTILE.replace("/", "")):
        run = folder / "runs" / name
        (run / "checkpoints" / "step-000003").mkdir(parents=True)
        (run / "config.yaml").write_text(
            "backbone: {name: demo}\nreward: [{name: demo_aesthetic_held_out}]\ntrainer: {max_steps: 9}\n"
            "video: {height: 64, width: 64, num_frames: 8}\n"
        )
        lines = []
        for step in range(1, 9):
            rewards = {"demo_aesthetic_held_out": 5.0 + step}
            lines.append({"kind": "train", "step": step, "rewards": rewards, "loss": -step, "seconds": 1.0})
            watch = {"motion": 0.1 * step}
            lines.append({"kind": "validation", "step": step, "rewards": rewards, "watch": watch})
        lines.append({"kind": "alarm", "step": 8, "message": HOSTILE})
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Served(make_studio(folder)) as served:
        asked = {"values": {"trainer.seed": "5"}, "prompt": f"a ball {HOSTILE}", "count": 2}
        asked |= {"loras": [[str(folder / "loras" / "style.safetensors"), 0.5]], "base": True}
        served.sample = served.ask("/api/sample", body=asked).json["job"]["name"]
        run = str(folder / "runs" / "run_with_a_long_name_of_many_words")
        told = {"subjects": [[run, 1]], "prompt": ""}
        served.compare = served.ask("/api/compare", body=told).json["job"]["name"]
        served.failed = served.ask("/api/sample", body=asked | {"prompt": "die"}).json["job"]["name"]
        served.wait(served.sample)
        served.wait(served.compare)
        served.wait(served.failed, "failed")
        yield served


PAGES = [
    "/generate",
    "/runs",
    "/runs/run_with_a_long_name_of_many_words",
    "/new-run",
    "/compare",
    "/compare/{c}",
]
PAGES += ["/queue", "/batches", "/batches/{s}", "/label", "/nowhere"]


@pytest.mark.quick_cases("1280-light")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_is_sound(filled, watch, width, scheme):
    watched = watch(filled.address, width=width, scheme=scheme)
    for path in PAGES:
        page = watched.open(path.format(c=filled.compare, s=filled.sample))
        if path == "/generate":
            page.wait_for_selector(f"#job-{filled.sample} video")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path
        assert page.evaluate(FAINT) == [], path
        expected = ["404"] if path == "/nowhere" else []
        assert [said for said in watched.wrong if not any(one in said for one in expected)] == [], path
        watched.wrong.clear()
    assert watched.outside() == []
    assert watched.page.title() != "owned"


def test_a_run_that_another_process_trains_shows_its_time_left(filled, watch):
    run = filled.studio.places.runs / "run_with_a_long_name_of_many_words"
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        page = watch(filled.address).open(f"/runs/{run.name}")
        page.locator("#progress", has_text="step 8 of 9, 0:01 left").wait_for()
        assert page.locator("#state").inner_text() == "running"
        assert page.locator("#resume").is_hidden()
    (run / ".lock").unlink()


@pytest.mark.slow
def test_hostile_words_are_words(filled, watch):
    watched = watch(filled.address)
    page = watched.open(f"/batches/{filled.sample}")
    assert page.get_by_text(HOSTILE).count() >= 1
    page = watched.open("/runs")
    page.get_by_text("onerror").first.click()
    page.wait_for_selector("#alarms")
    assert HOSTILE in page.inner_text("#alarms").replace("\u200b", "")
    watched.open("/generate")
    page.wait_for_selector(f"#job-{filled.sample} video")
    assert watched.wrong == []


@pytest.mark.slow
def test_a_clip_plays_and_is_enlarged_and_wiped(filled, watch):
    page = watch(filled.address).open(f"/batches/{filled.sample}")
    until(page, "document.querySelector('video').currentTime > 0")
    page.get_by_role("button", name="Pause").click()
    assert page.evaluate("[...document.querySelectorAll('video')].every((clip) => clip.paused)")
    page.locator("input[data-do=scrub]").fill("500")
    at = page.evaluate("[...document.querySelectorAll('video')].map((clip) => clip.currentTime.toFixed(2))")
    assert set(at) == {"0.50"}
    page.locator(".pair video").first.click()
    page.wait_for_selector("dialog[open]")
    assert page.locator("dialog video").count() == 2
    page.keyboard.press("ArrowRight")
    assert "seed 6" in page.locator("dialog .prompt").inner_text()
    page.get_by_role("button", name="Wipe").click()
    page.locator("input[data-do=edge]").fill("25")
    last = page.locator("dialog figure").nth(1)
    assert last.evaluate("(one) => one.style.clipPath") == "inset(0px 0px 0px 25%)"
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


@pytest.mark.slow
def test_a_mistake_stands_beside_its_field(filled, watch):
    watched = watch(filled.address)
    page = watched.open("/generate")
    page.wait_for_selector("#f-prompt")
    page.get_by_label("height").fill("65")
    page.get_by_role("button", name="Generate").click()
    prompt = page.locator(".field[data-key=prompt] .mistake")
    prompt.wait_for(state="visible")
    assert prompt.inner_text() == "write a prompt"
    page.locator("#f-prompt").fill("a ball")
    page.get_by_role("button", name="Generate").click()
    mistake = page.locator(".field[data-key='video.height'] .mistake")
    mistake.wait_for(state="visible")
    assert mistake.inner_text() == "backbone 'demo': height=65 is not allowed: use 64"
    assert page.get_by_label("height").get_attribute("aria-invalid") == "true"
    assert prompt.is_hidden()
    assert watched.wrong == []


@pytest.mark.slow
def test_the_form_follows_the_model_and_a_job_fills_it_again(filled, watch):
    page = watch(filled.address).open("/generate")
    page.wait_for_selector("#f-prompt")
    assert page.locator(".field[data-key=image]").count() == 0
    page.locator("#f-backbone-name").select_option("picture")
    page.wait_for_selector(".field[data-key=image]")
    page.locator("#f-backbone-name").select_option("demo")
    page.wait_for_selector(".field[data-key=image]", state="detached")
    page.locator(f"#job-{filled.sample}").get_by_role("button", name="Again with this seed").click()
    until(page, "document.querySelector('#f-prompt').value.startsWith('a ball')")
    assert page.locator("#f-trainer-seed").input_value() == "5"
    assert page.locator("input[name=base]").is_checked()
    assert page.locator(".lora input").first.input_value() == "0.5"


@pytest.mark.slow
def test_a_batch_is_scored_and_labelled_from_the_page(filled, watch):
    page = watch(filled.address).open("/generate")
    card = page.locator(f"#job-{filled.sample}")
    card.locator("select[data-score]").select_option("demo_alignment")
    page.wait_for_selector(f".job:not(#job-{filled.sample}) .scores:has-text('7.00')")
    page = watch(filled.address).open("/label")
    page.get_by_role("button", name="Left").click()
    page.get_by_text("1 judged").wait_for()
    (line,) = (filled.studio.places.clips / "preferences.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row["chosen"] != row["rejected"]
    assert row["prompt"].startswith("a ball")
    page.keyboard.press("ArrowRight")
    page.get_by_text("2 judged").wait_for()
    page.get_by_role("button", name="Undo the last answer").click()
    page.get_by_text("1 judged").wait_for()
    assert (filled.studio.places.clips / "preferences.jsonl").read_text().splitlines() == [line]
    page.keyboard.press("u")
    page.get_by_text("0 judged").wait_for()
    assert page.get_by_role("button", name="Undo the last answer").is_hidden()


@pytest.mark.slow
def test_a_clip_is_saved_in_any_form(filled, watch):
    watched = watch(filled.address)
    page = watched.open(f"/batches/{filled.sample}")
    for form, start in (("mp4", b"ftyp"), ("gif", b"GIF89a"), ("webm", b"\x1a\x45\xdf\xa3")):
        with page.expect_download() as waited:
            page.locator(".pair").first.get_by_role("link", name=f"Save tuned as {form}").click()
        found = waited.value
        assert found.suggested_filename.endswith(f"-seed5.{form}")
        assert start in Path(found.path()).read_bytes()[:16]
    held = list((filled.studio.places.state / "forms").iterdir())
    assert sorted(path.suffix for path in held) == [".gif", ".webm"]
    assert watched.wrong == []


@pytest.mark.slow
def test_every_kind_of_job_stands_in_the_queue(filled, watch):
    watched = watch(filled.address)
    page = watched.open("/runs")
    page.get_by_role("link", name="Queue").click()
    page.locator(f"#job-{filled.sample}").get_by_role("link", name="Open the clips").wait_for()
    page.locator(f"#job-{filled.compare}").get_by_role("link", name="Open the comparison").wait_for()
    failed = page.locator(f"#job-{filled.failed}")
    assert "SIGKILL" in failed.locator(".body").inner_text()
    assert watched.wrong == []
    asked = {"values": {}, "prompt": "wait", "count": 1}
    name = filled.ask("/api/sample", body=asked).json["job"]["name"]
    page.locator(f"#job-{name}").get_by_role("button", name="Cancel").click()
    page.locator(f"#job-{name} .state.cancelled").wait_for()


@pytest.mark.slow
def test_pages_handed_on_need_nothing_and_play_from_a_folder(filled, watch, tmp_path):
    run = filled.studio.places.runs / "run_with_a_long_name_of_many_words"
    site = api.export_site([run, filled.studio.places.clips / filled.sample], tmp_path / "site")
    watched = watch(site.parent.as_uri())
    page = watched.open("/index.html")
    page.get_by_text(filled.sample).click()
    until(page, "document.querySelector('video').currentTime > 0")
    page.go_back()
    page.get_by_role("link", name="run_with").click()
    page.wait_for_selector("#headline")
    assert watched.wrong == []
    assert watched.outside() == []
    names = {path.name for path in site.parent.rglob("*") if path.is_file()}
    assert not {name for name in names if name.endswith((".json", ".jsonl", ".yaml", ".safetensors"))}
