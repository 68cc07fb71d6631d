"""The core's prompt sources and the words of --prompts."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from vader_core import prompts
from vader_core.builtin import plugin
from vader_core.builtin.prompts import parse_prompts
from vader_core.builtin.prompts.article import with_article
from vader_core.builtin.prompts.themed import THEMES, read_words
from vader_core.errors import VaderError
from vader_core.prompts import shuffled_index
from vader_core.registry import Plugin, Registry

FIELDS = ("text", "negative", "image", "metadata")


@pytest.fixture(scope="module")
def sources():
    registry = Registry()
    registry.add(plugin, Plugin("builtin", "vader-core", "0", plugin.__name__))
    assert not registry.broken()
    return registry.components["prompt source"]


@pytest.fixture
def make(sources):
    return lambda name, **options: sources[name].make(options, device="cpu", dtype=None)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(prompts):
    return [prompt.text for prompt in prompts]


# -- the grammar ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "name", "options"),
    [
        ("animal", "animal", {}),
        ("file:a/b.csv", "file", {"path": "a/b.csv"}),
        ("file:C:/b.csv", "file", {"path": "C:/b.csv"}),
        ("text:a cat: the film", "text", {"text": "a cat: the film"}),
        ("images:pictures", "images", {"folder": "pictures"}),
    ],
)
def test_the_words_of_prompts(words, name, options):
    assert parse_prompts(words) == (name, options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "empty"),
        ("text", "text:…"),
        ("file:", "nothing stands after the colon"),
        ("text:  ", "nothing stands after the colon"),
        ("flie:a.txt", "'flie' is not a kind of prompts"),
        ("a cat: the film", "text:a cat: the film"),
    ],
)
def test_words_that_mean_nothing(words, message):
    with pytest.raises(VaderError, match=message):
        parse_prompts(words)


# -- drawing -------------------------------------------------------------------------------------------------


def test_drawing_is_a_function_of_seed_and_index(make):
    source = make("animal")
    first = source.draw(range(100), seed=3)
    assert source.draw([57, 3, 99], seed=3) == [first[57], first[3], first[99]]
    assert make("animal").draw(range(100), seed=3) == first
    assert source.draw(range(100), seed=4) != first
    size = len(read_words("lists/animal.txt")) - 8
    assert len(set(texts(first[:size]))) == size  # a pass brings no prompt twice
    assert set(texts(first[size : 2 * size])) == set(texts(first[:size]))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 64, 65, 1000])
def test_a_pass_brings_every_item_once_and_no_pass_is_like_another(size):
    passes = [[shuffled_index(turn * size + i, size, 3) for i in range(size)] for turn in range(4)]
    assert all(sorted(order) == list(range(size)) for order in passes)
    assert passes == [[shuffled_index(turn * size + i, size, 3) for i in range(size)] for turn in range(4)]
    if size >= 7:
        assert len({tuple(order) for order in passes}) == 4
        assert [shuffled_index(i, size, 4) for i in range(size)] != passes[0]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_short_lists_come_in_all_their_orders_equally_often(size):
    count, orders = 4000, math.factorial(size)
    found = Counter(tuple(shuffled_index(i, size, seed) for i in range(size)) for seed in range(count))
    assert len(found) == orders
    wanted = count / orders
    chi_squared = sum((times - wanted) ** 2 / wanted for times in found.values())
    assert chi_squared < orders + 5 * math.sqrt(2 * orders)


def test_a_draw_costs_the_same_however_long_the_list_is(monkeypatch):
    hashes = []
    real = prompts._hashed

    def counted(text):
        hashes.append(text)
        return real(text)

    monkeypatch.setattr(prompts, "_hashed", counted)
    for size in (10, 24_000, 10**6, 10**15):  # no list of 10^15 fits any memory
        hashes.clear()
        for index in range(100):
            assert 0 <= shuffled_index(index, size, 5) < size
        assert len(hashes) <= 100 * 2 * prompts._ROUNDS


def test_held_out_prompts_are_never_drawn(make):
    source = make("outdoor", held_out=10)
    held_out = texts(source.all())
    assert len(held_out) == 10
    assert not set(held_out) & set(texts(source.draw(range(500))))
    everything = make("outdoor", held_out=0)
    assert set(texts(everything.draw(range(500)))) == set(texts(everything.all()))
    with pytest.raises(VaderError, match="held_out=40 leaves none of the 40 prompts"):
        make("outdoor", held_out=40)


# -- text ----------------------------------------------------------------------------------------------------


def test_text(make):
    source = make("text", text=" a cat ", negative="blurry")
    assert texts(source.draw([0, 9])) == ["a cat", "a cat"]
    assert source.all()[0].negative == "blurry"
    assert texts(make("text", text=["a cat", "a dog"]).all()) == ["a cat", "a dog"]
    with pytest.raises(VaderError, match="empty"):
        make("text", text=["a cat", " "])
    with pytest.raises(VaderError, match="text"):
        make("text")


# -- files ---------------------------------------------------------------------------------------------------


def test_a_text_file_is_a_prompt_a_line(make, tmp_path):
    path = write(tmp_path, "p.txt", "\ufeffa cat\r\n\r\n  a dog, running \n# 1 hen\n")
    assert texts(make("file", path=path).all()) == ["a cat", "a dog, running", "# 1 hen"]
    assert make("file", path=path, negative="dark").all()[0].negative == "dark"


def test_a_table_has_columns(make, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "cat.png")
    path = write(
        tmp_path,
        "p.csv",
        'Prompt,negative,image,label,motion\n"a cat, asleep",dark,cat.png,sleeping,2.5\n\n"two\nlines",,,,\n',
    )
    first, second = make("file", path=path, negative="all").all()
    assert (first.text, first.negative, first.image) == ("a cat, asleep", "dark", tmp_path / "cat.png")
    assert first.metadata == {"label": "sleeping", "motion": "2.5"}
    assert (second.text, second.negative, second.image, second.metadata) == ("two\nlines", "all", None, {})


def test_json_lines_have_keys(make, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "cat.png")
    rows = [
        {"text": "a cat", "image": "cat.png", "label": 3, "tags": ["x"]},
        {"prompt": "a dog", "negative": ""},
        {"text": "line\u2028separator"},
    ]
    path = write(tmp_path, "p.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    prompts = make("file", path=path).all()
    assert texts(prompts) == ["a cat", "a dog", "line\u2028separator"]
    assert prompts[0].image == tmp_path / "cat.png"
    assert prompts[0].metadata == {"label": 3, "tags": ["x"]}
    assert prompts[1].negative == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "", "there are no prompts"),
        ("p.txt", " \n\n", "there are no prompts"),
        ("p.csv", "text\n", "there are no prompts"),
        ("p.txt", b"ok\nbad \xff\n", "line 2: this is not UTF-8"),
        ("p.csv", "text,label\na,b\na,b,c\n", "line 3: 3 cells, but the header names 2"),
        ("p.csv", "a cat\na dog\n", "line 1: the first line must name the columns"),
        ("p.csv", "text,text\na,b\n", "line 1: two columns have the same name"),
        ("p.csv", "text,label\n,b\n", "line 2: there is neither"),
        ("p.csv", 'text\n"a cat\n', "not a CSV line"),
        ("p.csv", "text,prompt\na,b\n", "line 2: both `text` and `prompt`"),
        ("p.csv", "text,image\na,none.png\n", "line 2: the image none.png does not exist"),
        ("p.jsonl", '{"text": "a"}\n{"text": 5}\n', "line 2: `text` must be text, not 5"),
        ("p.jsonl", '{"text": "a"}\n{text}\n', "line 2: not JSON"),
        ("p.jsonl", '["a"]\n', "line 1: write an object"),
        ("p.json", "{}", ".txt, .csv, .jsonl files, not from '.json'"),
    ],
)
def test_a_bad_file_is_named_with_its_line(make, tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    with pytest.raises(VaderError) as caught:
        make("file", path=path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_file_is_named(make, tmp_path):
    with pytest.raises(VaderError, match=r"absent\.txt: the prompt file cannot be read"):
        make("file", path=tmp_path / "absent.txt")


# -- images --------------------------------------------------------------------------------------------------


def test_a_folder_of_pictures(make, tmp_path):
    for name in ("b.jpg", "a.PNG"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    write(tmp_path, "notes.txt", "x")
    prompts = make("images", folder=tmp_path, text="waves").all()
    assert [prompt.image.name for prompt in prompts] == ["a.PNG", "b.jpg"]
    assert texts(prompts) == ["waves", "waves"]
    assert texts(make("images", folder=tmp_path).all()) == ["", ""]


def test_a_folder_without_pictures(make, tmp_path):
    with pytest.raises(VaderError, match="no picture in this folder"):
        make("images", folder=tmp_path)
    with pytest.raises(VaderError, match="no such folder"):
        make("images", folder=tmp_path / "absent")


# -- nouns and activities ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "article"),
    [
        ("cat", "a"),
        ("owl", "an"),
        ("unicorn", "a"),
        ("uninvited guest", "an"),
        ("university student", "a"),
        ("umbrella", "an"),
        ("ewe", "a"),
        ("European hare", "a"),
        ("urn", "an"),
        ("utility pole", "a"),
        ("ukulele", "a"),
        ("one-eyed cat", "a"),
        ("onion", "an"),
        ("hour glass", "an"),
        ("honest man", "an"),
        ("horse", "a"),
        ("heirloom", "an"),
        ("MRI scan", "an"),
        ("UFO", "a"),
        ("FBI agent", "an"),
        ("NASA rocket", "a"),
        ("X-ray", "an"),
        ("A-frame house", "an"),
        ("U-turn", "a"),
    ],
)
def test_the_article_is_the_spoken_one(words, article):
    assert with_article(words) == f"{article} {words}"


@pytest.mark.parametrize("words", ["two cats", "the moon", "An owl", "3 hens", "some birds"])
def test_no_article_after_a_determiner(words):
    assert with_article(words) == words


def test_nouns_do_activities(make, tmp_path):
    own = make("nouns_activities")
    everything = own.all()
    assert len(everything) == 60 * 30
    assert len(set(texts(everything))) == len(everything)
    assert "an owl riding a bicycle" in texts(everything)
    assert everything[0].metadata["activity"] in everything[0].text
    assert texts(everything) == texts(make("nouns_activities").all())

    nouns = write(tmp_path, "nouns.txt", "elk\nrobot\nelk\n")
    activities = write(tmp_path, "activities.txt", "asleep\n")
    mine = make("nouns_activities", nouns=nouns, activities=activities)
    assert sorted(texts(mine.all())) == ["a robot asleep", "an elk asleep"]
    mixed = make("nouns_activities", nouns=nouns, held_out=20)
    assert len(mixed.all()) == 20
    with pytest.raises(VaderError, match="no prompts"):
        make("nouns_activities", nouns=write(tmp_path, "none.txt", ""))


# -- themed lists --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", THEMES)
def test_a_themed_list_has_enough_sentences(make, theme):
    prompts = texts(make(theme, held_out=0).all())
    assert len(prompts) >= 40
    assert len(set(prompts)) == len(prompts)
    assert all(text[0].isupper() and text.endswith(".") and len(text) > 20 for text in prompts)


def test_no_sentence_is_in_two_lists():
    sentences = [line for theme in THEMES for line in read_words(f"lists/{theme}.txt")]
    assert len(THEMES) >= 12
    assert len(sentences) == len(set(sentences))


# -- hps_v2 --------------------------------------------------------------------------------------------------


def test_hps_v2_from_a_folder(make, tmp_path):
    for style in ("anime", "concept-art", "paintings", "photo"):
        write(tmp_path, f"{style}.json", json.dumps([f"{style} one", f"{style} two"]))
    assert len(make("hps_v2", folder=tmp_path).all()) == 8
    photo = make("hps_v2", folder=tmp_path, style="photo").all()
    assert texts(photo) == ["photo one", "photo two"]
    assert photo[0].metadata == {"style": "photo"}
    write(tmp_path, "photo.json", '{"not": "a list"}')
    with pytest.raises(VaderError, match="must hold a list of texts"):
        make("hps_v2", folder=tmp_path, style="photo")
    with pytest.raises(VaderError, match="cannot be read"):
        make("hps_v2", folder=tmp_path / "absent", style="photo")
    with pytest.raises(VaderError, match="anime"):
        make("hps_v2", style="cartoon")


def test_hps_v2_offline_is_one_clear_message(tmp_path):
    code = (
        "from vader_core.builtin.prompts.hps_v2 import HPSv2Options, make_hps_v2\n"
        "from vader_core.errors import VaderError\n"
        "try:\n    make_hps_v2(HPSv2Options(), device=None, dtype=None)\n"
        "except VaderError as error:\n    print(error)\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert "zhwang/HPDv2" in done.stdout
    assert "benchmark/anime.json" in done.stdout
    assert "-o prompts.folder=FOLDER" in done.stdout
    assert "HF_TOKEN" in done.stdout
    assert done.stdout.strip().endswith(", or another --prompts")
    assert len(done.stdout.strip().splitlines()) == 1


def test_a_plan_needs_no_prompt_list_of_the_hub(vader, tmp_path, capsys, monkeypatch):
    planning = importlib.import_module("vader_core.api.plan")
    monkeypatch.setattr(planning, "present", lambda wanted: None)
    monkeypatch.setattr("vader_core.wanted.present", lambda wanted: None)
    monkeypatch.setattr(
        "vader_core.builtin.prompts.hps_v2.fetch", lambda *given, **named: pytest.fail("fetched")
    )
    planned = ["train", "--backbone", "tiny", "--reward", "brightness", "--prompts", "hps_v2", "--dry-run"]
    planned += ["--device", "cpu"]
    assert vader(*planned) == 0
    told = capsys.readouterr().out
    assert "hps_v2 (not read: their files are not here yet)" in told
    assert "4 files to fetch" in told
    assert "zhwang/HPDv2/benchmark/anime.json" in told
    assert vader(*planned, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["prompts"], facts["prompts_read"], facts["held_out_prompts"]) == ("hps_v2", False, None)
    assert vader(*planned, "-o", f"prompts.folder={tmp_path}") == 2
    assert "anime.json cannot be read" in capsys.readouterr().err
    assert vader(*planned, "-o", "prompts.colour=red") == 2


def test_registering_imports_no_torch():
    heavy = "[name in sys.modules for name in ('torch', 'huggingface_hub')]"
    code = f"import sys, vader_core.builtin.plugin; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False, False]"
