"""pyllm as a model of EleutherAI's evaluation harness, in this process. Needs the extra `eval`.

    python -m pyllm.evaluate.lm_eval run --model pyllm --model_args pretrained=MODEL --tasks TASK

is the harness's own command, to which importing this module has added the model "pyllm".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

try:
    import lm_eval.models  # noqa: F401  (its models must be registered before another is)
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("lm_eval: the harness is not installed; pip install 'pyllm[eval]' brings it") from error
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from ..generate import generate
from .scoring import continuations

SCORED = 512  # requests between two moves of the progress bar
AUTOMATIC = 16  # sequences that generate side by side with batch_size="auto"
Pair = tuple[Any, list[int], list[int]]


@register_model("pyllm")
class PyLLM(TemplateLM):
    """A GGUF file, a Hugging Face folder or a name such as "smollm2", as the harness asks models.

    max_length: the model's context where None. batch_size: sequences generated side by side; scoring fills its steps
    by itself. add_bos_token: None leaves it to the tokenizer. device: the harness's command always names one, and it
    is always the CPU. Answers are the same for every batch_size.
    """

    def __init__(
        self,
        pretrained: str,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        batch_size: int | str = "auto",
        max_batch_size: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        device: str | None = None,
        seed: int = 1234,
        **kwargs: Any,
    ) -> None:
        """kwargs go to AutoModelForCausalLM.from_pretrained: precision, dtype, threads, gguf_file."""
        from ..auto import AutoModelForCausalLM

        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained(pretrained, **kwargs)
        self.tokenizer = self.model.tokenizer
        context = self.model.context_length
        self.max_length = context if max_length is None else int(max_length)
        if not 1 <= self.max_length <= context:
            raise ValueError(f"pyllm: max_length is {max_length}, allowed are 1 to {context}")
        self.max_gen_toks = int(max_gen_toks)
        self.batch_size = AUTOMATIC if str(batch_size).startswith("auto") else int(batch_size)
        self.add_bos_token, self.custom_prefix, self.seed = add_bos_token, prefix_token_id, seed

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id  # type: ignore[no-any-return]

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: the beginning token, else the end token."""
        if self.custom_prefix is not None:
            return self.custom_prefix
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else begin

    @property
    def tokenizer_name(self) -> str:
        """A name for the cache of requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text; without add_generation_prompt it ends with the last message, to be continued."""
        text: str = self.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        last = chat_history[-1]["content"].strip()
        return text if add_generation_prompt or last not in text else text[: text.rindex(last) + len(last)]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text; spellings of special tokens stand for them, and a beginning token is not put before one."""
        add = add_special_tokens if add_special_tokens is not None else self.add_bos_token
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode([self.prefix_token_id])):
            add = False
        ids: list[int] = self.tokenizer.encode(string, add is not False, allow_special=True)
        begin = self.tokenizer.bos_token_id
        return [begin, *ids] if add and begin is not None and ids[:1] != [begin] else ids

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Of each (what to cache it by, context, continuation) the log-likelihood and whether it is greedy.

        What is too long loses its beginning, as with the harness's other models.
        """
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        order = sorted(range(len(requests)), key=lambda i: (-len(requests[i][1]), requests[i][1]))
        bar = tqdm(total=len(requests), disable=disable_tqdm, desc="Running loglikelihood requests")
        for start in range(0, len(order), SCORED):
            part = order[start : start + SCORED]
            pairs = [self._cut(*requests[i][1:]) for i in part]
            for i, answer in zip(part, continuations(self.model, pairs), strict=True):
                found[i] = answer
                if requests[i][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[i][0], answer)
            bar.update(len(part))
        bar.close()
        return found

    def _cut(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """The pair's last max_length + 1 tokens."""
        if not context or not 1 <= len(continuation) <= self.max_length:
            raise ValueError(
                f"pyllm: a context of {len(context)} and a continuation of {len(continuation)} tokens; "
                f"1 at least, and {self.max_length} of the continuation at most"
            )
        return context[-(self.max_length + 1 - len(continuation)) :], continuation

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows that overlap by one token, as the harness cuts them."""
        pairs: list[Pair] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, 1):
                pairs.append((None, *make_disjoint_window(window)))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (total, _) in zip(owners, self._loglikelihood_tokens(pairs, disable_tqdm), strict=True):
            totals[owner] += total
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (request.args[0],), total)
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """What follows each context, up to a stop string, max_gen_toks, or the end token."""
        texts = [""] * len(requests)
        bar = tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests")
        for part in self._batches(requests):
            given = requests[part[0]].args[1]
            for i, text in zip(part, self._generate([requests[i].args[0] for i in part], given, part), strict=True):
                texts[i] = text
                self.cache_hook.add_partial("generate_until", requests[i].args, text)
            bar.update(len(part))
        bar.close()
        return texts

    def _batches(self, requests: list[Any]) -> Iterator[list[int]]:
        """Requests with equal parameters, long contexts first, batch_size at a time."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        for group in groups.values():
            group.sort(key=lambda i: -len(requests[i].args[0]))
            yield from (group[i : i + self.batch_size] for i in range(0, len(group), self.batch_size))

    def _generate(self, contexts: list[str], given: dict[str, Any], numbers: list[int]) -> list[str]:
        """The texts that follow; each request draws from a seed of its own."""
        kwargs = normalize_gen_kwargs(given, self.max_gen_toks)
        most = kwargs.pop("max_gen_toks")
        room = self.max_length - most
        if room < 1:
            raise ValueError(f"pyllm: max_gen_toks is {most}, the context holds {self.max_length} with the question")
        end = self.tokenizer.decode([self.eot_token_id])
        until = [text for text in handle_stop_sequences(kwargs.pop("until", None), eos=end) if text]
        kwargs.pop("max_length", None)
        if not kwargs["do_sample"]:
            kwargs.pop("temperature", None)
        prompts = [self.tok_encode(context)[-room:] for context in contexts]
        out: Any = generate(
            self.model,
            prompts,
            tokenizer=self.tokenizer,
            max_new_tokens=most,
            stop_strings=until,
            return_dict_in_generate=True,
            logprobs=False,
            seed=[(self.seed + number) % 2**64 for number in numbers],
            **kwargs,
        )
        texts = [self.tokenizer.decode(new, skip_special_tokens=True) for new in out.new_tokens]
        return [postprocess_generated_text(text, until, None) for text in texts]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
