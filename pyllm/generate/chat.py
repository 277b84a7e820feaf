"""A conversation that keeps the model's state between turns and feeds it only what is new."""

from __future__ import annotations

import secrets
import time
import weakref
from array import array
from collections.abc import Generator, Iterator
from typing import Any

from .cache import borrowed
from .config import GenerationConfig
from .errors import ContextError, GenerationError
from .lookup import lookup_of
from .request import check, config_of
from .sampler import Sampler
from .scheduler import Scheduler
from .sequence import Sequence
from .stopping import StopRules

Message = dict[str, Any]


class Chat:
    """A conversation with a model through its chat template.

    model, tokenizer: as loaded. system: the instruction that stands first. overflow: what to do when the conversation
    outgrows the context: "error" raises ContextError, "drop" leaves out the oldest turns. generation: the fields of
    GenerationConfig. An answer goes on to its end token, to max_new_tokens where given, or until the context is full.

    messages is the history and may be edited between turns; finish_reason tells how the last answer ended.
    Nothing is computed twice: of each turn only what differs from the tokens already in the state is fed.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        system: str | None = None,
        *,
        overflow: str = "error",
        generation_config: GenerationConfig | None = None,
        **generation: Any,
    ) -> None:
        if overflow not in ("error", "drop"):
            raise GenerationError("overflow", overflow, "needs 'error' or 'drop'")
        self.model, self.tokenizer, self.overflow = model, tokenizer, overflow
        if "eos_token_id" not in generation:
            generation["eos_token_id"] = end_ids(model, tokenizer, generation_config)
        self.config = config_of(model, generation_config, tokenizer, **generation)
        for name in ("num_beams", "num_return_sequences"):
            if getattr(self.config, name) != 1:
                raise GenerationError(name, getattr(self.config, name), "a chat has one answer")
        if isinstance(self.config.seed, list):
            raise GenerationError("seed", self.config.seed, "a chat has one seed")
        check(self.config, model, tokenizer)
        self.messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self.finish_reason: str | None = None
        self.state: Any = None
        self.fed: list[int] = []  # the tokens in the state
        self.answering: weakref.ref[Generator[str, None, None]] | None = None

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, text: str) -> str:
        """The whole answer to a message."""
        return "".join(self.stream(text))

    def stream(self, text: str) -> Iterator[str]:
        """The answer to a message in pieces of whole characters, as they are computed.

        Closing the iterator stops computing at once; messages then hold what was said so far. A message that got no
        word of an answer, because of an error or Ctrl-C, is taken out of the history again.
        """
        if not isinstance(text, str):
            raise GenerationError("message", type(text).__name__, "needs a str")
        self.stop()
        pieces = self.answer(text)
        self.answering = weakref.ref(pieces)  # weak: a loop that breaks lets go of the iterator, and that closes it
        return pieces

    def stop(self) -> None:
        """End the answer that is being streamed, if there is one."""
        pieces = self.answering() if self.answering is not None else None
        self.answering = None
        if pieces is not None:
            pieces.close()

    def answer(self, text: str) -> Generator[str, None, None]:
        """The pieces; started by the first next()."""
        self.messages.append({"role": "user", "content": text})
        said: list[str] = []
        sequence = ended = None
        try:
            sequence = self.turn()
            with borrowed(self.model) as cache, Scheduler(self.model, cache) as scheduler:
                scheduler.add(sequence)
                for event in scheduler.run():
                    if event.error is not None:
                        raise event.error
                    ended = event.finish_reason  # the sequence may be further than what has been told
                    if event.text:
                        said.append(event.text)
                        yield event.text
        finally:
            if sequence is not None:
                self.remember(sequence)
            if said or ended in ("stop", "length", "time"):
                self.messages.append({"role": "assistant", "content": "".join(said)})
                self.finish_reason = ended or "cancelled"
            else:
                self.messages.pop()

    def remember(self, sequence: Sequence) -> None:
        """Keep account of what the state holds after an answer, also after one that was broken off."""
        self.fed = list(sequence.tokens[: self.state.length])

    def turn(self) -> Sequence:
        """The sequence that will answer the last message, with the state cut back to what it shares with the prompt."""
        prompt = self.prompt()
        shared = common(self.fed, prompt[:-1])  # one token must be fed, or there are no logits
        if self.state is None:
            self.state = self.model.new_state()
            shared = 0
        self.fed = self.fed[:shared]
        if self.state.length > shared:
            self.state.truncate(shared)
        config, context = self.config, self.model.context_length
        most = context if config.max_new_tokens is None else min(context, len(prompt) + config.max_new_tokens)
        deadline = None if config.max_time is None else time.monotonic() + config.max_time
        rules = StopRules(frozenset(config.end_ids), most, config.stop_strings or (), (), deadline)
        seed = secrets.randbits(64) if config.seed is None else config.seed
        return Sequence(
            array("q", prompt),
            Sampler(config),
            rules,
            self.state,
            seed=seed,  # type: ignore[arg-type]
            own=False,
            tokenizer=self.tokenizer,
            skip_special_tokens=True,
            lookup=lookup_of(self.config),
        )

    def prompt(self) -> list[int]:
        """The ids of the whole conversation up to where the answer begins, with room for an answer behind them."""
        context = self.model.context_length
        while True:
            ids = self.rendered()
            if len(ids) < context - self.room():
                return ids
            if self.overflow == "error" or not self.drop():
                raise ContextError(
                    f"chat: the conversation has {len(ids):,} tokens, the context holds {context:,} and needs room for "
                    "an answer; send a shorter message, undo() or reset(), or use Chat(..., overflow='drop')"
                )

    def room(self) -> int:
        """Tokens to keep free for the answer: with overflow="drop" up to a quarter of the context, else none."""
        if self.overflow == "error":
            return 0
        quarter = self.model.context_length // 4
        return quarter if self.config.max_new_tokens is None else min(quarter, self.config.max_new_tokens)

    def rendered(self) -> list[int]:
        """All messages through the chat template."""
        return list(self.tokenizer.apply_chat_template(self.messages, add_generation_prompt=True, tokenize=True))

    def drop(self) -> bool:
        """Leave out the oldest turn, never the instruction or the last message; False when there is none."""
        first = 1 if self.messages and self.messages[0]["role"] == "system" else 0
        end = first + 1
        while end < len(self.messages) and self.messages[end]["role"] != "user":
            end += 1
        if end >= len(self.messages):
            return False
        del self.messages[first:end]
        return True

    def undo(self) -> str | None:
        """Take back the last question and its answer; the question, or None when there is none."""
        self.stop()
        for at in range(len(self.messages) - 1, -1, -1):
            if self.messages[at]["role"] == "user":
                text = self.messages[at]["content"]
                del self.messages[at:]
                return text  # type: ignore[no-any-return]
        return None

    def reset(self) -> None:
        """Begin anew, with the same instruction."""
        self.stop()
        if not (self.messages and self.messages[0]["role"] == "system"):
            self.messages.clear()
        del self.messages[1:]
        self.forget()

    def forget(self) -> None:
        """Free the state; the history stays and will be fed again."""
        state, self.state = self.state, None
        self.fed = []
        self.finish_reason = None
        if state is not None:
            state.free()

    def close(self) -> None:
        """Stop and free the state."""
        self.stop()
        self.forget()


def end_ids(model: Any, tokenizer: Any, config: GenerationConfig | None) -> list[int] | None:
    """Every id that may end an answer: those of the tokenizer, and those the model's configuration names."""
    named = config_of(model, config, tokenizer).end_ids
    return sorted({*named, *getattr(tokenizer, "end_ids", ())}) or None


def common(left: list[int], right: list[int]) -> int:
    """How many tokens at the beginning are the same."""
    for at, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return at
    return min(len(left), len(right))
