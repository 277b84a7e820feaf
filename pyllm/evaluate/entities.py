"""Names and other things that a text speaks of: a tagger's classes of tokens, put together to words and groups."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from pyllm.evaluate.pipelines import Array, Pipeline, softmax

STRATEGIES = ("none", "simple", "first", "max", "average")


class TokenClassification(Pipeline):
    """[{"entity", "score", "index", "word", "start", "end"}, ...] of a text's tokens: start and end count characters.

    aggregation_strategy: "none", or groups [{"entity_group", "score", "word", "start", "end"}, ...]: "simple" of tokens
    side by side; "first", "max" and "average" of whole words, whose class is that of their first token, of their
    surest, or of their mean. B-... begins a group. ignore_labels: classes that are left out, "O" unless given.
    stride: a text that is too long is read in windows that have so many tokens in common; where two see an entity the
    longer stays, of equal ones the surer.
    """

    known: ClassVar[dict[str, Any]] = {"aggregation_strategy": "none", "ignore_labels": None, "stride": None}

    def answers(self, inputs: list[Any], values: dict[str, Any], ranked: bool) -> list[Any]:
        """One for each text. Raises ValueError for an unknown strategy."""
        strategy = str(values["aggregation_strategy"]).lower()
        if strategy not in STRATEGIES:
            raise ValueError(f"aggregation_strategy: {strategy!r}, allowed are {', '.join(STRATEGIES)}")
        ignored = ["O"] if values["ignore_labels"] is None else values["ignore_labels"]
        more = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        stride, longest = values["stride"], self.longest(values)
        if stride is not None:
            if strategy == "none":
                raise ValueError("stride: aggregation_strategy none, allowed are the others")
            values = values | {"truncation": False}
        encoded = self.encoded(inputs, values, **more)
        rows = [{name: column[i] for name, column in encoded.items()} for i in range(len(inputs))]
        pieces = [[row] if stride is None else _windows(row, longest, stride) for row in rows]
        together = {name: [piece[name] for each in pieces for piece in each] for name in encoded}
        logits = iter(self.computed(together, values, "logits"))
        found = []
        for text, windows in zip(inputs, pieces, strict=True):
            entities: list[dict[str, Any]] = []
            for row in windows:
                said = self._put_together(self._tokens(text, row, softmax(next(logits))), strategy)
                entities += [each for each in said if each.get("entity", each.get("entity_group")) not in ignored]
            found.append(entities if len(windows) == 1 else _without_overlaps(entities))
        return found

    def _tokens(self, text: Any, row: dict[str, Any], shares: Array) -> list[dict[str, Any]]:
        """What is known of every token that stands for characters; whether it goes on with a word."""
        whole = text if isinstance(text, str) else text["text"]
        pieces = getattr(self.tokenizer.coder, "word_piece", None) is not None
        columns = row["input_ids"], row["offset_mapping"], row["special_tokens_mask"]
        found: list[dict[str, Any]] = []
        for index, (token, (first, end), marks) in enumerate(zip(*columns, strict=True)):
            if marks:
                continue
            word, there = self.tokenizer.convert_ids_to_tokens(token), whole[first:end]
            within = len(word) != len(there) if pieces else first > 0 and " " not in whole[first - 1 : first + 1]
            if token == self.tokenizer.unk_token_id:
                word, within = there, False
            found.append(
                {"shares": shares[index], "index": index, "word": word, "start": first, "end": end, "within": within}
            )
        return found

    def _put_together(self, tokens: list[dict[str, Any]], strategy: str) -> list[dict[str, Any]]:
        names = self.model.config.id2label
        if strategy in ("none", "simple"):
            entities = [
                {"entity": names[int(each["shares"].argmax())], "score": float(each["shares"].max())}
                | {name: each[name] for name in ("index", "word", "start", "end")}
                for each in tokens
            ]
        else:
            words: list[list[dict[str, Any]]] = []
            for each in tokens:
                if each["within"] and words:
                    words[-1].append(each)
                else:
                    words.append([each])
            entities = [self._word(word, strategy) for word in words]
        return entities if strategy == "none" else self._groups(entities)

    def _word(self, tokens: list[dict[str, Any]], strategy: str) -> dict[str, Any]:
        """A word's class and how sure it is."""
        if strategy == "average":
            shares = np.mean([each["shares"] for each in tokens], axis=0)
        elif strategy == "max":
            shares = max(tokens, key=lambda each: each["shares"].max())["shares"]
        else:
            shares = tokens[0]["shares"]
        best = int(shares.argmax())
        return {"entity": self.model.config.id2label[best], "score": float(shares[best])} | self._span(tokens)

    def _groups(self, entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Entities of one class side by side as one; B-... begins another."""
        groups: list[list[dict[str, Any]]] = []
        for each in entities:
            begins, kind = _tag(each["entity"])
            if groups and not begins and kind == _tag(groups[-1][-1]["entity"])[1]:
                groups[-1].append(each)
            else:
                groups.append([each])
        return [
            {
                "entity_group": group[0]["entity"].split("-", 1)[-1],
                "score": float(np.mean([each["score"] for each in group])),
            }
            | self._span(group)
            for group in groups
        ]

    def _span(self, parts: list[dict[str, Any]]) -> dict[str, Any]:
        word = self.tokenizer.convert_tokens_to_string([each["word"] for each in parts])
        return {"word": word, "start": parts[0]["start"], "end": parts[-1]["end"]}


def _tag(name: str) -> tuple[bool, str]:
    """(whether it begins a group, its class) of B-PER, I-PER or PER."""
    return name.startswith("B-"), name[2:] if name.startswith(("B-", "I-")) else name


def _windows(row: dict[str, Any], longest: int, stride: int) -> list[dict[str, Any]]:
    """A text's columns as those of windows of `longest` tokens, which begin and end with its special tokens.

    Raises ValueError for a stride that is no part of a window.
    """
    marks = row["special_tokens_mask"]
    if len(marks) <= longest:
        return [row]
    first = next((i for i, mark in enumerate(marks) if not mark), 0)
    last = len(marks) - next((i for i, mark in enumerate(reversed(marks)) if not mark), 0)
    room = longest - first - (len(marks) - last)
    if not 0 <= stride < room:
        raise ValueError(f"stride: {stride}, allowed are 0 to {room - 1}")
    starts = range(first, max(first + 1, last - stride), room - stride)
    return [
        {name: [*column[:first], *column[i : min(i + room, last)], *column[last:]] for name, column in row.items()}
        for i in starts
    ]


def _without_overlaps(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of entities that have characters in common the longest, then the surest; in order."""
    found: list[dict[str, Any]] = []
    for each in sorted(entities, key=lambda entity: entity["start"]):
        if not found or each["start"] >= found[-1]["end"]:
            found.append(each)
            continue
        length, before = each["end"] - each["start"], found[-1]["end"] - found[-1]["start"]
        if (length, each["score"]) > (before, found[-1]["score"]):
            found[-1] = each
    return found
