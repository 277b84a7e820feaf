"""States, replays, forks, interrupts: what running sequences promise, on a tiny model."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_models

import pyllm
from pyllm import _core


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = tiny_models.llama_config(max_position_embeddings=640)
    path = tiny_models.write_folder(tmp_path_factory.mktemp("tiny"), config, tiny_models.random_weights(config), "BF16")
    return pyllm.AutoModelForCausalLM.from_pretrained(path)


IDS = np.random.default_rng(5).integers(0, 317, 600)


def scores(model, state, ids):
    return model.step([(state, ids)], "all")


def test_truncate_goes_back_to_the_bit(model):
    state = model.new_state()
    first = scores(model, state, IDS[:300])
    scores(model, state, IDS[100:180])
    state.truncate(250)
    assert state.length == 250
    assert np.array_equal(scores(model, state, IDS[250:300]), first[250:])


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_forks_share_the_past_and_not_the_future(model, length):
    parent = model.new_state()
    scores(model, parent, IDS[:length])
    child = parent.fork()
    left, right = scores(model, parent, IDS[300:340]), scores(model, child, IDS[400:440])
    for ids, found in ((IDS[300:340], left), (IDS[400:440], right)):
        alone = model.new_state()
        scores(model, alone, IDS[:length])
        assert np.array_equal(scores(model, alone, ids), found)


def test_pages_come_back(model):
    scores(model, model.new_state(), IDS[:10])
    pool = model._pool
    states = [model.new_state() for _ in range(5)]
    for state in states:
        scores(model, state, IDS[:130])
    taken = pool.pages - pool.free_pages
    forks = [state.fork() for state in states]
    assert pool.pages - pool.free_pages == taken
    for state in (*states, *forks):
        state.free()
    assert pool.pages - pool.free_pages == taken - 15
    with pytest.raises(ValueError, match="freed"):
        states[0].length  # noqa: B018


def test_what_a_step_refuses(model):
    state = model.new_state()
    with pytest.raises(ValueError, match=r"tokens: id 317 at 1, allowed are 0 to 316"):
        model.step([(state, [1, 317])])
    with pytest.raises(ValueError, match=r"tokens: id -1 at 0"):
        model.step([(state, [-1])])
    with pytest.raises(ValueError, match="no tokens"):
        model.step([(state, [])])
    with pytest.raises(ValueError, match="twice"):
        model.step([(state, [1]), (state, [2])])
    with pytest.raises(pyllm.ContextError, match=r"641 positions are wanted, the model's context has 640"):
        model.step([(state, [1] * 641)])
    assert state.length == 0


def test_a_refused_step_leaves_all_states_as_they_were(model):
    one, two = model.new_state(), model.new_state()
    before = scores(model, one, IDS[:70])
    with pytest.raises(ValueError, match="tokens"):
        model.step([(one, [5]), (two, [400])])
    assert (one.length, two.length) == (70, 0)
    one.truncate(60)
    assert np.array_equal(scores(model, one, IDS[60:70]), before[60:])


def test_the_last_row_is_the_last_of_all_rows(model):
    a, b = model.new_state(), model.new_state()
    last = model.step([(a, IDS[:90]), (b, IDS[:3])])
    c, d = model.new_state(), model.new_state()
    every = model.step([(c, IDS[:90]), (d, IDS[:3])], "all")
    assert last.shape == (2, 317)
    assert np.array_equal(last, every[[89, 92]])


def test_the_recorded_forward_is_the_unfused_one(tmp_path):
    config = tiny_models.llama_config(num_key_value_heads=1, attention_bias=True, mlp_bias=True)
    path = tiny_models.write_folder(tmp_path, config, tiny_models.random_weights(config), "F32")
    exact = pyllm.AutoModelForCausalLM.from_pretrained(path)
    fused, unfused = exact(IDS[None, :100]).logits[0], exact.forward(IDS[:100])
    assert np.abs(fused - unfused).max() <= 1e-5 * np.abs(unfused).max()


FORK = """
import os, signal, sys, numpy as np, pyllm
from pyllm import _core
_core.set_threads(2)
model = pyllm.AutoModelForCausalLM.from_pretrained(sys.argv[1])
def run():
    state = model.new_state()
    return model.step([(state, list(range(200)))]).tobytes()
