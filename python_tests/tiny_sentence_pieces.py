"""Small models of SentencePiece, trained here, and folders of families that keep their tokenizers in such files."""

import io
import json
from functools import cache
from pathlib import Path

import sentencepiece

EMMA = Path(__file__).parent.parent / "examples/learn/emma.txt"
GERMAN = "Der Bär läuft über die Straße, weil er große Füße hat. Ähnlich geht es uns; Grüße!"
ODD = "日本語 テキスト ﬁne ①② hahaha aaaa !!! ... ------ 😀 naïve café 1,234.5"

TEXTS = [
    "Emma Woodhouse, handsome, clever, and rich.",
    GERMAN,
    "",
    " ",
    "   many   spaces  and\ttabs \n lines\r\n ",
    "cafe\u0301 nai\u0308ve a\u0323\u0302 e\u0301\u0323 \u1100\u1161\u11a8 ﬁ ½ ㍿ ǅ",
    "😀 👩‍🚀 and 🇩🇪 flags",
    "control \x00\x01\x07 \x1b[0m \u200b zero \ufeff width \u00ad \u2028",
    "a" * 150 + " " + "ha" * 40 + "...." * 9,
    "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen",
    "中文 日本語 русский العربية हिन्दी",
    "▁ literal ▁▁ marks ▁",
    ">>fra<< Emma is here", ">> odd << text", " >>fra<< late", ">>xyz<<", ">>open",
    "</s> <unk> <pad> <s> spelled [MASK] <mask>",
    "\u3000\u00a0\u2009", "\ufffd \ud7ff \ue000", "x" + "\u0301" * 30,
]  # fmt: skip


@cache
def lines(count=1500):
    """English with some German, and odd characters."""
    text = [line for line in EMMA.read_text(encoding="utf-8").split("\n") if line.strip()][:count]
    return (*text, *[GERMAN] * 30, *[ODD] * 10)


@cache
def trained(vocab_size=600, model_type="unigram", **settings):
    """The bytes of a model."""
    found = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines()), model_writer=found, minloglevel=2, num_threads=1, vocab_size=vocab_size,
        model_type=model_type, **settings,
    )  # fmt: skip
    return found.getvalue()


def pieces(data):
    """A model's pieces in order."""
    model = sentencepiece.SentencePieceProcessor(model_proto=data)
    return [model.id_to_piece(i) for i in range(model.get_piece_size())]


def write_marian(folder, source, target, separate=False, drop=7, **config):
    """A folder as Helsinki-NLP's: ids in an order of their own, and one piece of `drop` without any."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.spm").write_bytes(source)
    (folder / "target.spm").write_bytes(target)
    sides = [pieces(source), pieces(target)] if separate else [pieces(source) + pieces(target)]
    for name, side in zip(("vocab.json", "target_vocab.json"), sides, strict=False):
        plain = sorted(set(side) - {"<s>", "</s>", "<unk>"})
        some = [each for i, each in enumerate(plain) if i % drop or each.startswith("<0x")]
        first, last = (["<pad>"], []) if separate else ([], ["<pad>"])
        tokens = ["</s>", "<unk>", *first, *some, *([] if name.startswith("target") else [">>fra<<"]), *last]
        (folder / name).write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    settings = {"source_lang": "eng", "target_lang": "deu", "separate_vocabs": separate, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
