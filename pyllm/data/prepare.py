"""From text to shards of tokens: read, repair, leave out, split, tokenize, write; in bounded memory."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from typing import Any

import numpy as np

from pyllm.data import manifest
from pyllm.data.cleaning import RULES, Repaired, Rules, broken_rule, repair
from pyllm.data.fingerprint import Endings, as_array, fingerprint, open_tokenizer
from pyllm.data.readers import Record, records
from pyllm.data.seen import Seen, content_hash
from pyllm.data.shard_writer import SplitWriter, check_output
from pyllm.data.sources import Source, find
from pyllm.errors import DataError, TokenizerError
from pyllm.formats.writing import NewFolder, Staging, make_folder

SHARD_TOKENS = 100_000_000
_GROUP = 1 << 16  # characters tokenized at a time, or
_MOST = 256  # documents
_AHEAD = 4  # groups read and checked while others are being tokenized

Report = Callable[[int, int], None]  # told the bytes of the files read so far, and all that there are


def prepare(
    texts: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    tokenizer: Any,
    output: str | os.PathLike[str],
    *,
    valid: float = 0.01,
    seed: int = 0,
    text_field: str = "text",
    separator: str | None = None,
    skip_bad_records: bool = False,
    shard_tokens: int = SHARD_TOKENS,
    overwrite: bool = False,
    report: Report = lambda done, total: None,
    **rules: Any,
) -> dict[str, Any]:
    """Write the folder `output`: shards of tokens and their manifest.json; returns what became of the documents.

    texts: files (txt, jsonl, parquet, each also .gz, .xz, .zst) and folders of them. tokenizer: one, or its path.
    valid: the share of documents for validation, chosen by (seed, content) alone. separator: what divides a text into
    documents, readers.records says how. rules: the fields of cleaning.Rules. Each document is what the tokenizer puts
    before a text, its ids, and the end-of-text token. Equal input gives equal bytes. Raises DataError for bad files,
    for bad records unless skip_bad_records, where nothing is kept, and where `output` is taken.
    """
    limits = Rules(**rules)
    limits.check()
    if not 0 <= valid < 1:
        raise DataError("prepare", "valid", None, str(valid), "a share from 0 to below 1")
    if shard_tokens < 1 or separator == "":
        raise DataError("prepare", "shard_tokens, separator", None, f"{shard_tokens}, {separator!r}", "1, or a text")
    sources = find([texts] if isinstance(texts, str | os.PathLike) else texts)
    target = check_output(output, overwrite)
    tokens = open_tokenizer(tokenizer)
    start = time.perf_counter()
    parent = make_folder(os.path.dirname(target))
    with NewFolder(parent, os.path.basename(target)) as staging, Seen(staging.work) as seen:
        work = _Work(staging, tokens, limits, shard_tokens, int(valid * 2**64), seed, seen)
        try:
            for source, record in _all_records(sources, separator, text_field, report):
                if record.wrong == "bad_record" and not skip_bad_records:
                    where = {"txt": "document", "jsonl": "line", "parquet": "row"}[source.kind]
                    raise DataError(source.path, f"{where} {record.line}", record.offset, record.found)
                work.add(record)
            facts = {"files": len(sources), **work.finish(source_path=sources[0].path)}
        finally:
            work.abandon()
        settings = {"valid": valid, "seed": seed, "separator": separator, "text_field": text_field, **limits._asdict()}
        work.write_manifest({**facts, "settings": settings})
        # What reads the shards needs the tokenizer too; a vocabulary that a folder cannot describe is given by hand.
        with suppress(TokenizerError):
            tokens.save_pretrained(os.path.join(staging.work, manifest.TOKENIZER))
    return {**facts, "seconds": time.perf_counter() - start}


def _all_records(
    sources: list[Source], separator: str | None, text_field: str, report: Report
) -> Iterator[tuple[Source, Record]]:
    """Every record of every file."""
    total, before = sum(source.size for source in sources), 0
    for source in sources:

        def tell(done: int, before: int = before) -> None:
            if total:
                report(before + done, total)

        for record in records(source, separator=separator, text_field=text_field, report=tell):
            yield source, record
        before += source.size


def split_key(digest: bytes, seed: int) -> int:
    """A number below 2^64 from a document's hash and a seed; below valid * 2^64 the document is for validation."""
    key = (seed % 2**64).to_bytes(8, "little")
    return int.from_bytes(blake2b(digest, digest_size=8, key=key).digest(), "little")


