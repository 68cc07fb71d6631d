"""Captions: by a server, by a model on this machine; refusals, failures, cleaning."""

from __future__ import annotations

import footage
import pytest
import server
from vader_data import caption_openai
from vader_data.captions import finished, is_refusal, prompt_text
from vader_data.components import component
from vader_data.contracts import Clip
from vader_data.errors import ClipError
from vader_data.manifest import new_row
from vader_data.plan import CaptionPlan
from vader_data.stages import caption_rows, image_rows

from vader_core.errors import MachineError, VaderError


def make(url, **options):
    return component("captioner", "openai").make({"url": url, "model": "tiny", **options})


def clip(number=0, frames=3, image=False):
    pixels = footage.panning(frames, seed=number)
    return Clip(str(number), pixels, tuple(range(frames)), 50, 25.0, image=image)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(caption_openai, "_PAUSE", 0.0)


def test_the_protocol(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with server.captioner(lambda question, pictures: f"{len(pictures)} pictures\nof a wall") as state:
        captioner = make(state.url, longest_side=80, max_tokens=77)
        assert captioner.indices(50, 25.0) == [5, 25, 45]
        assert captioner.caption([clip()]) == ["3 pictures of a wall"]
    question = state.questions[0]
    assert (question["model"], question["max_tokens"]) == ("tiny", 77)
    assert "10%, 50% and 90%" in question["messages"][0]["content"][0]["text"]
    assert state.headers[0]["Authorization"] == "Bearer secret"
    assert [picture.size for picture in state.pictures[0]] == [(80, 48)] * 3


def test_without_a_key_none_is_sent(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with server.captioner(lambda *_: "a wall") as state:
        make(state.url).caption([clip()])
    assert "Authorization" not in state.headers[0]


def test_images_have_a_prompt_of_their_own():
    with server.captioner(lambda *_: "a wall") as state:
        captioner = make(state.url, subject="lego")
        captioner.caption([clip(frames=1, image=True)])
        captioner.caption([clip()])
    asked = [question["messages"][0]["content"][0]["text"] for question in state.questions]
    assert "Describe this picture" in asked[0]
    assert "three moments" in asked[1]
    assert all("'lego'" in text for text in asked)


def test_a_busy_server_is_asked_again(quick):
    answers = iter([(429, {"error": {"message": "slow down"}}), (503, "busy"), "a wall"])
    with server.captioner(lambda *_: next(answers)) as state:
        assert make(state.url).caption([clip()]) == ["a wall"]
    assert len(state.questions) == 3


def test_a_question_that_is_refused_rejects_its_clip_alone(quick):
    def say(question, pictures):
        red, _, blue = pictures[0].resize((1, 1)).getpixel((0, 0))
        return (400, {"error": {"message": "not this one"}}) if blue > red else "a wall"

    with server.captioner(say) as state:
        first, second = make(state.url).caption([clip(0), clip(1)])
    assert first == "a wall"
    assert isinstance(second, ClipError)
    assert str(second) == "the captioner refused: HTTP 400: not this one"


@pytest.mark.parametrize(
    "answer", [(200, {"choices": []}), (200, {"choices": [{"message": {"content": None}}]})]
)
def test_an_answer_without_text_rejects_its_clip(answer):
    with server.captioner(lambda *_: answer) as state:
        assert isinstance(make(state.url).caption([clip()])[0], ClipError)


def test_a_wrong_key_or_model_stops_the_run():
    with (
        server.captioner(lambda *_: (401, {"error": {"message": "who are you"}})) as state,
        pytest.raises(VaderError, match=r"who are you.*OPENAI_API_KEY"),
    ):
        make(state.url).caption([clip()])


def test_a_server_that_is_not_there_stops_the_run(quick):
    with pytest.raises(MachineError, match="gave no answer in 2 tries"):
        make("http://127.0.0.1:9/v1", retries=1).caption([clip()])


# -- answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", ["Single image", "'No movement'.", "Not enough information", "Caption failed"]
)
def test_refusals_reject(answer):
    assert is_refusal(answer)
    text, why = finished(answer, CaptionPlan())
    assert (text, bool(why)) == ("", True)
    kept, why = finished(answer, CaptionPlan(keep_refusals=True))
    assert (kept, why) == (answer, "")


def test_empty_captions_reject_unless_they_are_kept():
    assert finished("The video shows", CaptionPlan()) == ("", "the caption is empty")
    assert finished(" ", CaptionPlan(keep_empty=True)) == ("", "")


def test_prefix_and_cleaning():
    answer = "The video shows a Red car (NEW!), see http://example.com"
    assert finished(answer, CaptionPlan(clean=True))[0] == "a red car new! , see"
    assert finished(answer, CaptionPlan(remove_prefix=False))[0] == answer


def test_a_prompt_of_ones_own_is_sent_as_it_is():
    assert prompt_text("What is {this}?", points=[0.5]) == "What is {this}?"


# -- the stage ---------------------------------------------------------------------------------------------


def test_clips_and_their_middle_frames(tmp_path):
    film = footage.write(tmp_path / "film.mp4", footage.numbered(40))
    row = new_row(
        id="film.mp4#10-31",
        type="video",
        source=str(film),
        start_frame=10,
        end_frame=31,
        num_frames=21,
        fps=25.0,
        width=160,
        height=96,
    )
    dropped = {**row, "id": "film.mp4#0-10", "reject_reason": "too dull"}
    rows = image_rows([dropped, {**row, "aes": 6.0}], tmp_path)
    assert [found["id"] for found in rows] == ["film.mp4#0-10", "film.mp4#10-31", "film.mp4#10-31@middle"]
    image = rows[2]
    assert (image["type"], image["start_frame"], image["num_frames"]) == ("image", 20, 1)
    from PIL import Image

    with Image.open(tmp_path / image["path"]) as picture:
        import numpy as np

        assert footage.number_of(np.asarray(picture)) == 20
    assert image_rows(rows, tmp_path) == rows

    def say(question, pictures):
        return "In the video, numbers" if len(pictures) == 3 else "The image shows a number"

    with server.captioner(say) as state:
        done = caption_rows(rows, make(state.url), CaptionPlan(), tmp_path)
    assert [found["text"] for found in done] == [None, "Numbers", "A number"]
    assert done[2]["answer"] == "The image shows a number"


def test_a_model_on_this_machine(tmp_path):
    """A model of two layers with random weights: it has nothing to say, but says it in batches."""
    folder = tiny_model(tmp_path / "model")
    captioner = component("captioner", "transformers").make(
        {"weights": str(folder), "dtype": "float32", "max_tokens": 5, "frames": [0.5], "device": "cpu"}
    )
    clips = [clip(number, frames=1) for number in range(3)]
    answers = captioner.caption(clips)
    assert len(answers) == 3
    assert all(isinstance(answer, str) and answer for answer in answers)
    assert captioner.caption(clips[1:2]) == answers[1:2]
    with pytest.raises(VaderError, match="no such folder"):
        component("captioner", "transformers").make({"weights": str(tmp_path / "absent")})


def tiny_model(folder):
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = ["<unk>", "<pad>", "<s>", "</s>", "<image>", *(f"w{number}" for number in range(59))]
    tokenizer = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>{% else %}"
        "{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    processor = LlavaProcessor(
        pictures,
        fast,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        ),
        text_config=LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            pad_token_id=1,
            bos_token_id=2,
            eos_token_id=3,
        ),
        image_token_index=4,
        vision_feature_layer=-1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
