"""A training run small enough to be killed a thousand times: real arrays, real checkpoints, a real log, no model.

stand_in.py FOLDER [STEPS]: a first start trains from nothing, a later one goes on from the newest checkpoint. Ends
with 0; with 1 and one line on stderr when the disk refuses.
"""

import sys
import time

import numpy as np

from pyllm.train import CheckpointError, Checkpoints, Log, check_facts

EVERY = 3
FACTS = {
    "config": {"learning_rate": 0.1, "widths": [64, 48]},
    "data": {"sha256": "ab" * 32, "tokens": 1000},
    "tokenizer": {"sha256": "cd" * 32},
}


def beginning():
    """Tensors of every kind that a run has: weights, moments, counters, flags, a scalar, an empty one."""
    random = np.random.default_rng(0)
    return {
        "weight": random.standard_normal((64, 48)).astype(np.float32),
        "moment": np.zeros((64, 48), np.float32),
        "turned": np.zeros((48, 64), np.float32).T,
        "seen": np.zeros(16, np.int64),
        "mask": np.zeros((5, 7), np.uint8),
        "scale": np.array(1.0, np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }


def advance(tensors, step):
    """One step, which depends on the state and the number of the step only."""
    gradient = np.random.default_rng([1, step]).standard_normal((64, 48)).astype(np.float32) + tensors["weight"]
    tensors["moment"] *= np.float32(0.9)
    tensors["moment"] += gradient
    tensors["turned"][...] = tensors["moment"] * np.float32(0.5)
    tensors["weight"] -= np.float32(0.01) * tensors["moment"]
    tensors["seen"][step % 16] += step
    tensors["mask"][step % 5] ^= 0xA5
    tensors["scale"] *= np.float32(1.01)
    loss = np.square(tensors["weight"]).mean()
    return {"loss": loss, "lr": 0.1 / step, "grad_norm": np.sqrt(np.square(gradient).sum())}


def main(folder, steps="12"):
    with Checkpoints(folder, keep=2) as checkpoints:
        found = checkpoints.newest()
        done, tensors, facts = found or (0, beginning(), FACTS | {"samples": 0})
        check_facts(facts, FACTS)
        tensors["turned"] = np.asfortranarray(tensors["turned"])
        with Log(folder, done) as log:
            for step in range(done + 1, int(steps) + 1):
                start = time.perf_counter()
                numbers = advance(tensors, step)
                facts = FACTS | {"samples": facts["samples"] + 8}
                if step == 5:
                    numbers["loss"] = np.float32("nan")
                log.add(step, samples=facts["samples"], **numbers)
                log.time(step, seconds=time.perf_counter() - start)
                if step % EVERY == 0:
                    log.sync()
                    checkpoints.save(step, tensors, facts)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except CheckpointError as error:
        print(f"stand_in: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
