"""What the compiled objects hold: no kernel symbol without its instruction set's name, no wide registers elsewhere."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OBJECTS = sorted((ROOT / "build").glob("**/*.dir/**/*.o"))
KERNELS = [path for path in OBJECTS if "/kernels_" in str(path)]


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_build_left_its_objects():
    assert KERNELS, "build the package in this checkout first: pip install ."
    assert len(OBJECTS) > len(KERNELS)


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: "/".join(path.parts[-2:]))
def test_kernel_symbols_carry_their_isa(path):
    isa = re.search(r"kernels_(\w+)\.dir", str(path)).group(1)
    for line in run("nm", "--defined-only", "--extern-only", str(path)).splitlines():
        kind, name = line.split()[-2:]
        assert kind not in "WVu", f"{name} is weak: the linker may keep this copy for every CPU"
        assert f"{len(isa)}{isa}" in name, name


@pytest.mark.parametrize("path", [p for p in OBJECTS if p not in KERNELS], ids=lambda path: path.name)
def test_other_objects_use_no_wide_registers(path):
    code = run("objdump", "-d", "--no-show-raw-insn", str(path))
    assert not re.search(r"%[yz]mm", code)
