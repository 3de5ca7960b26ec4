"""The instruction world: readable English in which every relevance label is known.

A passage is about one *topic* and mentions two or three *aspects* of it. A query asks for the topic; its
instruction asks for an aspect, forbids one, or both. So a passage is relevant if the topic fits, the included
aspect is mentioned and the excluded one is not.

Held out, whatever the seed: of every topic, NUM_HELD_OUT_ASPECTS aspects are never asked for in training, and
of every aspect of it NUM_HELD_OUT_SENTENCES sentences never occur there. The tasks ask for the former and are
written in the latter: no instruction about a topic and no passage of a task was ever trained on.
"""

import random
import re
from dataclasses import dataclass, replace
from functools import cache
from hashlib import blake2b

from ifir_lightning.data import lexicon

DOMAINS: tuple[str, ...] = tuple(lexicon.TOPICS)
NUM_HELD_OUT_ASPECTS = 2
NUM_HELD_OUT_SENTENCES = 2


@dataclass(frozen=True)
class Subject:
    """What a passage says: its topic and the aspects that it mentions."""

    domain: str
    topic: str
    aspects: frozenset[str]

    def swap(self, old: str, new: str) -> "Subject":
        """The same with one aspect in the place of another."""
        return replace(self, aspects=self.aspects - {old} | {new})


@dataclass(frozen=True)
class Need:
    """What a query and its instruction ask for ("" for an aspect: none)."""

    domain: str
    topic: str
    include: str = ""
    exclude: str = ""

    def fits(self, subject: Subject) -> bool:
        """Whether a passage that says this is relevant."""
        if (subject.domain, subject.topic) != (self.domain, self.topic) or self.exclude in subject.aspects:
            return False
        return not self.include or self.include in subject.aspects


@cache
def topics(domain: str) -> dict[str, tuple[str, ...]]:
    """Each topic of a domain with its phrasings; the first names it."""
    lines = lexicon.TOPICS[domain].strip().splitlines()
    return {line.split(" | ")[0]: tuple(line.split(" | ")) for line in lines}


@cache
def aspects(domain: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Each aspect of a domain: its names (the first is the key) and the sentences that mention it."""
    listed = lexicon.SHARED_ASPECTS.strip() + lexicon.ASPECTS[domain].rstrip()
    blocks = [block.split("\n    ") for block in re.split(r"\n(?! )", listed)]
    return {names.split(" | ")[0]: (tuple(names.split(" | ")), tuple(said)) for names, *said in blocks}


def digest(text: str) -> str:
    """A short name for a text, the same on every machine."""
    return blake2b(text.encode(), digest_size=8).hexdigest()


@cache
def askable(domain: str, topic: str, held_out: bool) -> tuple[str, ...]:
    """The aspects of the topic that instructions ask for: in the tasks (held out) or in training."""
    ordered = sorted(aspects(domain), key=lambda aspect: digest(f"{topic}/{aspect}"))
    return tuple(ordered[:NUM_HELD_OUT_ASPECTS] if held_out else ordered[NUM_HELD_OUT_ASPECTS:])


@cache
def sentences(domain: str, topic: str, aspect: str, held_out: bool) -> tuple[str, ...]:
    """The sentences by which passages about the topic mention the aspect: in the tasks or in training."""
    ordered = sorted(aspects(domain)[aspect][1], key=lambda sentence: digest(f"{topic}/{sentence}"))
    return tuple(ordered[:NUM_HELD_OUT_SENTENCES] if held_out else ordered[NUM_HELD_OUT_SENTENCES:])


class Writer:
    """Chooses subjects and writes texts, all by the generator of one address such as "0/train/17"."""

    def __init__(self, address: str, held_out: bool) -> None:
        self.rng = random.Random(address)
        self.held_out = held_out

    def subject(self, domain: str, topic: str, mention: tuple[str, ...] = (), avoid: tuple[str, ...] = ()) -> Subject:
        """Two or three aspects of the topic: all of ``mention``, none of ``avoid``, the others by chance."""
        others = [aspect for aspect in aspects(domain) if aspect not in (*mention, *avoid)]
        chosen = self.rng.sample(others, self.rng.choice((2, 2, 3)) - len(mention))
        return Subject(domain, topic, frozenset((*mention, *chosen)))

    def elsewhere(self, domain: str, topic: str, mention: tuple[str, ...] = ()) -> Subject:
        """The same about another topic of the domain."""
        return self.subject(domain, self.rng.choice([other for other in topics(domain) if other != topic]), mention)

    def passage(self, subject: Subject) -> str:
        """One text that says it: its aspects in any order, the topic named before or after them."""
        order = self.rng.sample(sorted(subject.aspects), len(subject.aspects))
        body = " ".join(self._sentence(subject, aspect) for aspect in order)
        frame = self.rng.choice((*lexicon.OPENINGS, *lexicon.CLOSINGS))
        framed = frame.format(topic=self.rng.choice(topics(subject.domain)[subject.topic]))
        if frame in lexicon.CLOSINGS:
            return f"{body} {framed}"
        return f"{framed} {body[0].lower()}{body[1:]}" if framed.endswith(",") else f"{framed} {body}"

    def query(self, need: Need) -> str:
        """The request for the topic, without the instruction."""
        phrasing = self.rng.choice(topics(need.domain)[need.topic])
        return self.rng.choice(lexicon.QUERIES).format(topic=phrasing)

    def include(self, need: Need) -> str:
        """The sentence of the instruction that asks for an aspect ("" where the need has none)."""
        return self._ask(lexicon.INCLUDE, need.domain, need.include)

    def exclude(self, need: Need) -> str:
        """The sentence of the instruction that forbids one ("" where the need has none)."""
        return self._ask(lexicon.EXCLUDE, need.domain, need.exclude)

    def _ask(self, templates: tuple[str, ...], domain: str, aspect: str) -> str:
        if not aspect:
            return ""
        return self.rng.choice(templates).format(aspect=self.rng.choice(aspects(domain)[aspect][0]))

    def _sentence(self, subject: Subject, aspect: str) -> str:
        choice = sentences(subject.domain, subject.topic, aspect, self.held_out)
        return self.rng.choice(choice).format(n=self.rng.choice(lexicon.NUMBERS))
