"""Read a Hugging Face folder: config.json, safetensors in one file or in shards, and the tokenizer's files."""

from __future__ import annotations

import logging
import os
from functools import cached_property
from typing import Any

import numpy as np

from pyllm.errors import ModelFileError, printable
from pyllm.formats.config import check_config
from pyllm.formats.json_file import load_json
from pyllm.formats.safetensors import SafeTensors
from pyllm.formats.types import TensorInfo

log = logging.getLogger("pyllm.formats")

CONFIG_LIMIT = 8 << 20
INDEX_LIMIT = 64 << 20
TOKENIZER_LIMIT = 256 << 20
TEMPLATE_LIMIT = 1 << 20
MOST_IDS = 1 << 22

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Files that describe a tokenizer each, the first that a folder has. Of MarianMT, GPT-2, T5 and XLM-R without the first.
TOKENIZERS = ("tokenizer.json", "source.spm", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model")
_GENERATION = (
    *("max_length", "min_length", "num_beams", "length_penalty", "early_stopping", "no_repeat_ngram_size"),
    *("repetition_penalty", "bad_words_ids", "do_sample", "temperature", "top_k", "top_p", "decoder_start_token_id"),
    *("encoder_no_repeat_ngram_size", "num_beam_groups", "diversity_penalty", "renormalize_logits", "typical_p"),
    *("suppress_tokens", "begin_suppress_tokens", "exponential_decay_length_penalty"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "forced_bos_token_id", "forced_eos_token_id"),
)
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth", "consolidated.00.pth")


class Folder:
    """A Hugging Face folder: path, config (normalised), tensors (name -> TensorInfo of the shard it lies in).

    Every file is read when it is first asked for, so that a folder with a tokenizer alone is of use; of the weights
    only headers. Raises ModelFileError, then.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        if not os.path.isdir(self.path):
            raise ModelFileError(self.path, "", None, "is not a folder")
        self._shards: list[SafeTensors] = []
        self._source: dict[str, SafeTensors] = {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The checked fields of config.json, as config.read_config lists them."""
        return check_config(self._json("config.json", CONFIG_LIMIT), self._file("config.json"))

    @cached_property
    def raw_config(self) -> dict[str, Any]:
        """config.json as it stands, {} where there is none."""
        return self._object("config.json")

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """What the weights' headers say; opens the file or the shards."""
        try:
            return self._open_weights()
        except BaseException:
            self.close()
            raise

    def _file(self, name: str) -> str:
        """The path of a file of this folder. Raises ModelFileError for names and links that lead out of it."""
        plain = name not in ("", ".", "..") and name.isprintable() and not any(mark in name for mark in "/\\:")
        path = os.path.join(self.path, name if plain else "")
        if not plain or not inside(os.path.realpath(path), os.path.realpath(self.path)):
            raise ModelFileError(self.path, f"file name '{printable(name)}'", None, "leads out of the folder")
        return path

    def _json(self, name: str, limit: int) -> Any:
        """The value in a JSON file of this folder."""
        return load_json(self._file(name), limit)

    def _object(self, name: str) -> dict[str, Any]:
        """An optional JSON file that must hold an object; {} when there is no such file."""
        if not self.has(name):
            return {}
        value = self._json(name, CONFIG_LIMIT)
        if not isinstance(value, dict):
            raise ModelFileError(self._file(name), "", None, f"a {type(value).__name__}", "a JSON object")
        return value

    def has(self, name: str) -> bool:
        """Is there a file of this name?"""
        return os.path.lexists(os.path.join(self.path, name))

    def data(self, name: str, limit: int) -> bytes | None:
        """An optional file of at most `limit` bytes."""
        if not self.has(name):
            return None
        from pyllm.formats.disk import Disk

        disk = Disk(self._file(name))
        try:
            if disk.size > limit:
                raise ModelFileError(disk.path, "", None, f"{disk.size:,} bytes", f"at most {limit:,}")
            return bytes(disk.read(0, disk.size))
        finally:
            disk.close()

    def text(self, name: str, limit: int) -> str | None:
        """An optional UTF-8 file of at most `limit` bytes."""
        found = self.data(name, limit)
        try:
            return None if found is None else found.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ModelFileError(self._file(name), "", error.start, "not UTF-8") from error

    def ids(self, name: str) -> dict[str, int]:
        """A JSON file of tokens and their ids, each of which stands once, from 0 up. Raises ModelFileError."""
        found = self._json(name, TOKENIZER_LIMIT)
        if not isinstance(found, dict) or not found:
            raise ModelFileError(self._file(name), "", None, f"a {type(found).__name__}", "an object: token -> id")
        seen: dict[int, str] = {}
        for token, i in found.items():
            if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < MOST_IDS:
                raise ModelFileError(self._file(name), printable(repr(token)), None, i, f"an id below {MOST_IDS:,}")
            if seen.setdefault(i, token) != token:
                what = f"id {i}, which {printable(repr(seen[i]))} has"
                raise ModelFileError(self._file(name), printable(repr(token)), None, what, "an id of its own")
        return found

    def _open_weights(self) -> dict[str, TensorInfo]:
        """The tensors of model.safetensors, or of the shards that its index names."""
        if self.has(WEIGHTS):
            self._shards = [SafeTensors(self._file(WEIGHTS))]
            self._source = dict.fromkeys(self._shards[0].tensors, self._shards[0])
            return self._shards[0].tensors
        if self.has(INDEX):
            return self._open_shards(self._weight_map())
        pickled = next((name for name in _PICKLED if self.has(name)), None)
        hint = f"only {pickled}: pickled weights can run code and are never read" if pickled else "no weights"
        raise ModelFileError(self.path, "", None, hint, f"{WEIGHTS} or {INDEX}")

    def _weight_map(self) -> dict[str, str]:
        """The index: name of a tensor -> name of its shard."""
        index = self._json(INDEX, INDEX_LIMIT)
        found = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
            raise ModelFileError(self._file(INDEX), "'weight_map'", None, "missing or not names by name")
        return found

    def _open_shards(self, weight_map: dict[str, str]) -> dict[str, TensorInfo]:
        """Open every shard and check that each tensor stands in the shard that the index says, and only there."""
        opened: dict[str, SafeTensors] = {}
        for shard in sorted(set(weight_map.values())):
            path = self._file(shard)
            if not self.has(shard):
                names = [name for name, where in weight_map.items() if where == shard]
                found = f"shard '{printable(shard)}' is missing; it should hold '{printable(names[0])}'"
                raise ModelFileError(self._file(INDEX), "'weight_map'", None, f"{found} and {len(names) - 1} more")
            opened[shard] = SafeTensors(path)
            self._shards.append(opened[shard])
        for shard, file in opened.items():
            for name in file.tensors:
                where = weight_map.get(name)
                if where is None:
                    log.warning("%s: '%s' is in no index and not used", printable(shard), printable(name))
                elif where != shard:
                    found = f"stands in '{printable(shard)}', the index says '{printable(where)}'"
                    raise ModelFileError(self._file(INDEX), f"tensor '{printable(name)}'", None, found)
        for name, shard in weight_map.items():
            if name not in opened[shard].tensors:
                found = f"is not in its shard '{printable(shard)}'"
                raise ModelFileError(self._file(INDEX), f"tensor '{printable(name)}'", None, found)
        self._source = {name: opened[shard] for name, shard in weight_map.items()}
        return {name: file.tensors[name] for name, file in self._source.items()}

    @cached_property
    def tokenizer_json(self) -> str | None:
        """The text of tokenizer.json, not parsed; None when there is none."""
        return self.text("tokenizer.json", TOKENIZER_LIMIT)

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        """tokenizer_config.json, {} when there is none."""
        return self._object("tokenizer_config.json")

    @cached_property
    def special_tokens_map(self) -> dict[str, Any]:
        """special_tokens_map.json, {} when there is none."""
        return self._object("special_tokens_map.json")

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """generation_config.json; older encoder-decoders have it in config.json; {} when there is none."""
        found = self._object("generation_config.json")
        config = self._object("config.json") if not found else {}
        if config.get("is_encoder_decoder") is not True:
            return found
        return {name: config[name] for name in _GENERATION if config.get(name) is not None}

    @cached_property
    def chat_template(self) -> str | None:
        """The template from chat_template.jinja, chat_template.json or tokenizer_config.json; None for base models."""
        text = self.text("chat_template.jinja", TEMPLATE_LIMIT)
        if text is not None:
            return text
        found = self._object("chat_template.json").get("chat_template", self.tokenizer_config.get("chat_template"))
        if isinstance(found, list):
            templates = [each for each in found if isinstance(each, dict) and "template" in each]
            templates.sort(key=lambda each: each.get("name") != "default")
            found = templates[0]["template"] if templates else None
        if found is not None and not isinstance(found, str):
            raise ModelFileError(self.path, "'chat_template'", None, f"a {type(found).__name__}", "text")
        if found is not None and len(found) > TEMPLATE_LIMIT:
            text = f"{len(found):,} characters"
            raise ModelFileError(self.path, "'chat_template'", None, text, f"at most {TEMPLATE_LIMIT:,}")
        return found

    def read(self, info: TensorInfo, row: int = 0, rows: int | None = None) -> np.ndarray:
        """The stored bytes of `rows` rows from `row` (all of them by default), (bytes,) uint8, freshly allocated."""
        return self._source[info.name].read(info, row, rows)

    def read_into(self, info: TensorInfo, row: int, rows: int, buffer: Any) -> None:
        """Like read, into a writable buffer of exactly that many bytes."""
        self._source[info.name].read_into(info, row, rows, buffer)

    def close(self) -> None:
        """Close every shard."""
        for shard in self._shards:
            shard.close()

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def inside(path: str, folder: str) -> bool:
    """Does a resolved path lie in a resolved folder, or in the `blobs` beside a snapshot of the Hub's cache?

    The Hub's client stores models--NAME/snapshots/REVISION/FILE as links to models--NAME/blobs/HASH.
    """
    parent = os.path.dirname(folder)
    if os.path.basename(parent) == "snapshots" and os.path.basename(os.path.dirname(parent)).startswith("models--"):
        blobs = os.path.join(os.path.dirname(parent), "blobs")
        if os.path.dirname(path) == blobs:
            return True
    return path == folder or path.startswith(os.path.join(folder, ""))
