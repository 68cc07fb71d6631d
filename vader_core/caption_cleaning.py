"""Captions cleaned by DeepFloyd's rules, as PixArt, Open-Sora and EasyAnimate were trained on them."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from html.entities import html5
from html.parser import HTMLParser
from urllib.parse import unquote_plus

from vader_core.errors import VaderError

_MEDIA = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
_DOMAINS = "com|co|ru|net|org|edu|gov|it"
#: U+31C0-31EF and 31F0-31FF, 3200-4DFF, 4E00-9FFF: strokes, small kana, enclosed signs and ideographs; other
#: kana stay.
_IDEOGRAPHS = "\u31c0-\u31ff\u3200-\u4dff\u4e00-\u9fff"
_DASHES = (
    "\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
    "\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d"
)
_JUNK_SIGNS = "#®•©™&@·º½¾¿¡§~()[]{}|\\/*"

Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]


def _rules(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


def _web_address(start: str) -> str:
    """A scheme with what follows it, or a bare domain of a common kind, or the same behind ``www.``."""
    return rf"\b(?:{start}:(?:/{{1,3}}|[a-z0-9%])|[a-z0-9.\-]+\.(?:{_DOMAINS})[\w/-]*\b/?(?!@))"


#: Before markup is stripped.
_ADDRESSES = _rules(
    ("<person>", "person"),
    (_web_address("https?"), ""),
    (_web_address("www"), ""),
)

#: After markup is stripped, up to the repair of broken characters.
_SIGNS = _rules(
    (r"@\w+\b", ""),
    (f"[{_IDEOGRAPHS}]+", ""),
    (f"[{_DASHES}]+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    (r"&quot;?", ""),
    (r"&amp", ""),
    (r"\d{1,3}(?:\.\d{1,3}){3}", " "),
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.(?:{_MEDIA})", ""),
    ("[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (f"[{re.escape(_JUNK_SIGNS)}]+", " "),
    (r"\s+\.\s+", " "),
)

#: After it.
_PHRASES = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{_MEDIA})(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
)

#: On the text with whatever space is left at its ends, which shields what stands beside it.
_EDGES = _rules(
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)

_JOINERS = re.compile("[-_]")
#: More joiners than this and they are taken for word separators.
_MOST_JOINERS = 3


def _apply(text: str, rules: tuple[Rule, ...]) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


class _TextOfMarkup(HTMLParser):
    """Collects what a browser would show."""

    _HIDDEN = ("script", "style", "template")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.parts: list[str] = []
        self._inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._HIDDEN and self._inside is None:
            self._inside = tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is None:
            self.parts.append(data)

    def handle_entityref(self, name: str) -> None:
        self.handle_data(html5.get(f"{name};", f"&{name}"))

    def handle_charref(self, name: str) -> None:
        self.handle_data(html.unescape(f"&#{name};"))


def _without_markup(text: str) -> str:
    parser = _TextOfMarkup()
    parser.feed(text)
    parser.close()
    return "".join(parser.parts)


def clean_once(text: str) -> str:
    """One pass of the cleaning that captions had in training.

    >>> clean_once("A Cat, 1920x1080!")
    'a cat, !'
    """
    try:
        import ftfy
    except ImportError as error:
        raise VaderError("cleaning captions needs ftfy: pip install ftfy") from error

    text = _apply(unquote_plus(str(text)).strip().lower(), _ADDRESSES)
    text = _apply(_without_markup(text), _SIGNS)
    if len(_JOINERS.findall(text)) > _MOST_JOINERS:
        text = _JOINERS.sub(" ", text)
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return _apply(_apply(text, _PHRASES), _EDGES).strip()


def clean(text: str) -> str:
    """The cleaning as the official samplers apply it: twice.

    Raises:
        VaderError: ``ftfy``, on which every plugin that cleans captions depends, is not installed.
    """
    return clean_once(clean_once(text))
