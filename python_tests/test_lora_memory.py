"""What fine-tuning on quantised weights takes at most: file + adapters + activations + 150 MB.

The process measures itself: the largest resident set of the whole run, Python and loading included.
"""

import json
import subprocess
import sys
from pathlib import Path

RANK, BATCH, CONTEXT = 16, 2, 256
PROGRAM = """
import json, sys
import numpy as np
import pyllm
from pyllm import _core, ops
from pyllm.optim import AdamW
from pyllm.train import LoraConfig, add_adapter

path, rank, batch, context = sys.argv[1], *map(int, sys.argv[2:])
_core.keep_freed()
model = pyllm.AutoModelForCausalLM.from_pretrained(path)
add_adapter(model, LoraConfig(r=rank))
optimizer = AdamW(model.train().parameters())
ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, batch, context))
for _ in range(2):
    optimizer.zero_grad()
    with ops.autocast("bf16"):
        loss = model.loss(*ids)
    loss.backward()
    optimizer.step(min(1.0, 1 / optimizer.grad_norm()))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
c = model.config
print(json.dumps({"peak": 1024 * int(peak.split()[1]), "learned": sum(each.size for each in model.parameters()),
                  "layers": c.num_hidden_layers, "width": c.hidden_size, "inner": c.intermediate_size,
                  "queries": c.num_attention_heads * c.head_dim, "keys": c.num_key_value_heads * c.head_dim,
                  "heads": c.num_attention_heads}))
"""


def activations(facts):
    """Bytes that the way back needs of one token: what it cannot make again from something smaller."""
    residual = 4 * 2 * facts["width"]  # what the two norms of a layer read, float32
    attention = 2 * (2 * facts["queries"] + 2 * facts["keys"]) + 4 * facts["heads"]  # q, k, v, output; sums of scores
    feed_forward = 2 * 2 * facts["inner"]  # gate and up
    adapters = 4 * 7 * RANK  # what A gives to B
    return facts["layers"] * (residual + attention + feed_forward + adapters)


def test_peak_memory_is_file_adapters_activations_and_150_mb(smollm2):
    command = [sys.executable, "-c", PROGRAM, str(smollm2), *map(str, (RANK, BATCH, CONTEXT))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    file = Path(smollm2).stat().st_size
    bound = file + 16 * facts["learned"] + BATCH * CONTEXT * activations(facts) + 150e6
    assert facts["peak"] <= bound, f"{facts['peak'] / 1e6:.0f} MB, allowed are {bound / 1e6:.0f}"
    assert facts["peak"] > file + 16 * facts["learned"]  # it has measured something
