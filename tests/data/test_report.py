"""The report: everything that it must show, in one file that a real browser opens and plays."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import footage
import hostile
import pytest
from vader_data.manifest import new_row, rejected, write_manifest
from vader_data.planning import make_plan
from vader_data.report import write_report
from vader_data.report.histogram import binned, histogram
from vader_data.running import Settings, run

from vader_core.errors import VaderError

HOSTILE = "</q><script>document.title = 'owned'</script> \"quoted\" & 'more'"
VOID = {"meta", "br", "img"}

#: Waits until every film of the page can be played, and writes what it found into the page.
PROBE = """
<script>
window.addEventListener("load", async () => {
  const films = [...document.querySelectorAll("video")];
  const played = await Promise.all(films.map((film) => new Promise((done) => {
    film.onerror = () => done("error " + film.error.code);
    const start = () => film.play().then(() => {
      const check = () => film.currentTime > 0 ? done(film.videoWidth) : setTimeout(check, 20);
      check();
    }, (why) => done("refused " + why));
    film.readyState >= 2 ? start() : (film.onloadeddata = start);
  })));
  const found = {played, title: document.title, wide: document.documentElement.scrollWidth - innerWidth};
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
});
</script>
"""


class Page(HTMLParser):
    """Parses strictly: every element that opens must close in order."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.addresses, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        return

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A run with clips on both sides of a threshold."""
    folder = tmp_path_factory.mktemp("films")
    for number, speed in enumerate((0, 0, 1, 2, 3)):
        footage.write(folder / f"{number}.mp4", footage.panning(40, seed=number, speed=speed, contrast=60))
    (folder / "broken.mp4").write_bytes(b"nothing")
    target = tmp_path_factory.mktemp("out")
    plan = make_plan(
        "plain",
        options=("scorers.text_area=none", "scorers.motion.min=2", "cut.min_seconds=1", "detector.name=none"),
    )
    assert run(folder, target, plan, Settings(engine="process"))
    return target


def parsed(path):
    page = Page()
    page.feed(path.read_text())
    page.close()
    assert page.open == []
    return page


def test_it_holds_counts_reasons_histograms_and_samples(out):
    page = parsed(out / "report.html")
    text = " ".join(page.text)
    for said in (
        "6 films",
        "motion below 2",
        "cannot be decoded",
        "below 2: rejected",
        "above 2: kept",
        "clips per second",
    ):
        assert re.sub(r"\s+", " ", said) in re.sub(r"\s+", " ", text), said
    assert len(page.addresses) == 5
    assert all(address.startswith("data:video/mp4;base64,") for address in page.addresses)
    assert 'class="bound"' in (out / "report.html").read_text()


def browser():
    found = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    assert found, "a browser is needed: apt-get install chromium"
    return found


def opened(path, tmp_path, width):
    """What the probe finds in a real browser."""
    copy = tmp_path / "page.html"
    copy.write_text(path.read_text().replace("</body>", f"{PROBE}</body>"))
    command = [
        browser(),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--autoplay-policy=no-user-gesture-required",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},1400",
        "--timeout=20000",
        "--dump-dom",
        copy.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(found[1])


@pytest.mark.quick_cases("500")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_plays_every_sample(out, tmp_path, width):
    found = opened(out / "report.html", tmp_path, width)
    assert found["played"] == [160] * 5
    assert found["wide"] <= 0


def test_what_a_captioner_says_is_text(tmp_path):
    row = new_row(
        id=f"film{HOSTILE}#0-5",
        type="video",
        source="/absent/film.mp4",
        start_frame=0,
        end_frame=5,
        num_frames=5,
        fps=25.0,
        width=64,
        height=64,
        duration=0.2,
        text=HOSTILE,
    )
    rows = [row, rejected({**row, "id": "b"}, f"stage {HOSTILE}", f"why {HOSTILE}")]
    write_manifest(tmp_path / "manifest.parquet", [{**one, HOSTILE: 1.0} for one in rows], (HOSTILE,))
    write_report(tmp_path)
    page = parsed(tmp_path / "report.html")
    assert HOSTILE in "".join(page.text)
    assert "the film is not there any more" in "".join(page.text)
    assert opened(tmp_path / "report.html", tmp_path, 1280)["title"] != "owned"


def manifest_of(folder, words):
    """Sixty clips whose captions, names and fates are these words, and as many scores."""
    folder.mkdir()
    rows = []
    for number, word in enumerate(words):
        facts = {
            "type": "video",
            "source": f"/absent/{word}.mp4",
            "start_frame": number,
            "end_frame": number + 5,
        }
        row = new_row(id=f"{number} {word}", text=word, duration=0.2, **facts) | dict.fromkeys(words, 1.0)
        rows += [row, rejected({**row, "id": f"{number} b"}, f"{word} {number}", word)]
    write_manifest(folder / "manifest.parquet", rows, words, {"plan": {"preset": words[0]}})
    return hostile.Page(write_report(folder).read_text(encoding="utf-8"))


def test_sixty_hostile_captions_and_names_are_words(tmp_path):
    words = [word.encode(errors="replace").decode() for word in hostile.WORDS]  # a table holds UTF-8
    found = manifest_of(tmp_path / "a", words)
    plain = manifest_of(tmp_path / "b", [f"word {number}" for number in range(len(words))])
    assert found.shape() == plain.shape()
    assert found.addresses() == found.others == []
    assert {name for name in found.handlers() if name != "style"} == set()
    assert [attrs["style"] for _, attrs in found.elements if "style" in attrs] == [
        attrs["style"] for _, attrs in plain.elements if "style" in attrs
    ]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("id", None, "has no id"),
        ("reject_reason", "x", "no reject_stage"),
        ("path", "/etc/private.png", "leads out"),
        ("path", "clips/../../private.png", "leads out"),
    ],
)
def test_a_row_that_no_run_writes_is_one_message(tmp_path, column, value, words):
    row = new_row(id="a", type="image", source="/absent/a.mp4", start_frame=0, end_frame=1)
    write_manifest(tmp_path / "manifest.parquet", [{**row, column: value}])
    with pytest.raises(VaderError, match=words):
        write_report(tmp_path)


@pytest.mark.parametrize("plan", [[], "x", {"scorers": 3}, {"cut": {"min_seconds": "many"}}])
def test_a_plan_that_no_run_writes_is_one_message(tmp_path, plan):
    write_manifest(tmp_path / "manifest.parquet", [], facts={"plan": plan})
    with pytest.raises(VaderError, match="plan is none that a run wrote"):
        write_report(tmp_path)


def test_an_empty_table_is_a_page(tmp_path):
    write_manifest(tmp_path / "manifest.parquet", [])
    parsed(write_report(tmp_path))


def test_bars_are_counts():
    assert binned([0.0, 0.1, 0.9, 1.0], 0.0, 1.0, bins=2) == [2, 2]
    assert histogram("x", [], 1.0, 2.0) == ""
    assert "2 clips, 1 within the bounds" in histogram("x", [3.0, 3.0 + 1e-9], None, 3.0)
