"""Detections: what counts, what the mean is, what the original forgets."""

from __future__ import annotations

import pytest
import torch
from transformers import YolosImageProcessor
from vader_rewards.coco import COCO_LABELS
from vader_rewards.object_detection import GroundingDino, ObjectDetection, Yolos
from vader_rewards.options import ObjectDetectionOptions

from vader_core.errors import VaderError
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.weights import save_tensors

BOOK = 84


def make(**given):
    options = ObjectDetectionOptions(weights="random", architecture="tiny", **given)
    return ObjectDetection(options, device=torch.device("cpu"), dtype=torch.float32)


class Answers:
    """A detector that gives each frame a fixed answer, reached through the frame's mean colour."""

    def __init__(self, probabilities, labels):
        self.probabilities = probabilities
        self.config = type("Config", (), {"id2label": labels})()

    def __call__(self, pixel_values):
        logits = torch.log(self.probabilities)[: len(pixel_values)]
        return type("Output", (), {"logits": logits + 0 * pixel_values.mean(dim=(1, 2, 3))[:, None, None]})()


def with_answers(rows, **given):
    """Frames of boxes of (class, confidence); the rest of the probability is the empty class's."""
    table = torch.full((len(rows), 3, len(COCO_LABELS) + 1), 1e-12)
    for frame, boxes in enumerate(rows):
        table[frame, :, -1] = 1.0
        for box, (label, confidence) in enumerate(boxes):
            table[frame, box, label] = confidence
            table[frame, box, -1] = 1 - confidence
    reward = make(**given)
    reward.detector = Yolos(Answers(table, COCO_LABELS), torch.device("cpu"), torch.float32)
    return reward


ROWS = [
    [(BOOK, 0.8), (BOOK, 0.6), (1, 0.9)],
    [(1, 0.9), (BOOK, 0.19)],
    [(BOOK, 0.3)],
]


def test_the_loss_is_the_mean_over_all_frames():
    reward = with_answers(ROWS)
    output = reward(torch.rand(1, 3, 3, 64, 64), [Prompt("")], Randomness(0))
    assert float(output.loss) == pytest.approx((0.7 + 0.0 + 0.3) / 3, abs=1e-6)
    assert float(output.score) == pytest.approx(1 - 1.0 / 3, abs=1e-6)


def test_upstream_forgets_what_came_before_a_frame_without_the_object():
    output = with_answers(ROWS, upstream=True)(torch.rand(1, 3, 3, 64, 64), [Prompt("")], Randomness(0))
    assert float(output.loss) == pytest.approx(0.3 / 3, abs=1e-6)
    output = with_answers(ROWS[:2], upstream=True)(torch.rand(1, 2, 3, 64, 64), [Prompt("")], Randomness(0))
    assert float(output.loss) == 0
    both = [with_answers(ROWS[:1] + ROWS[2:], upstream=flag) for flag in (True, False)]
    losses = [one(torch.rand(1, 2, 3, 64, 64), [Prompt("")], Randomness(0)).loss for one in both]
    torch.testing.assert_close(*losses)


def test_encouraging_has_a_gradient_before_anything_is_detected():
    video = torch.rand(1, 2, 3, 64, 64, requires_grad=True)
    removing, encouraging = make(object="dog"), make(object="dog", mode="encourage")
    nothing = removing(video, [Prompt("")], Randomness(0))
    assert float(nothing.loss) == 0
    assert torch.autograd.grad(nothing.loss.sum(), video)[0].norm() == 0
    some = encouraging(video, [Prompt("")], Randomness(0))
    assert torch.autograd.grad(some.loss.sum(), video)[0].norm() > 0
    torch.testing.assert_close(some.loss, 1 - some.score)


def test_each_prompt_may_name_its_own_object():
    reward = with_answers([ROWS[0], ROWS[0]])
    prompts = [Prompt("", metadata={"object": "person"}), Prompt("")]
    output = reward(torch.rand(2, 1, 3, 64, 64), prompts, Randomness(0))
    torch.testing.assert_close(output.loss, torch.tensor([0.9, 0.7]))


def test_detections_are_those_of_transformers():
    reward = make(object="dog", threshold=0.02)
    for layer in reward.detector.model.class_labels_classifier.layers:
        layer.weight.data.mul_(20)
    frames = torch.rand(3, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = reward.detector.model(pixel_values=reward.pixels(frames))
    theirs = YolosImageProcessor().post_process_object_detection(output, threshold=0.02)
    classes = torch.cat([one["labels"] for one in theirs])
    assert len(classes) > 3
    for label in classes.unique().tolist():
        means = [
            one["scores"][one["labels"] == label].mean()
            if (one["labels"] == label).any()
            else torch.tensor(0.0)
            for one in theirs
        ]
        prompts = [Prompt("", metadata={"object": label})] * 3
        found = 1 - reward.score_frames(frames, prompts)
        torch.testing.assert_close(found.detach(), torch.stack(means), rtol=1e-4, atol=1e-6)


def test_coco_numbers():
    assert (len(COCO_LABELS), COCO_LABELS["1"], COCO_LABELS["84"], COCO_LABELS["90"]) == (
        91,
        "person",
        "book",
        "toothbrush",
    )
    assert sum(name != "N/A" for name in COCO_LABELS.values()) == 80


def test_mistakes():
    with pytest.raises(VaderError, match=r"no class 'bok'; did you mean 'book'"):
        make(object="bok")
    with pytest.raises(VaderError, match="mode=remove only"):
        make(upstream=True, mode="encourage")


def test_words_become_word_pieces(tmp_path):
    words = ["[PAD]", *(f"[unused{n}]" for n in range(100)), "[CLS]", "[SEP]", "book", "##s", "teddy", "bear"]
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(words), encoding="utf-8")
    model = type("Model", (), {})()
    detector = GroundingDino(model, vocabulary, torch.device("cpu"), torch.float32)
    book, plural, teddy, bear = (words.index(word) for word in ("book", "##s", "teddy", "bear"))
    assert detector.tokens("Books.") == [101, book, plural, 1012, 102]
    assert detector.tokens(" teddy bear ") == [101, teddy, bear, 1012, 102]
    with pytest.raises(VaderError, match="cannot spell 'xylophone'"):
        detector.tokens("xylophone")


def test_grounding_dino_file_without_its_tied_names(tmp_path):
    """Files name tied weights once; the module has several names for them."""
    reward = make(detector="grounding_dino_tiny")
    model = reward.detector.model
    stored, seen = {}, set()
    for name, value in model.state_dict().items():
        if value.data_ptr() not in seen and value.is_floating_point():
            stored[name] = value.clone()
            seen.add(value.data_ptr())
    assert len(stored) < len(model.state_dict())
    save_tensors(stored, tmp_path / "model.safetensors")
    (tmp_path / "vocab.txt").write_text("book", encoding="utf-8")
    options = ObjectDetectionOptions(
        weights=str(tmp_path), architecture="tiny", detector="grounding_dino_tiny", object="book"
    )
    again = ObjectDetection(options, device=torch.device("cpu"), dtype=torch.float32)
    for name, value in again.detector.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
