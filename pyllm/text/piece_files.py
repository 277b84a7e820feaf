"""One model of SentencePiece as a folder's tokenizer (T5, ALBERT, XLM-R, mBART, Pegasus, ...), as tokenizer.json says.

Kudo & Richardson 2018, arXiv:1808.06226; the ids before and behind the pieces are fairseq's, Ott et al. 2019,
arXiv:1904.01038.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, NamedTuple

from pyllm.errors import TokenizerError, printable
from pyllm.text import sentence_piece
from pyllm.text.charsmap import SPACE, Charsmap
from pyllm.text.sentence_piece import BYTE, BYTE_PAIRS, CONTROL, NORMAL, USER_DEFINED, SentencePieces
from pyllm.text.spellings import SEPARATED, added_tokens, content

FILES, LIST = ("spiece.model", "sentencepiece.bpe.model"), "vocab.json"
_CLS = {"bos_token": "[CLS]", "eos_token": "[SEP]", "sep_token": "[SEP]", "cls_token": "[CLS]", "unk_token": "<unk>",
        "pad_token": "<pad>", "mask_token": "[MASK]"}  # fmt: skip
# mBART's languages, and those that mBART-50 has beside them.
_OLDER = """ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP
nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN"""
_NEWER = """af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE
ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI"""

# M2M100's.
_HUNDRED = """af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi hr
ht hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl ps pt ro
ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo xh yi yo zh zu"""


class Kind(NamedTuple):
    """What a family makes of a model."""

    names: dict[str, str]  # of special tokens, where no file says others
    first: tuple[str, ...] = ()  # tokens before the pieces
    skipped: int = 0  # pieces that the first tokens stand for
    last: tuple[str, ...] = ()  # tokens behind the pieces
    single: str = "{cls} A {sep}"  # around a text, and around two
    pair: str = "{cls} A {sep} {sep} B {sep}"
    language: str = "en_XX"  # unless a file says another
    spelled: str = "{}"  # a language's token


_FIRST = ("<s>", "<pad>", "</s>", "<unk>")
_T5 = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_M2M = {key: text for key, text in SEPARATED.items() if key not in ("cls_token", "mask_token")}
_HIDDEN = ("<mask_1>", "<mask_2>", *(f"<unk_{i}>" for i in range(2, 103)))  # Pegasus' sentences and words
KINDS = {
    "t5": Kind(_T5, single="A {eos}", pair="A {eos} B {eos}"),
    "albert": Kind(_CLS, pair="{cls} A {sep} B1 {sep}1"),
    "xlmroberta": Kind(SEPARATED, _FIRST, 3, ("<mask>",)),
    "camembert": Kind(SEPARATED, ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"), 1, ("<mask>",)),
    "mbart": Kind(SEPARATED, _FIRST, 3, (*_OLDER.split(), "<mask>"), "A {eos} {lang}", "A B {eos} {lang}"),
    "mbart50": Kind(SEPARATED, _FIRST, 3, (*_OLDER.split(), *_NEWER.split(), "<mask>"), "{lang} A {eos}",
                    "{lang} A B {eos}"),
    "pegasus": Kind(_T5 | {"mask_token": "<mask_2>"}, ("<pad>", "</s>", *_HIDDEN), 2, single="A {eos}",
                    pair="A B {eos}"),
    "m2m100": Kind(_M2M, (), 0, tuple(f"__{code}__" for code in _HUNDRED.split()), "{lang} A {eos}", "{lang} A B {eos}",
                   "en", "__{}__"),
}  # fmt: skip


def describe(folder: Any, name: str) -> tuple[str, dict[str, Any], dict[str, str], dict[str, Any]]:
    """(file, the value of a tokenizer.json, names of the special tokens, the post_processor of targets).

    Raises TokenizerError.
    """
    file = next(each for each in FILES if folder.has(each))
    model = sentence_piece.read(f"{name}: {file}", folder.data(file, sentence_piece.LIMIT))
    if model.suffix or not model.escape_whitespaces:
        raise TokenizerError(f"{model.file}: spaces stand behind words or are not marked; marked, before words")
    kind = KINDS[_kind_of(folder, model, name, file)]
    config = {**kind.names, **folder.special_tokens_map, **folder.tokenizer_config}
    rows = _rows(model, kind, config) if kind is not KINDS["m2m100"] else _listed(folder, model, kind)
    ids = {piece: i for i, (piece, _) in enumerate(rows)}
    names = {key: content(config.get(key)) for key in kind.names}
    lacking = [text for key, text in names.items() if key != "mask_token" and text not in ids]
    if lacking or len(ids) != len(rows):
        found = f"no {printable(', '.join(lacking))}" if lacking else "a special token twice"
        raise TokenizerError(f"{model.file}: {found}; a piece for each special token")
    language = config.get("src_lang") or kind.language
    languages = ["", ""]
    if "lang" in kind.single:
        languages = [kind.spelled.format(each) for each in (language, config.get("tgt_lang") or language)]
    unknown = [each for each in languages if each and each not in ids]
    if unknown:
        raise TokenizerError(f"{name}: tokenizer_config.json: language {printable(unknown[0])!r}; one that has a token")
    special = [piece for piece, what in zip(model.pieces, model.kinds, strict=True) if what == CONTROL]
    special += [piece for piece, _ in rows if piece.startswith("<extra_id_")] + list(kind.last)
    special += [each for each in kind.first if each in _HIDDEN]
    whole = [piece for piece, what in zip(model.pieces, model.kinds, strict=True) if what == USER_DEFINED]
    # A mask stands for a word with the space before it, as the families' own tokenizer.json files have it.
    marks = {} if kind is KINDS["pegasus"] else {"mask_token": {"lstrip": True}}
    added = added_tokens(folder, ids, kind.names, name, marks, [each for each in special if each in ids], whole)
    document: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    document |= _text(model, config if kind.names is _CLS else None)
    document |= {"post_processor": around(kind, ids, names, languages[0]), "model": _model(model, rows, ids)}
    return file, document, kind.names, around(kind, ids, names, languages[1])


def _kind_of(folder: Any, model: SentencePieces, name: str, file: str) -> str:
    """By tokenizer_class, else by config.json, else by the file. Raises TokenizerError for other families."""
    given = folder.tokenizer_config.get("tokenizer_class")
    found = given.removesuffix("Fast").removesuffix("Tokenizer").lower() if isinstance(given, str) else ""
    if found in ("", "pretrained", "tokenizersbackend"):
        found = str(folder.raw_config.get("model_type") or "") if folder.has("config.json") else ""
    found = {"mt5": "t5"}.get(found, found.replace("-", "").replace("_", ""))
    if not found:
        found = "xlmroberta" if file == FILES[1] else "albert" if "[CLS]" in model.pieces else "t5"
    if found not in KINDS:
        raise TokenizerError(f"{name}: {file} of {printable(repr(found))}; one of {', '.join(KINDS)}")
    return found


def _rows(model: SentencePieces, kind: Kind, config: dict[str, Any]) -> list[tuple[str, float]]:
    """(piece, score) of each id."""
    rows = list(zip(model.pieces, model.scores, strict=True))
    if kind.names is _CLS:  # ALBERT never joins a digit and a comma
        rows = [(piece, score - 100 if piece[-1] == "," and piece[-2:-1].isdigit() else score) for piece, score in rows]
    last = list(kind.last)
    if kind is KINDS["t5"]:
        count = config.get("extra_ids", 100)
        whole = isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= 1 << 16
        if not whole:
            raise TokenizerError(f"{model.file}: extra_ids {printable(repr(count))}; 0 to {1 << 16:,}")
        last = [f"<extra_id_{i}>" for i in range(count - 1, -1, -1)]
    known = set(model.pieces)
    first = [(each, -100.0 if each == "<unk>NOTUSED" else 0.0) for each in kind.first]
    return [*first, *rows[kind.skipped :], *((each, 0.0) for each in last if each not in known)]


def _listed(folder: Any, model: SentencePieces, kind: Kind) -> list[tuple[str, float]]:
    """The same where vocab.json gives the pieces their ids; what it has beside them is taken last."""
    ids = folder.ids(LIST) if folder.has(LIST) else {}
    scores = dict(zip(model.pieces, model.scores, strict=True))
    lacking = [each for each, what in zip(model.pieces, model.kinds, strict=True) if what == NORMAL and each not in ids]
    if lacking or sorted(ids.values()) != list(range(len(ids))):
        found = f"no {printable(lacking[0])!r}" if lacking else "numbers left out"
        raise TokenizerError(f"{model.file}: {LIST}: {found}; a number for each piece, one after the other")
    least = min(scores.values()) - 100.0
    return [*((each, scores.get(each, least)) for each in sorted(ids, key=ids.__getitem__)),
            *((each, 0.0) for each in kind.last if each not in ids)]  # fmt: skip


def _model(model: SentencePieces, rows: list[tuple[str, float]], ids: dict[str, int]) -> dict[str, Any]:
    """Unigram, or BPE whose merges are ranked by the score of what they give."""
    if model.model_type != BYTE_PAIRS:
        unknown = ids[model.pieces[model.unknown]]
        return {"type": "Unigram", "unk_id": unknown, "vocab": rows, "byte_fallback": model.byte_fallback}
    plain = {piece: score for piece, score, what in zip(model.pieces, model.scores, model.kinds, strict=True)
             if what == NORMAL}  # fmt: skip
    merges = [
        (-score, ids[piece], [piece[:i], piece[i:]])
        for piece, score in plain.items()
        for i in range(1, len(piece))
        if piece[:i] in plain and piece[i:] in plain
    ]
    return {"type": "BPE", "dropout": None, "unk_token": model.pieces[model.unknown], "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": model.byte_fallback, "ignore_merges": False,
            "vocab": ids, "merges": [pair for *_, pair in sorted(merges)]}  # fmt: skip


def _text(model: SentencePieces, albert: dict[str, Any] | None) -> dict[str, Any]:
    """normalizer, pre_tokenizer and decoder."""
    steps: list[dict[str, Any]] = []
    if albert is not None:
        steps = [{"type": "Replace", "pattern": {"String": each}, "content": '"'} for each in ("``", "''")]
        accents = [] if albert.get("keep_accents") is True else [{"type": "NFKD"}, {"type": "StripAccents"}]
        steps += accents + ([] if albert.get("do_lower_case") is False else [{"type": "Lowercase"}])
    if model.charsmap:
        Charsmap(model.file, model.charsmap)  # which says what is wrong with it
        steps.append({"type": "Precompiled", "precompiled_charsmap": b64encode(model.charsmap).decode()})
    scheme = "always" if model.add_dummy_prefix else "never"
    meta = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": True}
    cut = [{"type": "WhitespaceSplit"}, meta] if model.remove_extra_whitespaces and model.add_dummy_prefix else [meta]
    if model.remove_extra_whitespaces and not model.add_dummy_prefix:  # a first word has no mark, so spaces stay spaces
        runs = ((r"\A +| +\z", ""), (" {2,}", " "))
        steps += [{"type": "Replace", "pattern": {"Regex": run}, "content": text} for run, text in runs]
    decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, meta]} if BYTE in model.kinds else meta
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cut},
        "decoder": decoder,
    }


def around(kind: Kind, ids: dict[str, int], names: dict[str, str], language: str) -> dict[str, Any]:
    """The post_processor: what stands around texts, in a language where the family has several."""
    texts = {key.removesuffix("_token"): text for key, text in names.items()} | {"lang": language}

    def parts(shape: str) -> list[dict[str, Any]]:
        found = []
        for part in shape.split():
            bare = part.removesuffix("1")
            key, text = ("Sequence", bare) if bare in ("A", "B") else ("SpecialToken", texts[bare.strip("{}")])
            found.append({key: {"id": text, "type_id": int(part.endswith("1"))}})
        return found

    single, pair = parts(kind.single), parts(kind.pair)
    used = {part["SpecialToken"]["id"] for part in (*single, *pair) if "SpecialToken" in part}
    special = {text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in used}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
