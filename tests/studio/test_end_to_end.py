"""The studio as a person uses it, with the demo's models: train, watch, stop, resume, generate, compare."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request

import pytest
from serving import Watched, until

OPTIONS = """trainer.batch_size=1
trainer.max_steps=60
trainer.device=cpu
validation.every=1
validation.prompts=1
validation.seeds=1
validation.batch=1
validation.evaluation_pairs=0
sampler.num_steps=1
run.trackers=[]
"""


PLAYING = "[...document.querySelectorAll('.job video')].every((clip) => clip.currentTime > 0)"


class Command:
    """``vader studio`` as its own process, on a port that it chose."""

    def __init__(self, folder):
        code = "from vader_core.cli import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "studio", "runs", "--port", "0", "--device", "cpu"],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = re.search(r"http://\S+?:\d+", self.process.stdout.readline())[0]
        urllib.request.urlopen(f"{self.address}/runs").read()

    def end(self):
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    found = Command(folder)
    found.folder = folder
    yield found
    found.end()


def step_of(page):
    return int(re.search(r"step (\d+)", page.locator("#progress").inner_text() or "step 0")[1])


@pytest.fixture(scope="module")
def run(command, browser):
    """A run that was started, watched to its third validation, stopped and resumed, all from the page."""
    watched = Watched(browser, command.address)
    page = watched.open("/new-run")
    page.locator("#f-recipe").select_option("demo")
    page.locator("#f-name").fill("first")
    page.locator("#f-options").fill("trainer.batch_size=0")
    page.get_by_role("button", name="Plan").click()
    page.get_by_text("trainer.batch_size=0 is not allowed").wait_for()
    page.locator("#f-options").fill(OPTIONS)
    page.get_by_role("button", name="Plan").click()
    page.locator("#plan table").wait_for()
    assert "60" in page.locator("#plan").inner_text()
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/runs/first")
    page.evaluate("window.loadedOnce = true")
    page.wait_for_selector("#clips")
    # the third validation shows up by itself: its clip, labelled with its step
    page.locator("#clips figcaption", has_text=re.compile(r"step ([2-9]|\d\d)")).first.wait_for()
    assert page.evaluate("window.loadedOnce")
    page.get_by_role("button", name="Stop after this step").click()
    page.get_by_role("button", name="Resume").wait_for()
    stopped = step_of(page)
    assert 2 <= stopped < 60
    page.locator("input[name=max_steps]").fill(str(stopped + 1))
    page.get_by_role("button", name="Resume").click()
    page.locator("#state", has_text="finished").wait_for()
    assert step_of(page) == stopped + 1
    assert page.evaluate("window.loadedOnce")
    assert watched.wrong == []
    assert watched.outside() == []
    watched.close()
    return "first"


@pytest.mark.slow
def test_a_run_is_started_watched_stopped_and_resumed(run, command):
    assert (command.folder / "runs" / run / "report.html").is_file()


@pytest.mark.soak
def test_a_lora_generates_a_clip_that_plays(run, command, watch):
    watched = watch(command.address)
    page = watched.open(f"/generate?run={run}")
    page.wait_for_selector("#f-prompt")
    assert page.locator(".lora select").first.input_value().endswith("/runs/first")
    page.locator("#f-prompt").fill("a red star on a navy background")
    page.get_by_label("height").fill("65")
    page.get_by_role("button", name="Generate").click()
    mistake = page.locator(".field[data-key='video.height'] .mistake")
    mistake.wait_for(state="visible")
    assert mistake.inner_text() == "backbone 'demo': height=65 is not allowed: use 64"
    page.get_by_label("height").fill("64")
    page.locator("input[name=base]").check()
    page.locator("#f-rewards").select_option("demo_aesthetic")
    page.get_by_role("button", name="Generate").click()
    page.wait_for_selector(".job .pair video")
    page.locator(".job video").first.scroll_into_view_if_needed()
    until(page, PLAYING)
    assert page.locator(".job .pair video").count() == 2
    assert "demo_aesthetic" in page.locator(".job .scores").inner_text()
    told = page.locator("[data-copy]").first.get_attribute("data-copy")
    assert "--prompts 'text:a red star on a navy background'" in told
    assert watched.outside() == []


@pytest.mark.slow
def test_runs_are_compared(run, command, watch):
    watched = watch(command.address)
    page = watched.open("/compare")
    options = page.locator("#f-subjects option")
    first = [options.nth(index).get_attribute("value") for index in range(2)]
    page.locator("#f-subjects").select_option(first)
    page.locator("#f-max").fill("1")
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("link", name="Open the comparison").click()
    inside = page.frame_locator("iframe")
    inside.locator("#rewards").wait_for()
    assert inside.locator("#clips .pair video").count() == 3
    assert watched.outside() == []


@pytest.mark.soak
def test_the_queue_is_worked_off_after_the_server_was_killed(run, command, watch):
    page = watch(command.address).open("/generate")
    page.wait_for_selector("#f-prompt")
    for word in ("blue", "green"):
        page.locator("#f-prompt").fill(f"a {word} ball on a black background")
        page.get_by_role("button", name="Generate").click()
        page.locator(".job h2", has_text=word).wait_for()
    command.process.kill()
    command.process.wait()
    again = Command(command.folder)
    try:
        page = watch(again.address).open("/queue")
        for word in ("blue", "green"):
            card = page.locator(f".job:has(h2:has-text('{word}'))")
            card.get_by_role("link", name="Open the clips").wait_for()
        page.get_by_role("link", name="Open the clips").first.click()
        until(page, "document.querySelector('video').currentTime > 0")
    finally:
        again.end()
