"""MarianMT's tokenizers (Helsinki-NLP/opus-mt-*): source.spm and target.spm cut texts, vocab.json numbers the pieces.

Texts are not passed through Moses' normaliser of punctuation, as transformers does not when a tokenizer is called.
Junczys-Dowmunt et al. 2018, arXiv:1804.00344.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyllm.errors import TokenizerError, printable
from pyllm.text import sentence_piece
from pyllm.text.charsmap import SPACE
from pyllm.text.cutting import SentencePiece
from pyllm.text.encoding import Pieces
from pyllm.text.spellings import Spellings, content
from pyllm.text.tokenizer import Text

SOURCE, TARGET, IDS, TARGET_IDS = "source.spm", "target.spm", "vocab.json", "target_vocab.json"
NAMES = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
LONGEST = 512  # tokens of a text, where the folder says nothing
bytes_ = bytes  # the class below has a method of that name


class MarianCoder:
    """The Coder of one side: pieces by a model of SentencePiece, their ids by a vocabulary.

    special: the special tokens, of which <unk> stands for a piece without an id and </s> ends a text; more: others that
    count where the vocabulary has them. Where target_vocab.json is, each side has its own ids, also of special tokens
    (transformers fills up targets with the sources' <pad>, and spells ids of sources by the targets' vocabulary).
    """

    def __init__(
        self, cut: SentencePiece, ids: Mapping[str, int], special: Mapping[str, str], more: Sequence[str]
    ) -> None:
        self.cut, self.ids = cut, ids
        self.names = {i: name for name, i in ids.items()}
        self.vocab_size = max(ids.values()) + 1
        self.unknown, end = ids[special["unk_token"]], ids[special["eos_token"]]
        texts = dict.fromkeys([*special.values(), *(each for each in more if each in ids)])
        self.special_ids = {ids[text] for text in texts}
        self.spellings = Spellings({text: ids[text] for text in texts})
        self.lead, self.before, self.after = b" ", list[int](), [end]

    def encode(self, text: Text, allow_special: bool, breaks: Sequence[int] = ()) -> list[int]:
        """Ids of the text, nothing added; `>>id<<` at its beginning is one token; malformed UTF-8 becomes U+FFFD."""
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        parts = self.spellings.parts(data, breaks) if allow_special else [data]
        return [i for part in parts for i in ([part] if isinstance(part, int) else self._encode(part))]

    def _encode(self, data: bytes_) -> list[int]:
        text = data.decode("utf-8", "replace")
        end = text.find("<<") + 2 if text.startswith(">>") and "<<" in text else 0
        code = [text[:end]] if end else []
        return [self.ids.get(piece, self.unknown) for piece in [*code, *self.cut(text[end:])]]

    def pieces(
        self,
        texts: list[Text],
        pairs: list[Text] | None,
        special: bool,
        allow_special: bool,
        longest: int | None,
        strategy: str,
        side: str,
    ) -> Pieces:
        """Texts cut to `longest` ids unless None, </s> kept. Raises TokenizerError for pairs."""
        if pairs is not None:
            raise TokenizerError("text_pair: MarianMT's tokenizers know no pairs; text_target for what a text becomes")
        after = self.after if special else []
        if longest is not None and longest < len(after):
            raise TokenizerError(f"truncation: max_length {longest}, the special tokens alone are more")
        rows = [self.encode(text, allow_special) for text in texts]
        if longest is not None:
            most = longest - len(after)
            rows = [row[max(0, len(row) - most) :] if side == "left" else row[:most] for row in rows]
        rows = [row + after for row in rows]
        hidden = self.special_ids - {self.unknown}
        marks = [[int(i in hidden) for i in row] for row in rows]
        return Pieces(rows, [[0] * len(row) for row in rows], None, marks)

    def shield(self, text: str, mark: str) -> str:
        """The text with a mark inside every spelling of a special token, and of what could become one at its end."""
        return self.spellings.shield(text, mark)

    def bytes(self, token_id: int) -> bytes_:
        """What the token stands for."""
        name = self.name(token_id)
        if token_id in self.special_ids:
            return name.encode()
        if self.cut.byte_fallback and len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return bytes.fromhex(name[3:5])
        return name.replace(SPACE, " ").encode("utf-8", "surrogatepass")

    def name(self, token_id: int) -> str:
        """The token as the vocabulary spells it."""
        found = self.names.get(token_id)
        if found is None:
            raise TokenizerError(f"token id {token_id}; one that the vocabulary has, 0 to {max(self.names)}")
        return found

    def join(self, tokens: list[str]) -> str:
        """The text of spellings."""
        ids = [self.ids.get(token, self.unknown) for token in tokens]
        return b"".join(map(self.bytes, ids)).decode("utf-8", "replace").strip()

    def find(self, name: str) -> int | None:
        """The id of a spelling."""
        return self.ids.get(name)

    def special(self, token_id: int) -> bool:
        """Whether the token is no part of a text."""
        return token_id in self.special_ids


def coders(folder: Any, name: str) -> tuple[MarianCoder, MarianCoder]:
    """The coders of sources and of targets. Raises TokenizerError, ModelFileError; each names folder and file."""
    config: dict[str, Any] = {**NAMES, **folder.special_tokens_map, **folder.tokenizer_config}
    separate = config.get("separate_vocabs") is True
    missing = [each for each in (SOURCE, TARGET, IDS, *([TARGET_IDS] if separate else [])) if not folder.has(each)]
    if missing:
        raise TokenizerError(f"{name}: {SOURCE} without {', '.join(missing)}; MarianMT's tokenizer needs both")
    special = {key: content(config[key]) for key in NAMES}
    more = [content(each) for each in config.get("additional_special_tokens") or ()]
    cuts = [_opened(folder, each, name) for each in (SOURCE, TARGET)]
    ids = folder.ids(IDS)
    targets = folder.ids(TARGET_IDS) if separate else ids
    for file, vocabulary, cut in ((IDS, ids, cuts[0]), (TARGET_IDS if separate else IDS, targets, cuts[1])):
        lacking = [text for text in special.values() if text not in vocabulary]
        if lacking:
            raise TokenizerError(f"{name}: {file}: no {printable(', '.join(lacking))}; an id for each special token")
        if not any(piece in vocabulary for piece, score in cut.cut.scores.items() if score is not None):
            side = SOURCE if cut is cuts[0] else TARGET
            raise TokenizerError(f"{name}: {file}: none of the pieces of {side}; ids of those that texts are cut into")
    return MarianCoder(cuts[0], ids, special, more), MarianCoder(cuts[1], targets, special, more)


def _opened(folder: Any, file: str, name: str) -> SentencePiece:
    data = folder.data(file, sentence_piece.LIMIT)
    return SentencePiece(sentence_piece.read(f"{name}: {file}", data))
