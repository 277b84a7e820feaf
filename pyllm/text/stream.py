"""Text out of a stream of token ids: only whole characters leave; the rest waits for its other bytes."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class TokenStream:
    """Turns ids into text one by one.

    `token_bytes(id) -> bytes` says what a token stands for; special tokens give nothing when `skip` holds.
    `lead` is taken off the first bytes: the space that some tokenizers put before a text.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], lead: bytes = b"") -> None:
        self.token_bytes = token_bytes
        self.lead = lead
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def put(self, token_id: int) -> str:
        """The text that this token completes; may be empty."""
        data = self.token_bytes(token_id)
        if data and self.lead:
            data = data.removeprefix(self.lead)
            self.lead = b""
        return self.decoder.decode(data)

    def end(self) -> str:
        """What is left: U+FFFD for a character that was never finished. The stream is as new afterwards."""
        rest = self.decoder.decode(b"", True)
        self.decoder.reset()
        return rest
