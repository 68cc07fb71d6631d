"""What is asked of a captioner, and what is made of its answer."""

from __future__ import annotations

import re

from vader_core.caption_cleaning import clean

from .plan import CaptionPlan

#: Openings that Open-Sora removes; the lower-case forms too.
PREFIXES = (
    *(f"The {kind} {verb}" for kind in ("video", "image") for verb in ("shows", "captures", "features")),
    *(f"The {kind} {verb}" for kind in ("video", "image") for verb in ("depicts", "presents", "is ")),
    "The image portrays",
    "In the video,",
    "In the image,",
)

#: Answers by which a captioner says that there is nothing to describe. The prompt of three frames asks for
#: the first three; text2bricks writes the fourth where a question failed.
REFUSALS = ("not enough information", "single image", "no movement", "caption failed")

_NOT_LETTERS = re.compile(r"[^a-z ]+")

_STYLE = (
    "Do not name the style {subject!r} and do not mention that anything is made of it: describe what is "
    "there as if it were real.\n"
)

_THREE_FRAMES = """\
These are three moments of one clip in the order of time, taken at {points} of its length. Describe the clip.

Answer with these words alone where they apply:
Not enough information: the moments do not tell what happens.
Single image: all three look the same.
No movement: hardly anything moves.

Otherwise write one paragraph of fewer than six sentences from which the clip could be made again: who and
what is there, how it looks, what it does, where, in what light, and how the camera moves. Name every object
of weight. Do not speak of a video, an image or a frame, and do not go through the moments one by one.
{style}"""

_IMAGE = """\
Describe this picture in one paragraph of fewer than six sentences from which it could be made again: who and
what is there, how it looks, where, and in what light. Name every object of weight. Do not speak of a video,
an image or a frame.
{style}"""

_FRAME = """\
Please describe this picture in detail, in at most 100 words, beginning with "In this video".
{style}"""

#: Prompts by name. They are in our own words and ask for what text2bricks' and EasyAnimate's prompts ask for.
PROMPTS = {"three_frames": _THREE_FRAMES, "image": _IMAGE, "middle_frame": _FRAME}


def prompt_text(prompt: str, *, points: list[float], subject: str = "") -> str:
    """The prompt of that name, or the text itself where no prompt has that name.

    Args:
        prompt: A name of :data:`PROMPTS`, or a prompt.
        points: Shares of the length at which the frames were taken; told as they are.
        subject: A style that the answer shall not name.
    """
    if prompt not in PROMPTS:
        return prompt
    shares = [f"{point:.0%}" for point in points]
    told = shares[0] if len(shares) == 1 else f"{', '.join(shares[:-1])} and {shares[-1]}"
    style = _STYLE.format(subject=subject) if subject else ""
    return PROMPTS[prompt].format(points=told, style=style).strip()


def without_prefix(caption: str) -> str:
    """Open-Sora's removal of one opening; a caption that is nothing else becomes empty.

    >>> without_prefix("The video shows a cat."), without_prefix("The video features")
    ('A cat.', '')
    """
    for prefix in PREFIXES:
        if caption.startswith((prefix, prefix.lower())):
            rest = caption[len(prefix) :].strip()
            return rest[:1].upper() + rest[1:] if rest[:1].islower() else rest
    return caption


def is_refusal(answer: str) -> bool:
    """Whether an answer says that there is nothing to describe, whatever its case and punctuation.

    >>> is_refusal("'Single image'."), is_refusal("A single image of a cat hangs on a wall.")
    (True, False)
    """
    return _NOT_LETTERS.sub("", answer.lower()).strip() in REFUSALS


def finished(answer: str, plan: CaptionPlan) -> tuple[str, str]:
    """The caption of an answer, and why the clip is rejected.

    Args:
        answer: As the captioner gave it.
        plan: What is removed and what is kept.

    Returns:
        Caption and reason; the reason is empty for a clip that stays.
    """
    if is_refusal(answer) and not plan.keep_refusals:
        return "", f"the captioner says: {' '.join(answer.split())[:60]}"
    text = " ".join(answer.split())
    if plan.remove_prefix:
        text = without_prefix(text)
    if plan.clean:
        text = clean(text)
    if not text and not plan.keep_empty:
        return "", "the caption is empty"
    return text, ""
