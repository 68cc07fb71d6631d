"""Prompt sources with one defect each."""

import random

from vader_core.prompts import Prompt, PromptSource, shuffled_index

WORDS = [f"a {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("boat", "kite", "dog")]


class Sound(PromptSource):
    def draw(self, indices, seed=0):
        return [Prompt(WORDS[shuffled_index(index, len(WORDS), seed)]) for index in indices]

    def all(self):
        return [Prompt(word) for word in WORDS]


class Hashing(Sound):
    def draw(self, indices, seed=0):
        return [Prompt(WORDS[hash((str(seed), index)) % len(WORDS)]) for index in indices]


class Choosing(Sound):
    def draw(self, indices, seed=0):
        return [Prompt(random.choice(WORDS)) for _ in indices]


class Counting(Sound):
    def __init__(self):
        self.drawn = 0

    def draw(self, indices, seed=0):
        self.drawn += len(indices)
        return [Prompt(WORDS[(self.drawn - i) % len(WORDS)]) for i in range(len(indices))]


class Bounded(Sound):
    def draw(self, indices, seed=0):
        return [Prompt(WORDS[index]) for index in indices]


class Untested(Sound):
    def all(self):
        return []


class Shared(Sound):
    def __init__(self):
        self.prompts = super().all()

    def all(self):
        return self.prompts


class Plain(Sound):
    def draw(self, indices, seed=0):
        return [prompt.text for prompt in super().draw(indices, seed)]


class Seeding(Sound):
    def draw(self, indices, seed=0):
        random.seed(seed)
        order = random.sample(WORDS, len(WORDS))
        return [Prompt(order[index % len(WORDS)]) for index in indices]