class _Work:
    """What happens to each record, and the counts of it.

    One thread beside this one tokenizes: the core lets go of Python meanwhile. Documents are written in their order.
    """

    def __init__(
        self, staging: Staging, tokenizer: Any, rules: Rules, shard_tokens: int, valid: int, seed: int, seen: Seen
    ) -> None:
        self._staging, self._tokenizer, self._rules = staging, tokenizer, rules
        self._valid, self._seed, self._seen = valid, seed, seen
        self._endings = Endings(tokenizer)
        size = tokenizer.vocab_size
        self._writers = {split: SplitWriter(staging, split, size, shard_tokens) for split in manifest.SPLITS}
        self._thread = ThreadPoolExecutor(1)
        self._group: list[tuple[Repaired, str]] = []
        self._waiting: deque[tuple[list[tuple[Repaired, str]], Future[list[Any]]]] = deque()
        self.documents = self.characters = self._size = 0
        self.dropped: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()

    def add(self, record: Record) -> None:
        """Keep a document or count why not."""
        self.documents += 1
        if record.wrong:
            self.dropped[record.wrong] += 1
            return
        document = repair(record.text, self._rules.nfc)
        rule = broken_rule(document, self._rules)
        if rule:
            self.dropped[rule] += 1
            return
        digest = content_hash(document.text)
        if not self._seen.add(digest):
            self.dropped["duplicate"] += 1
            return
        split = "valid" if split_key(digest, self._seed) < self._valid else "train"
        self._group.append((document, split))
        self._size += len(document.text)
        if self._size >= _GROUP or len(self._group) >= _MOST:
            self._hand_over()
        while len(self._waiting) > _AHEAD:
            self._write_group()

    def _hand_over(self) -> None:
        """Have the thread tokenize the group."""
        coder, texts = self._tokenizer.coder, [document.text for document, _ in self._group]
        self._waiting.append((self._group, self._thread.submit(lambda: [as_array(coder, text) for text in texts])))
        self._group, self._size = [], 0

    def _write_group(self) -> None:
        """Take the group that has waited longest to the writers."""
        group, found = self._waiting.popleft()
        for (document, split), ids in zip(group, found.result(), strict=True):
            self._write(document, split, ids)

    def _write(self, document: Repaired, split: str, ids: np.ndarray) -> None:
        if not len(ids):  # a tokenizer may see nothing in some characters
            self.dropped["empty"] += 1
            return
        self._writers[split].add(self._endings.around(ids))
        self.characters += len(document.text)
        if document.bad or document.controls:
            self.repaired.update(documents=1, not_utf8=document.bad, controls=document.controls)

    def finish(self, source_path: str) -> dict[str, Any]:
        """Complete the files; the counts. Raises DataError when no document is left."""
        self._hand_over()
        while self._waiting:
            self._write_group()
        for writer in self._writers.values():
            writer.finish()
        dropped = {rule: self.dropped[rule] for rule in RULES}
        splits = {
            split: {"documents": writer.documents, "tokens": writer.tokens, "shards": len(writer.shards)}
            for split, writer in self._writers.items()
        }
        kept = sum(row["documents"] for row in splits.values())
        if not kept:
            why = ", ".join(f"{count} {rule}" for rule, count in dropped.items() if count)
            raise DataError(source_path, "", None, f"no document is left of {self.documents}: {why}", "at least one")
        repaired = {name: self.repaired[name] for name in ("documents", "not_utf8", "controls")}
        return {"documents": self.documents, "dropped": dropped, "kept": kept, "characters": self.characters,
                "repaired": repaired, "splits": splits}  # fmt: skip

    def abandon(self) -> None:
        """Close the files and end the thread, also after an error."""
        self._thread.shutdown(cancel_futures=True)
        for writer in self._writers.values():
            writer.abandon()

    def write_manifest(self, report: dict[str, Any]) -> None:
        """The last file."""
        size = self._tokenizer.vocab_size
        shards = tuple(shard for writer in self._writers.values() for shard in writer.shards)
        eos, mark = self._tokenizer.eos_token_id, fingerprint(self._tokenizer)
        facts = manifest.Manifest("", manifest.dtype_for(size), mark, size, eos, shards, report)
        with self._staging.create(manifest.NAME) as file:
            file.write(facts.written())
