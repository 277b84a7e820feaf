"""Speculation by prompt lookup: what followed the last tokens when they stood in the text before may follow again.

Saxena 2023, "Prompt Lookup Decoding". A draft costs a row of a step, and saves a step where the model says the same.
"""

from __future__ import annotations

from array import array

from .config import GenerationConfig

REST = 8  # tokens without drafts after drafts have failed


class PromptLookup:
    """Drafts for one sequence, whose tokens only ever grow.

    most: drafts at a time. longest: tokens that are looked up together; the longest match counts, of equal ones the
    latest. The number of drafts doubles while they hold, is halved when the first fails, and at none rests.
    """

    def __init__(self, most: int, longest: int = 2) -> None:
        self.most, self.longest = most, longest
        self.count = most
        self.rest = 0
        self.places: dict[bytes, int] = {}  # some tokens -> where the text goes on after their latest occurrence
        self.entered = 0

    def drafts(self, tokens: array[int], room: int) -> list[int]:
        """Up to `room` tokens that may follow; none where nothing matches."""
        self.enter(tokens)
        if self.rest:
            self.rest -= 1
            return []
        end, found = len(tokens), array("q")
        place = self.find(tokens)
        while place is not None and len(found) < min(self.count, room):
            at = place + len(found)
            found.append(tokens[at] if at < end else found[at - end])  # what repeats goes on repeating
        return list(found)

    def enter(self, tokens: array[int]) -> None:
        """Note where the text goes on after each of its tokens but the last, which nothing follows yet."""
        for end in range(self.entered + 1, len(tokens)):
            for size in range(1, min(self.longest, end) + 1):
                self.places[tokens[end - size : end].tobytes()] = end
        self.entered = max(self.entered, len(tokens) - 1)

    def find(self, tokens: array[int]) -> int | None:
        """Where the text went on after its last tokens."""
        for size in range(min(self.longest, len(tokens)), 0, -1):
            place = self.places.get(tokens[-size:].tobytes())
            if place is not None:
                return place
        return None

    def learn(self, drafted: int, held: int) -> None:
        """So many drafts were given, and the first `held` of them were right."""
        if held:
            self.count = min(self.most, 2 * held)
        elif drafted:
            self.count //= 2
            if not self.count:
                self.count, self.rest = 1, REST


def lookup_of(config: GenerationConfig) -> PromptLookup | None:
    """A sequence's source of drafts, where the configuration asks for one."""
    most = config.prompt_lookup_num_tokens
    return PromptLookup(most, config.max_matching_ngram_size or 2) if most else None
