"""Preparing huge files, bombs and large groups of rows in bounded memory; a kill in the middle."""

import gzip
import lzma
import os
import signal
import subprocess
import sys

import data_corpora
import pytest
from data_corpora import document, kept

from pyllm.data import prepare, readers
from pyllm.data.fingerprint import open_tokenizer


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A tokenizer's file."""
    return data_corpora.native(tmp_path_factory.mktemp("tok") / "tok.gguf")


def write(folder, texts):
    return data_corpora.jsonl(folder / "a.jsonl", [{"text": text} for text in texts])


BIG = """
import os, sys
from pyllm.data import prepare
from pyllm.data.fingerprint import open_tokenizer
tokenizer = open_tokenizer(sys.argv[2])
prepare(os.path.join(sys.argv[1], "small.txt"), tokenizer, os.path.join(sys.argv[1], "a"), valid=0, overwrite=True)
def peak():  # getrusage counts the parent too, from before exec
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
for name in sys.argv[3:]:
    out = os.path.join(sys.argv[1], "out-" + name)
    prepare(os.path.join(sys.argv[1], name), tokenizer, out, overwrite=True)
print(peak() - before)
"""


def test_memory_is_bounded_whatever_the_size_of_a_file(tmp_path, path):
    """One text of 40 MB without a newline, the same packed, and one line of jsonl of 40 MB."""
    (tmp_path / "small.txt").write_text("a few words " * 200_000)
    words = " ".join(document(i, 200) for i in range(1000))
    with open(tmp_path / "big.txt", "w") as file:
        for number in range(40):
            file.write(f"{number}{words} "[:1_000_000])

    (tmp_path / "big.txt.xz").write_bytes(lzma.compress((tmp_path / "big.txt").read_bytes(), preset=0))
    (tmp_path / "big.jsonl").write_text(f'{{"text": "{words * 40}"}}\n{{"text": "short"}}\n')
    assert os.path.getsize(tmp_path / "big.jsonl") > readers.LONGEST
    assert growth(tmp_path, path, "big.txt", "big.txt.xz") < 20_000  # kB; the text alone is 40,000
    assert growth(tmp_path, path, "big.jsonl") < 80_000  # at most twice LONGEST, as pieces and joined


def growth(folder, tokenizer, *names):
    """How many kB the largest memory of a process grows by when it prepares these files after a small one."""
    command = [sys.executable, "-c", BIG, str(folder), str(tokenizer), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("pack", [".gz", ".xz", ".zst"])
def test_a_bomb_takes_time_but_no_memory(tmp_path, path, pack):
    """150 MB of blanks in a few hundred kB, or of 12 kB."""
    (tmp_path / "small.txt").write_text("a few words " * 200_000)
    packer = {".gz": gzip.open, ".xz": lzma.open, ".zst": zstandard_open}[pack]
    with packer(tmp_path / f"bomb.txt{pack}", "wb") as file:
        file.write(b"a word ")
        for _ in range(150):
            file.write(b" " * 1_000_000)
    assert os.path.getsize(tmp_path / f"bomb.txt{pack}") < 500_000
    assert growth(tmp_path, path, f"bomb.txt{pack}") < 40_000  # kB


def zstandard_open(path, mode):
    import zstandard

    return zstandard.open(path, mode)


def test_parquet_takes_no_memory_for_rows_not_yet_read(tmp_path, path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "small.txt").write_text("a few words " * 200_000)
    for name, rows in [("a.parquet", 50), ("b.parquet", 20_000)]:  # 80 MB in one group of rows
        table = pyarrow.table({"text": [document(i, 700) for i in range(rows)]})
        pyarrow.parquet.write_table(table, tmp_path / name, compression="none", use_dictionary=False)
    size = os.path.getsize(tmp_path / "b.parquet") // 1000
    one = growth(tmp_path, path, "a.parquet")
    both = growth(tmp_path, path, "a.parquet", "b.parquet")
    assert size > 50_000 and both - one < size // 3


KILL = """
import os, signal, sys
from pyllm.data import prepare
def kill(done, total):
    if done == total:
        os.kill(os.getpid(), signal.SIGKILL)
prepare(sys.argv[1], sys.argv[2], sys.argv[3], overwrite=True, shard_tokens=100, report=kill)
"""


def test_a_kill_leaves_the_old_shards(tmp_path, path):
    tokenizer = open_tokenizer(path)
    prepare(write(tmp_path, ["old"]), tokenizer, tmp_path / "out", valid=0)
    write(tmp_path, [document(i) for i in range(50)])
    command = [sys.executable, "-c", KILL, str(tmp_path / "a.jsonl"), str(path), str(tmp_path / "out")]
    assert subprocess.run(command, timeout=100).returncode == -signal.SIGKILL
    assert kept(tmp_path / "out", tokenizer) == {"train": ["old"]}
    (left,) = [name for name in os.listdir(tmp_path) if name not in ("a.jsonl", "out")]
    assert left.startswith(".pyllm-unfinished-")
