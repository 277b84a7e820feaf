"""What a model answers to held-out prompts, before and after it has learned."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

NEW = 64  # tokens of an answer at most
BEGINNING = 16  # tokens of a text that has no prompt


class Prompt(NamedTuple):
    """The ids that come first, and those that followed in the record."""

    ids: list[int]
    wanted: list[int]


def prompts_of(rows: Any, count: int) -> list[Prompt]:
    """The first prompts of conversations: what stands before the first answer; of a text its beginning."""
    found = []
    for number in range(count):
        row = rows.row(number)
        learned = row.targets >= 0
        first = int(np.argmax(learned))
        if first == 0:
            first = min(BEGINNING, len(row.ids) // 2)
        rest = learned[first:]
        last = first + (len(rest) if rest.all() else int(np.argmin(rest)))
        found.append(Prompt(row.ids[: first + 1].tolist(), row.targets[first:last].tolist()))
    return found


def answer(model: Any, prompts: list[Prompt]) -> list[list[int]]:
    """New ids after each prompt, the likeliest each time."""
    answers = []
    for prompt in prompts:
        new = min(NEW, model.context_length - len(prompt.ids))
        out = model.generate([prompt.ids], max_new_tokens=new, do_sample=False)[0] if new > 0 else prompt.ids
        answers.append([int(each) for each in out[len(prompt.ids) :]])
    return answers


def compared(
    tokenizer: Any, prompts: list[Prompt], before: list[list[int]], after: list[list[int]]
) -> tuple[dict[str, str], ...]:
    """Prompts, what was wanted and both answers, as text without special tokens."""

    def text(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()

    return tuple(
        {"prompt": text(prompt.ids), "wanted": text(prompt.wanted), "before": text(first), "after": text(second)}
        for prompt, first, second in zip(prompts, before, after, strict=True)
    )
