"""The grammar: every caption can be said, read and told apart, and what is held out stays so."""

from __future__ import annotations

import pytest
from vader_demo.captions import (
    ATTRIBUTES,
    CAPTION_TOKENS,
    WORDS,
    Attributes,
    UnknownWordError,
    combinations,
    named_attributes,
    split_captions,
    split_combinations,
    tokenise,
)

FIRST_HELD_OUT = [
    "a white heart spinning on a maroon background",
    "a red square moving right on a gray background",
]


def test_every_caption_says_what_it_was_made_of():
    for row in combinations():
        assert tuple(named_attributes(Attributes(*row).caption).values()) == row


def test_every_caption_has_its_own_tokens():
    encoded = {tuple(tokenise(Attributes(*row).caption)) for row in combinations()}
    assert len(encoded) == 3840
    assert {len(tokens) for tokens in encoded} == {CAPTION_TOKENS}


def test_an_attribute_that_is_left_out_is_not_read():
    assert named_attributes("a ring on a teal background") == {"shape": 4, "background": 3}


def test_words_serve_one_attribute_each():
    used = [word for values in ATTRIBUTES.values() for word in {w for v in values for w in v.split()}]
    assert len(used) == len(set(used))
    assert len(WORDS) == len(set(WORDS))


@pytest.mark.parametrize("without", [(), ("motion",), ("motion", "background"), ("colour",)])
def test_the_splits_share_no_caption(without):
    held_out = split_captions("held_out", frozenset(without))
    train = split_captions("train", frozenset(without))
    assert held_out
    assert not set(held_out) & set(train)
    assert all(not set(named_attributes(caption)) & set(without) for caption in held_out + train)


def test_1024_combinations_are_held_out():
    held_out, train = split_combinations("held_out"), split_combinations("train")
    assert (len(held_out), len(train)) == (1024, 2816)
    assert set(held_out) | set(train) == set(combinations())
    # Every value is seen in training, so that what is new is the combination alone.
    for place, values in enumerate(ATTRIBUTES.values()):
        assert {row[place] for row in train} == set(range(len(values)))


def test_the_split_is_the_one_that_the_weights_were_trained_with():
    assert [Attributes(*row).caption for row in split_combinations("held_out")[:2]] == FIRST_HELD_OUT


def test_unknown_words_are_named_with_those_that_are_known():
    with pytest.raises(UnknownWordError, match=r"does not know 'dog'.*it knows only: a, an, on"):
        tokenise("a dog on a black background")


def test_too_long_a_caption_is_refused():
    with pytest.raises(UnknownWordError, match="at most 12 words"):
        tokenise("a " * 13)
