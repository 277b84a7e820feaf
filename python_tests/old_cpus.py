"""Import and generate on emulated old processors. Run: make old-cpus (needs qemu-x86_64, Debian's qemu-user).

A processor below x86-64-v2 must end with one sentence and exit code 1; the others must generate, on the instruction set
that they have. Emulated code runs some twenty times slower than real code: the model is tiny and random.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# processor: the instruction set that must be chosen, None where the import must be refused
PROCESSORS = {"core2duo": None, "Nehalem": "base", "SandyBridge": "base", "Haswell": "avx2"}
GENERATE = """
import sys
from pyllm import _core
import pyllm
model = pyllm.AutoModelForCausalLM.from_pretrained(sys.argv[1], threads=1)
tok = pyllm.AutoTokenizer.from_pretrained(sys.argv[1])
out = model.generate(tok("ab ab", return_tensors="np")["input_ids"], max_new_tokens=4, do_sample=False)
print(_core.isa(), out.tolist())
"""


def emulated(qemu: str, processor: str, *words: str, cwd: str) -> subprocess.CompletedProcess[str]:
    """Run this Python with some arguments on an emulated processor."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYLLM_LOG": ""}
    # numpy's own BLAS trusts the family of the emulated processor and would take AVX2 on a Nehalem that has none.
    environ["OPENBLAS_CORETYPE"] = "Nehalem"
    argv = [qemu, "-cpu", processor, sys.executable, *words]
    return subprocess.run(argv, cwd=cwd, env=environ, capture_output=True, text=True, timeout=900)


def refused(qemu: str, processor: str, cwd: str) -> str | None:
    """What is wrong with how an unusable processor is refused; None if nothing is."""
    done = emulated(qemu, processor, "-m", "pyllm", "doctor", cwd=cwd)
    if done.returncode != 1:
        return f"exit code {done.returncode} instead of 1: {done.stderr.strip()}"
    if done.stderr.count("\n") != 1 or not done.stderr.startswith("pyllm: "):
        return f"not one sentence: {done.stderr!r}"
    print(f"{processor:<12} refused   {done.stderr.strip()}")
    return None


def generates(qemu: str, processor: str, isa: str, model: str, cwd: str) -> str | None:
    """What is wrong with a generation; None if nothing is."""
    done = emulated(qemu, processor, "-c", GENERATE, model, cwd=cwd)
    if done.returncode != 0:
        return f"exit code {done.returncode}: {done.stderr.strip()}"
    if done.stdout.split()[0] != isa:
        return f"{done.stdout.split()[0]} was chosen instead of {isa}"
    print(f"{processor:<12} generated {done.stdout.strip()}")
    return None


def main() -> int:
    """Try every processor; 1 if any fails."""
    qemu = shutil.which("qemu-x86_64")
    if qemu is None:
        print("qemu-x86_64 is not installed; on Debian: apt-get install qemu-user", file=sys.stderr)
        return 1
    import tiny_models

    wrong = {}
    with tempfile.TemporaryDirectory() as folder:
        config = tiny_models.llama_config()
        model = Path(folder) / "tiny.gguf"
        tiny_models.write_gguf(model, config, tiny_models.random_weights(config), dtype="Q4_1")
        for processor, isa in PROCESSORS.items():
            if isa is None:
                wrong[processor] = refused(qemu, processor, folder)
            else:
                wrong[processor] = generates(qemu, processor, isa, str(model), folder)
    for processor, text in wrong.items():
        if text:
            print(f"{processor:<12} failed    {text}", file=sys.stderr)
    return 1 if any(wrong.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
