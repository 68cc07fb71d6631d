"""Sixty words that nobody should write into a page, and the page as a browser's parser sees it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

#: Each closes, opens or calls something in some context of a page: text, attribute, style, script, template.
PAYLOADS = {
    "tags": "</p></td></pre></li><script>alert(1)</script><img src=//evil.example/x.png onerror=alert(1)>",
    "attributes": '" onfocus="alert(1)" x=\' onload=\'alert(1)\' style="background:url(//evil.example)"',
    "head": "</title></style><link rel=stylesheet href=//evil.example><meta http-equiv=refresh content=0>",
    "script": "</script><script src=//evil.example/x.js></script><!--<script>",
    "drawing": "</title></svg><svg onload=alert(1)><a href=javascript:alert(1)><foreignObject>",
    "template": "{{ 7 * 7 }}{% include 'style.css' %}{# gone #}{{ record.__class__ }}",
    "entities": "&lt;script&gt;&#60;img src=x&#62;&amp;&quot;onload=&quot;",
    "comments": "--><![CDATA[<base href=//evil.example>]]><?php <iframe srcdoc=x>",
}
_TAGS = """
img src=x onerror=alert(1)
svg/onload=alert(1)
video src=//evil.example autoplay
audio src=x onerror=alert(1)
iframe src=javascript:alert(1)
object data=//evil.example
embed src=//evil.example
base href=//evil.example
link rel=prefetch href=//evil.example
meta http-equiv=refresh content='0;url=//evil.example'
style>@import'//evil.example'
form action=//evil.example
input autofocus onfocus=alert(1)
details open ontoggle=alert(1)
body onload=alert(1)
template
noscript
plaintext
xmp
textarea
select
math href=javascript:alert(1)
marquee onstart=alert(1)
portal src=//evil.example
script type=module>import'//evil.example'
""".strip().splitlines()
_ENDS = "title style script textarea video svg template figcaption option body html".split()
_OTHERS = (
    '"', "'", "`", "javascript:alert(1)", "data:text/html,<script>alert(1)</script>", "//evil.example/x",
    "' onclick='alert(1)", "${alert(1)}", "%3Cscript%3Ealert(1)%3C/script%3E", "\\u003cscript\\u003e",
    "\u202egnp.tpircs", "\ufeff<b>", "a\x00<b>\x1b[31m", "half \ud83d of a pair", "an old name caf\udce9",
    "💥" * 40,
)  # fmt: skip
#: As text of a page, a name, a seed, a summary.
WORDS = (*PAYLOADS.values(), *(f"<{tag}>" for tag in _TAGS), *(f"</{tag}><b>" for tag in _ENDS), *_OTHERS)


def as_name(word: str) -> str:
    """A word as a file may be named; the studio knows no backslash in a name."""
    return re.sub("[\0\ud800-\udbff]", "", word.replace("/", "\N{DIVISION SLASH}").replace("\\", ""))


class Page(HTMLParser):
    """The page as its elements with attributes, and its text."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self.others = [], "", []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self.elements.append((f"/{tag}", {}))

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        self.others.append(data)

    def handle_decl(self, decl):
        if decl.lower() != "doctype html":
            self.others.append(decl)

    handle_pi = unknown_decl = handle_comment

    def skeleton(self):
        """All but what is shown: labels for a screen reader are text too."""
        return [
            (tag, {name: value for name, value in attrs.items() if name not in ("aria-label", "data-copy")})
            for tag, attrs in self.elements
            if tag != "wbr"
        ]

    def shape(self):
        """The elements, each with the names of its attributes: addresses and values may differ."""
        return [(tag, sorted(attrs)) for tag, attrs in self.elements if tag != "wbr"]

    def addresses(self):
        """Whatever a browser might ask for."""
        names = ("src", "href", "srcset", "action", "formaction", "data", "poster", "content", "background")
        return [
            attrs[name] for tag, attrs in self.elements for name in names if name in attrs and tag != "meta"
        ]

    def handlers(self):
        """Attributes that run or style something."""
        return [
            name
            for _, attrs in self.elements
            for name in attrs
            if name.startswith("on") or name in ("style", "srcdoc")
        ]
