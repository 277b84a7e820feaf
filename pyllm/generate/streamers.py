"""Who receives tokens while they are made: Hugging Face's streamers."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np


class TextStreamer:
    """Prints the text of one sequence to stdout as it grows.

    put(ids) takes the prompt first, then each new token; end() closes the line. skip_prompt leaves the prompt out.
    skip_special_tokens leaves special tokens out of both.
    """

    def __init__(self, tokenizer: Any, skip_prompt: bool = False, skip_special_tokens: bool = False) -> None:
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.skip_special_tokens = skip_special_tokens
        self.prompt_comes = True
        self.decoder: Any = None

    def put(self, value: Any) -> None:
        """Ids of the prompt (length,) or (1, length), later one id."""
        ids = np.asarray(value)
        if ids.ndim > 1 and ids.shape[0] > 1:
            raise ValueError(f"{type(self).__name__}: {ids.shape[0]} sequences, one can be streamed")
        given = [int(i) for i in ids.reshape(-1)]
        if self.prompt_comes:
            self.prompt_comes = False
            self.decoder = self.tokenizer.stream(skip_special_tokens=self.skip_special_tokens)
            if not self.skip_prompt:
                self.on_finalized_text(self.tokenizer.decode(given, skip_special_tokens=self.skip_special_tokens))
            return
        for token in given:
            text = self.decoder.put(token)
            if text:
                self.on_finalized_text(text)

    def end(self) -> None:
        """No more tokens."""
        text = self.decoder.end() if self.decoder is not None else ""
        self.decoder = None
        self.prompt_comes = True
        self.on_finalized_text(text, stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """What to do with new text; overridden by subclasses."""
        print(text, flush=True, end="\n" if stream_end else "")


class TextIteratorStreamer(TextStreamer):
    """An iterator over the pieces of text, for a `generate` that runs in another thread.

    timeout: seconds to wait for a piece before queue.Empty is raised; None waits.
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, skip_special_tokens: bool = False
    ) -> None:
        super().__init__(tokenizer, skip_prompt, skip_special_tokens)
        self.timeout = timeout
        self.pieces: queue.Queue[str | None] = queue.Queue()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Queue the text; None marks the end."""
        if text:
            self.pieces.put(text)
        if stream_end:
            self.pieces.put(None)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = self.pieces.get(timeout=self.timeout)
        if piece is None:
            raise StopIteration
        return piece
