"""Define the texts that are sent to a server: built-in ones, or the user's, and variants of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from maskpool.audit.pipelines import Pipeline
from maskpool.audit.probes import TEXTS, measure

# First seen in requests that arrive together; the words of each of the second are those of the first, in another order.
TOGETHER = (
    "two friends met at the lake",
    "he reads the paper on the train to work every day",
    "snow lay on the hills",
    "the old clock in the hall has not been right since the spring, so nobody looks at it now",
    "we ate fish",
    "a letter came for you this morning, it is on the table next to the door",
)
_TURNED = "the red fox ran over the long field"
EQUAL = tuple(" ".join(_TURNED.split()[step:] + _TURNED.split()[:step]) for step in range(6))
# With capitals, names and numbers, so lower-casing and other tokens change them; short, so every token counts.
DOCUMENTS = (
    "Paris is the capital of France and lies on the Seine.",
    "Ada wrote the first program for a machine in 1843.",
    "Bread needs flour, water, salt and time to rise.",
    "The Nile flows north through Egypt to the sea.",
    "Our invoice 4711 was paid twice in March.",
    "Dr. Meyer moved the meeting from Monday to Friday.",
    "Whales sing under water and hear each other for miles.",
    "NASA sent two small robots to look for ice on Mars.",
    "My bike has a flat tyre, can you pick me up?",
    "Berlin and Rome were founded on rivers, like most old towns.",
    "Turn the key to the left and pull the door.",
    "The bank charges a fee for cash abroad.",
    "Bees dance to show where the flowers are.",
    "Tom lost his passport at the airport in Oslo.",
    "Grandma grows beans, peas and tomatoes behind the house.",
    "The court in The Hague will hear the case in June.",
    "Copper gets a green skin when it is left in the rain.",
    "She plays the violin, he sings, and Anna beats the drum.",
    "Ships wait for the tide before they leave Hamburg.",
    "A full moon rises when the sun goes down.",
    "The second train to Zurich leaves from platform 9.",
    "Cold milk and hot coffee do not mix at once.",
    "Mount Everest grows by four millimetres a year.",
    "Please reset the password of my account today.",
)
# A question about each document, with few of its words.
QUERIES = (
    "Which city governs the French?",
    "Who was the earliest coder?",
    "What do I put into dough?",
    "Which river crosses the land of the pharaohs?",
    "Why was a bill charged two times?",
    "When is the doctor's appointment now?",
    "How do sea mammals talk over long distances?",
    "Are there probes that search another planet for frozen water?",
    "I need a lift because my wheel is broken",
    "Why are early cities near streams?",
    "How is the lock opened?",
    "What does it cost to withdraw money in another country?",
    "How do insects show each other the way to food?",
    "Somebody travelled to Norway and cannot fly home without papers",
    "Which vegetables does my grandmother have in her yard?",
    "Where do judges meet this summer?",
    "Why is that old roof no longer red and shiny?",
    "Which three friends make music?",
    "What do vessels in a German port depend on?",
    "What can be seen in the sky at dusk?",
    "Where do I board for Switzerland?",
    "What happens to a drink of two temperatures?",
    "Does the highest peak on earth still get taller?",
    "I cannot log in any more",
)
_WORDS = (
    "house river stone green light water horse garden window winter music paper doctor market summer bridge letter "
    "mountain kitchen morning village island forest silver copper yellow engine school church pocket button carpet "
    "dinner farmer hammer ladder mirror needle orange pencil rabbit saddle ticket violin walnut"
)
TAILS = ("east", "west")  # which word pool fills the end of a text
LENGTHS = tuple(2**power for power in range(3, 11))  # words
LONGEST = LENGTHS[-1]
LEADS = ("", " ", "  ", "   ")  # blanks in front of a text
SHORT_CROSSED = 32  # words of crossed texts that no server cuts into chunks


def pool_words(name: str, number: int) -> list[str]:
    """Return the first words of an endless text; texts of different names differ from the first word on."""
    choose, words = random.Random(name), _WORDS.split()
    return [choose.choice(words) for _ in range(number)]


def with_tail(words: int, tail: str, lead: str = "") -> str:
    """Return a text whose first words are always the same, and whose end is one of two.

    Args:
        words: The number of words in front of the end.
        tail: One of ``TAILS``.
        lead: What is put in front of the text.
    """
    rest = pool_words(tail, max(4, words // 3))
    # The ends begin with different words, so the place where they begin is exact.
    return lead + " ".join([*pool_words("start", words), f"{tail}ern", *rest])


def crossed(words: int) -> list[str]:
    """Return nine texts of three beginnings and three ends, with the same words between them; each part is a third.

    The beginnings are the same words in another order, equally many tokens for every tokenizer; the ends as well.
    """
    part = words // 3
    turns = [part * turn // 3 for turn in range(3)]
    head, middle, end = (pool_words(name, part) for name in ("head", "middle", "end"))
    return [
        " ".join([*head[first:], *head[:first], *middle, *end[last:], *end[:last]]) for first in turns for last in turns
    ]


@dataclass(frozen=True)
class SentTexts:
    """The texts that an audit may send.

    Attributes:
        audited: The texts that every probe of batches uses.
        documents: The texts that are compared with those of a reference.
        compare: Whether there is a reference.
    """

    audited: tuple[str, ...] = TEXTS
    documents: tuple[str, ...] = DOCUMENTS
    compare: bool = False

    @cached_property
    def queries(self) -> tuple[str, ...]:
        """A text that is to find each document: a question, or the first half of its words."""
        if self.documents == DOCUMENTS:
            return QUERIES
        return tuple(" ".join(words[: max(1, (len(words) + 1) // 2)]) for words in map(str.split, self.documents))

    @cached_property
    def short(self) -> tuple[str, ...]:
        """Every text that may be sent except the long ones, in the order in which they first may be."""
        texts = [*_texts_of_measure(self.audited), *TOGETHER, *EQUAL]
        texts += [text + " " for text in (*TOGETHER, *EQUAL)]
        texts += [self.audited[0] + " ", DOCUMENTS[0], DOCUMENTS[0].lower(), ""]
        texts += [*self.documents, *self.queries] if self.compare else []
        return tuple(dict.fromkeys(texts))

    @cached_property
    def _crossed(self) -> frozenset[str]:
        return frozenset(text for words in LENGTHS[2:] for text in crossed(words))

    def may_send(self, text: str) -> bool:
        """Return whether a text was announced."""
        return text in self._announced or text in self._crossed or _is_long(text)

    @cached_property
    def _announced(self) -> frozenset[str]:
        return frozenset(self.short)

    def __str__(self) -> str:
        """Return every text in words; the long ones by how they are made."""
        return "\n".join(
            [
                *map(repr, self.short),
                f"the first 1 to {LONGEST} words of: {' '.join(pool_words('start', LONGEST))!r}, also with up "
                "to three blanks in front, each followed by the first words, a third as many, of each of:",
                *(f"  {' '.join([f'{tail}ern', *pool_words(tail, LONGEST // 3)])!r}" for tail in TAILS),
                f"and three times as many words as a third of {', '.join(map(str, LENGTHS[2:]))}: the first of each of "
                "these, those of the first and of the last also turned by a third and by two thirds:",
                *(f"  {' '.join(pool_words(name, LONGEST // 3))!r}" for name in ("head", "middle", "end")),
            ]
        )


def _is_long(text: str) -> bool:
    """Return whether a text is one of `with_tail`."""
    words = text.split()
    for tail in TAILS:
        if f"{tail}ern" in words:
            number = words.index(f"{tail}ern")
            return number <= LONGEST and text in {with_tail(number, tail, lead) for lead in LEADS}
    return False


def _texts_of_measure(texts: Sequence[str]) -> Iterator[str]:
    """Yield what `measure` sends: what it embeds next depends only on the spellings that have equal vectors."""
    sent: dict[str, None] = {}
    for same in (lambda t: t, str.rstrip, lambda t: t.replace("  ", " "), str.lower, lambda t: t[:1].lower() + t[1:]):

        def embed(batch: list[str], same: object = same) -> Tensor:
            sent.update(dict.fromkeys(batch))
            assert callable(same)
            rows = []
            for text in batch:
                choose = random.Random(same(text))
                rows.append([choose.gauss(0, 1) for _ in range(8)])
            return torch.tensor(rows, dtype=torch.float64)

        measure(Pipeline(embed), texts)
    yield from sent
