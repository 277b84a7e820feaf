"""What else happens while a model learns: anyone may watch, sample, or end the run."""

from __future__ import annotations

import sys
import time
from typing import Any

_WIDTH = 24


class Callback:
    """Every method may be left out. `trainer.stop()` ends the run after the step."""

    def on_train_begin(self, trainer: Any) -> None:
        """Before the first step of this process."""

    def on_step_end(self, trainer: Any, values: dict[str, Any]) -> None:
        """After a step, with what the log says of it and `seconds`, `tokens_per_second`, `share_of_peak`: NaN until
        the machine's peak has been measured.
        """

    def on_evaluate(self, trainer: Any, step: int, loss: float) -> None:
        """After an evaluation, which comes before the same step's on_step_end."""

    def on_train_end(self, trainer: Any) -> None:
        """After the last step and its checkpoint, or when the run is interrupted or fails."""


class ProgressBar(Callback):
    """Loss, tokens a second and the time left, on stderr; a line now and then where nobody watches."""

    def on_train_begin(self, trainer: Any) -> None:
        """Start the clock."""
        self._first, self._start, self._drawn = trainer.step, time.monotonic(), 0.0
        self._terminal = sys.stderr.isatty()

    def on_step_end(self, trainer: Any, values: dict[str, Any]) -> None:
        """Draw."""
        now = time.monotonic()
        if trainer.step < trainer.total and now - self._drawn < (0.1 if self._terminal else 30.0):
            return
        self._drawn = now
        share = trainer.step / trainer.total
        left = (now - self._start) / (trainer.step - self._first) * (trainer.total - trainer.step)
        of_peak = values["share_of_peak"]
        peak = f"{of_peak:.0%} of peak, " if of_peak == of_peak else ""
        bar = "#" * int(share * _WIDTH)
        line = (
            f"step {trainer.step:,} of {trainer.total:,} [{bar:<{_WIDTH}}] loss {values['loss']:.4f}, "
            f"{values['tokens_per_second']:,.0f} tokens/s, {peak}{_clock(left)} left"
        )
        begin, end = ("\r", "\x1b[K") if self._terminal else ("", "\n")
        print(f"{begin}{line}", end=end, file=sys.stderr, flush=True)

    def on_evaluate(self, trainer: Any, step: int, loss: float) -> None:
        """A line of its own."""
        begin, end = ("\r", "\x1b[K\n") if self._terminal else ("", "\n")
        print(f"{begin}step {step:,}: validation loss {loss:.4f}", end=end, file=sys.stderr, flush=True)

    def on_train_end(self, trainer: Any) -> None:
        """End the line."""
        if self._terminal:
            print(file=sys.stderr)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Samples(Callback):
    """What the model writes after each evaluation, greedily: {"step", "prompt", "text"} each."""

    def __init__(self, prompts: tuple[str, ...] = ("The",), tokens: int = 48) -> None:
        self.prompts, self.tokens = prompts, tokens
        self.texts: list[dict[str, Any]] = []

    def on_train_begin(self, trainer: Any) -> None:
        """Forget what the steps that are done again wrote."""
        self.texts = [text for text in self.texts if text["step"] <= trainer.step]

    def on_evaluate(self, trainer: Any, step: int, loss: float) -> None:
        """Continue every prompt with the weights of now."""
        model = trainer.model
        model.eval()
        try:
            for prompt in self.prompts:
                self.texts.append({"step": step, "prompt": prompt, "text": self._continued(model, prompt)})
        finally:
            model.train()

    def _continued(self, model: Any, prompt: str) -> str:
        """What the model writes behind a prompt, of which it sees as much as leaves it room for a token."""
        tokenizer, room = model.tokenizer, model.context_length
        ids = (tokenizer.encode(prompt) or [tokenizer.eos_token_id or 0])[: max(room - 1, 1)]
        new = min(self.tokens, room - len(ids))
        out = model.generate([ids], max_new_tokens=new, do_sample=False)[0] if new > 0 else ids
        return str(tokenizer.decode(out[len(ids) :]))
