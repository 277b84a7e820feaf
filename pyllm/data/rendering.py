"""A conversation as tokens, and which of them the model is to say: what an assistant answers, up to its end token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pyllm.data.fingerprint import Endings


class Rendered(NamedTuple):
    """ids (n,) int32, and wanted (n,) bool: whether the model is to say this token."""

    ids: np.ndarray
    wanted: np.ndarray


def render_record(record: Any, tokenizer: Any) -> Rendered:
    """The tokens of a record. Raises ValueError (TemplateError, TokenizerError among them) for a bad one.

    {"messages": [{"role", "content"}, ...], "tools"}: through the chat template; wanted are the answers of
    "assistant". {"prompt", "completion"}: texts are a question and its answer, lists are messages; without a chat
    template two texts stand as they are, one behind the other. {"text"}: everything is wanted, the end-of-text token
    too.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"is {type(record).__name__}; an object is wanted")
    if "messages" in record:
        return _conversation(_messages(record["messages"], "messages"), record.get("tools"), tokenizer)
    if "prompt" in record and "completion" in record:
        prompt, completion = record["prompt"], record["completion"]
        both = isinstance(prompt, str) and isinstance(completion, str)
        if both and tokenizer.chat_template is None:
            return _plain(prompt, completion, tokenizer)
        asked = _messages(_message("user", prompt), "prompt")
        said = _messages(_message("assistant", completion), "completion")
        return _conversation([*asked, *said], record.get("tools"), tokenizer, len(asked))
    if "text" in record:
        if not isinstance(record["text"], str):
            raise ValueError(f"text is {type(record['text']).__name__}; a text is wanted")
        return _plain("", record["text"], tokenizer)
    names = ", ".join(map(str, record)) or "none"
    raise ValueError(f"has the fields {names}; messages, or prompt and completion, or text are wanted")


def _message(role: str, value: Any) -> Any:
    """A text as the message of a role; lists stay."""
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def _messages(value: Any, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{name} is {type(value).__name__} of no message; a list of messages is wanted")
    for i, message in enumerate(value):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f"{name}[{i}] has no role; an object with role and content is wanted")
        if not isinstance(message.get("content"), str | list | tuple | type(None)):
            raise ValueError(f"{name}[{i}].content is {type(message['content']).__name__}; a text is wanted")
    return list(value)


def _plain(prompt: str, answer: str, tokenizer: Any) -> Rendered:
    """Two texts, and what the tokenizer puts around one; wanted is the second."""
    asked = tokenizer.coder.encode(prompt, False) if prompt else []
    said = tokenizer.coder.encode(answer, False)
    if not said:
        raise ValueError("completion or text has no token")
    endings = Endings(tokenizer)
    ids = endings.around(np.array([*asked, *said], np.int32))
    wanted = np.zeros(len(ids), bool)
    wanted[len(endings.before) + len(asked) :] = True
    return Rendered(ids, wanted)


def _conversation(messages: Sequence[Mapping[str, Any]], tools: Any, tokenizer: Any, first: int = 0) -> Rendered:
    """All messages through the template at once, as a chat would see them; answers before `first` are not wanted."""
    answers = [i for i, each in enumerate(messages) if each["role"] == "assistant" and i >= first]
    if not answers:
        raise ValueError("has no message of the role assistant; one to learn from is wanted")

    def render(upto: int, prompt: bool = False, tokenize: bool = True) -> Any:
        part = messages[:upto]
        return tokenizer.apply_chat_template(part, tools, add_generation_prompt=prompt, tokenize=tokenize)

    text, ids = render(len(messages), tokenize=False), np.array(render(len(messages)), np.int32)
    wanted = np.zeros(len(ids), bool)
    for i in answers:
        if not text.startswith(render(i, True, False)):
            raise ValueError(f"messages[{i}]: the chat template changes what stands before an answer once it is there")
        begin = _common(ids, render(i, True))
        whole = text.startswith(render(i + 1, tokenize=False))
        stop = _common(ids, render(i + 1)) if whole else len(ids)
        ends = [at for at in range(begin, stop) if int(ids[at]) in tokenizer.end_ids]
        if not ends and not whole:
            raise ValueError(f"messages[{i}]: where the answer ends cannot be told from the chat template's text")
        wanted[begin : ends[0] + 1 if ends else stop] = True
    return Rendered(ids, wanted)


def _common(ids: np.ndarray, other: Sequence[int]) -> int:
    """How many tokens at the beginning are the same."""
    size = min(len(ids), len(other))
    differ = np.flatnonzero(ids[:size] != np.array(other[:size], np.int32))
    return int(differ[0]) if len(differ) else size
