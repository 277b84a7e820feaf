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


# Copies that the loader chooses between by CPU (target_clones) name their instruction set.
CLONE = re.compile(r"\.(avx|avx2|avx512\w*|arch_\w+)(\.|$|\W)")


@pytest.mark.parametrize("path", [p for p in OBJECTS if p not in KERNELS], ids=lambda path: path.name)
def test_other_objects_use_no_wide_registers(path):
    functions = re.split(r"^[0-9a-f]+ <(.+)>:$", run("objdump", "-d", "--no-show-raw-insn", str(path)), flags=re.M)
    assert len(functions) > 1, "no code: was it compiled for link-time optimisation?"
    for name, code in zip(functions[1::2], functions[2::2], strict=True):
        assert CLONE.search(name) or not re.search(r"%[yz]mm", code), name
