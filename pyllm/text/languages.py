"""Languages that stand around texts (mBART, NLLB, M2M100): a token names each, as de_DE, deu_Latn or __de__."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from copy import copy
from typing import Any

from pyllm.errors import TokenizerError, printable

_CODE = re.compile(r"[a-z]{2,3}_[A-Z][A-Za-z]{1,3}|__[a-z]{2,3}__")


class Spoken:
    """The languages of a tokenizer whose texts bear one. src_lang and tgt_lang may be set.

    Raises TokenizerError for a language without a token, and where texts bear none.
    """

    coder: Any
    target: Any
    files: Callable[[], dict[str, bytes]]
    name_or_path: str
    ending: Any

    @property
    def _language(self) -> int | None:
        return next((i for i in (*self.coder.before, *self.coder.after) if self.is_language(i)), None)

    def is_language(self, token_id: int) -> bool:
        """Whether a token is spelled as a language, and special."""
        return self.coder.special(token_id) and _CODE.fullmatch(self.coder.name(token_id)) is not None

    @property
    def lang_code_to_id(self) -> dict[str, int]:
        """The tokens of the languages; {} where texts bear none."""
        ids = range(self.coder.vocab_size) if self._language is not None else ()
        return {self.coder.name(i).strip("_"): i for i in ids if self.is_language(i)}

    def language_id(self, code: Any, name: str = "language") -> int:
        """The token of a language. Raises TokenizerError with the known ones."""
        spelled = (code, f"__{code}__") if isinstance(code, str) and self._language is not None else ()
        ids = [i for each in spelled if (i := self.coder.find(each)) is not None and self.is_language(i)]
        if not ids:
            known = ", ".join(self.lang_code_to_id)
            allowed = f"one of {known}" if known else "its texts bear no language"
            raise TokenizerError(f"{printable(self.name_or_path)}: {name} is {printable(repr(code))}; {allowed}")
        return int(ids[0])

    def get_lang_id(self, lang: str) -> int:
        """M2M100's name of language_id: model.generate(..., forced_bos_token_id=tokenizer.get_lang_id("de"))."""
        return self.language_id(lang)

    @property
    def src_lang(self) -> str | None:
        """The language that a text bears."""
        return None if self._language is None else str(self.coder.name(self._language)).strip("_")

    @src_lang.setter
    def src_lang(self, code: str) -> None:
        new = self.language_id(code, "src_lang")
        self.coder.exchange(self._language, new)
        self._save_with("src_lang", code)

    @property
    def tgt_lang(self) -> str | None:
        """The language that what a text becomes bears; src_lang where none is said."""
        found: str | None = self.src_lang if self.target is self else self.target.src_lang
        return found

    @tgt_lang.setter
    def tgt_lang(self, code: str) -> None:
        new = self.language_id(code, "tgt_lang")
        if self.target is self:
            self.target = copy(self)
            self.target.target, self.target.coder = self.target, self.coder.copied()
        self.target.coder.exchange(self.target._language, new)
        self._save_with("tgt_lang", code)

    def around(self, language: str | None = None) -> tuple[list[int], list[int]]:
        """What stands before a whole text and behind it; language: for src_lang. Raises TokenizerError."""
        sides = list(self.coder.before), self.ending
        if language is None:
            return sides
        new, old = self.language_id(language, "src_lang"), self._language
        before, behind = ([new if i == old else i for i in side] for side in sides)
        return before, behind

    def _save_with(self, name: str, code: str) -> None:
        """Have save_pretrained write a language."""
        before = self.files

        def files() -> dict[str, bytes]:
            found = dict(before())
            changes: dict[str, dict[str, Any]] = {"tokenizer_config.json": {name: code}}
            if "tokenizer.json" in found:
                changes["tokenizer.json"] = {"post_processor": self.coder.post_processor()}
            for file, change in changes.items():
                document = json.loads(found.get(file, b"{}")) | change
                found[file] = (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode()
            return found

        self.files = files