expected = run()
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        os._exit(0 if run() == expected else 3)
    assert os.waitpid(pid, 0)[1] == 0
print("same")
"""


def test_a_forked_child_computes_the_same(model, tmp_path):
    config = tiny_models.llama_config()
    path = tiny_models.write_folder(tmp_path, config, tiny_models.random_weights(config))
    done = subprocess.run([sys.executable, "-c", FORK, path], capture_output=True, text=True, timeout=120)
    assert done.stdout == "same\n", done.stderr


INTERRUPT = """
import signal, time, numpy as np, pyllm
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have what runs in the background ignore it
a = np.ones((3000, 3000), np.float32)
expected = pyllm.ops.matmul(a[:64], a).tobytes()
print("ready", flush=True)
try:
    while True:
        pyllm.ops.matmul(a, a)
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
assert pyllm.ops.matmul(a[:64], a).tobytes() == expected
print("same", flush=True)
"""


@pytest.mark.parametrize("delay", [0.05, 0.31, 0.52])
def test_ctrl_c_stops_a_long_kernel(delay):
    with subprocess.Popen([sys.executable, "-c", INTERRUPT], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        time.sleep(delay)
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        stopped = float(child.stdout.readline())
        assert child.stdout.read() == "same\n"
        assert child.wait(20) == 0
    assert stopped - sent < 1.0  # 100 ms is promised and measured in RESULTS.md; here other work may hold the CPU


def test_threads_are_checked():
    before = _core.threads()
    with pytest.raises(ValueError, match="threads: 0"):
        _core.set_threads(0)
    assert _core.threads() == before


@pytest.mark.parametrize(("value", "expected"), [("1", "1"), ("3", "3"), ("abc", None), ("0", None), ("-4", None)])
def test_omp_num_threads_is_honoured(value, expected):
    code = "from pyllm import _core; print(_core.threads(), _core.threads_reason())"
    environment = os.environ | {"OMP_NUM_THREADS": value}
    argv = [sys.executable, "-c", code]
    out = subprocess.run(argv, capture_output=True, text=True, env=environment, check=True).stdout
    count, reason = out.split(maxsplit=1)
    assert (reason.strip() == "OMP_NUM_THREADS") == (expected is not None)
    assert expected is None or count == expected


@pytest.mark.parametrize("name", ["nonsense", "AVX2", "avx1024"])
def test_an_unknown_isa_is_refused_at_import(name):
    environment = os.environ | {"PYLLM_ISA": name}
    done = subprocess.run(
        [sys.executable, "-c", "import pyllm._core"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert f"PYLLM_ISA: '{name}' is not an instruction set that this CPU runs; it runs: base" in done.stderr


def test_storage_types_mix_within_a_layer(tmp_path):
    """A gate and its up matrix of different types do not share a tile; q, k and v of different types share a step."""
    config = tiny_models.llama_config()
    path = tiny_models.write_folder(tmp_path, config, tiny_models.random_weights(config), "F32")
    mixed = pyllm.AutoModelForCausalLM.from_pretrained(path, precision="high")
    for layer in mixed.layers:
        for parameter in (layer.feed_forward.up.weight, layer.attention.v.weight):
            n, k = parameter.shape
            narrow = _core.Weight("BF16", n, k)
            narrow.fill_floats(parameter.value.dequantise(0, n))
            parameter.value = narrow
    fused, unfused = mixed(IDS[None, :100]).logits[0], mixed.forward(IDS[:100])
    assert np.abs(fused - unfused).max() <= 1e-5 * np.abs(unfused).max()
    assert "linear F32(96,64) BF16(96,64)" in mixed.program().describe()


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_rows_of_a_replay_do_not_change_the_answer(model, monkeypatch, rows):
    whole = scores(model, model.new_state(), IDS[:150])
    monkeypatch.setattr(model, "batch_rows", rows)
    assert np.array_equal(scores(model, model.new_state(), IDS[:150]), whole)
