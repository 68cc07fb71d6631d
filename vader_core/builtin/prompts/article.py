"""The indefinite article."""

from __future__ import annotations

import re

# vowel letters that are spoken with a leading consonant: "yoo…", "won…"
_CONSONANT_SOUND = re.compile(r"uni(?!n|m|d)|us[eu]|ut[ie]|u[rk][aeou]|ubiq|eu|ewe|one\b|once|ouija")
_SILENT_H = re.compile(r"hour|honest|honou?r|heir")
# letters whose names begin with a vowel: an F, an X-ray, but a U-turn
_VOWEL_NAMES = frozenset("AEFHILMNORSX")
_ARTICLES = {"a", "an", "the"}
_POINTERS = {"this", "that", "these", "those", "my", "your", "his", "her", "its", "our", "their"}
_AMOUNTS = {"some", "any", "no", "each", "every", "both", "all", "many", "several", "few"}
_NUMBERS = {"two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"}
_DETERMINERS = _ARTICLES | _POINTERS | _AMOUNTS | _NUMBERS


def with_article(phrase: str) -> str:
    """``phrase`` with `a` or `an` before it, as it is spoken; after a determiner or a number none is put.

    >>> [with_article(words) for words in ("owl", "unicorn", "hour", "X-ray", "UFO", "two cats")]
    ['an owl', 'a unicorn', 'an hour', 'an X-ray', 'a UFO', 'two cats']
    """
    phrase = phrase.strip()
    word = phrase.split(maxsplit=1)[0]
    if word.lower() in _DETERMINERS or word[0].isdigit():
        return phrase
    return f"{'an' if _vowel_sound(word.partition('-')[0]) else 'a'} {phrase}"


def _vowel_sound(word: str) -> bool:
    # up to three capitals, or more without a vowel, are spelled out
    spelled = word.isupper() and (len(word) <= 3 or not re.search("[AEIOU]", word))
    if spelled:
        return word[0] in _VOWEL_NAMES
    lower = word.lower()
    if _SILENT_H.match(lower):
        return True
    return lower[:1] in tuple("aeiou") and not _CONSONANT_SOUND.match(lower)
