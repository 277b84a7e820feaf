"""Orders that are permutations, windows that tile the stream, batches that depend on the position alone."""

import data_corpora
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.data import IGNORED, Packed, Shards, prepare
from pyllm.data.fingerprint import open_tokenizer
from pyllm.data.packed import shuffled
from pyllm.data.permutation import permute
from pyllm.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    tokenizer = open_tokenizer(data_corpora.native(folder / "tok.gguf"))
    source = data_corpora.jsonl(folder / "a.jsonl", [{"text": data_corpora.document(i, i % 25)} for i in range(80)])
    prepare(source, tokenizer, folder / "shards", valid=0.1, shard_tokens=300)
    return folder / "shards"


@pytest.fixture(scope="module")
def shards(folder):
    return Shards(folder)


@pytest.mark.parametrize("size", [*range(1, 201), 4095, 4096, 4097, 65_537, 300_000])
def test_an_order_is_a_permutation(size):
    for seed, epoch in [(0, 0), (7, 3), (2**64 - 1, 10**9)]:
        found = permute(np.arange(size), size, seed, epoch)
        assert np.array_equal(np.sort(found), np.arange(size))


@pytest.mark.parametrize("size", [10**9 + 7, 2**40, 2**40 + 1, 2**47])
def test_large_orders_are_computed_not_stored(size):
    places = np.concatenate([np.arange(1000), size - 1 - np.arange(1000)])
    found = permute(places, size, 1, 2)
    assert len(set(found.tolist())) == 2000 and found.min() >= 0 and found.max() < size
    assert abs(float(found.mean()) / size - 0.5) < 0.03


def test_orders_look_shuffled():
    """Differ by seed and by epoch; one fixed point, one pair of neighbours stays; any thing is first."""
    size = 1000
    orders = [permute(np.arange(size), size, seed, epoch) for seed in range(20) for epoch in range(20)]
    assert len({order.tobytes() for order in orders}) == 400
    fixed = np.mean([(order == np.arange(size)).sum() for order in orders])
    followed = np.mean([(np.diff(order) == 1).sum() for order in orders])
    assert 0.7 < fixed < 1.3 and 0.7 < followed < 1.3
    first = np.bincount([order[0] // 100 for order in orders], minlength=10)
    assert first.min() > 15 and first.max() < 70  # 40 each: chi-square of nine degrees
    small = {permute(np.arange(4), 4, seed, 0).tobytes() for seed in range(2000)}
    assert len(small) == 24


def test_the_order_is_the_same_on_every_machine():
    assert permute(np.arange(10), 10, 0, 0).tolist() == FIRST and permute(np.arange(10), 10, 1, 5).tolist() == OTHER


FIRST = [6, 2, 4, 5, 1, 8, 3, 0, 9, 7]
OTHER = [2, 7, 5, 6, 4, 8, 1, 3, 0, 9]


@given(st.integers(1, 50), st.integers(0, 200), st.integers(1, 60), st.integers(0, 2**63))
def test_any_cut_of_the_positions_gives_the_same_order(things, position, size, seed):
    whole = shuffled(0, position + size, things, seed)
    assert np.array_equal(shuffled(position, size, things, seed), whole[position:])
    assert all(len(set(whole[at : at + things].tolist())) == things for at in range(0, len(whole) - things + 1, things))


@pytest.mark.parametrize("length", [1, 7, 64])
def test_windows_tile_the_stream(shards, length):
    packed = Packed(shards, length, 3, cross_documents=True)
    assert len(packed) == (shards.tokens - 1) // length
    ids = shards.read(0, shards.tokens)
    found = packed.batch(0, len(packed))
    windows = packed.windows(0, len(packed))
    assert sorted(windows.tolist()) == list(range(len(packed)))
    for row, window in enumerate(windows.tolist()):
        here = slice(row * length, (row + 1) * length)
        assert np.array_equal(found.ids[here], ids[window * length : (window + 1) * length])
        assert np.array_equal(found.targets[here], ids[window * length + 1 : (window + 1) * length + 1])
    assert found.starts.tolist() == list(range(0, len(found.ids) + 1, length))
    assert all(each.dtype == np.int32 for each in found)


@pytest.mark.parametrize("length", [1, 7, 64])
def test_documents_are_sequences_of_their_own(shards, length):
    packed = Packed(shards, length, 3)
    ids = shards.read(0, shards.tokens)
    begins = set(shards.starts(0, shards.tokens).tolist())
    found = packed.batch(0, len(packed))
    starts, targets = [], []
    for row, window in enumerate(packed.windows(0, len(packed)).tolist()):
        for i in range(length):
            at = window * length + i
            if i == 0 or at in begins:
                starts.append(row * length + i)
            targets.append(IGNORED if at + 1 in begins else int(ids[at + 1]))
    assert found.starts.tolist() == [*starts, len(found.ids)] and found.targets.tolist() == targets
    ends = found.targets == IGNORED
    assert np.all(found.ids[ends] == data_corpora.EOS)  # the end is predicted, what follows it is not
    assert int((found.targets == data_corpora.EOS).sum()) > 0


def test_resumed_anywhere_it_goes_on_as_if_never_stopped(folder):
    packed = Packed(Shards(folder), 16, seed=5)
    steps, size = 3 * len(packed) // 8, 8
    whole = [packed.batch(step * size, size) for step in range(steps)]
    assert len({batch.ids.tobytes() for batch in whole}) > 0.9 * steps
    for step in [0, 1, steps // 2, steps - 1]:
        again = Packed(Shards(folder), 16, seed=5).batch(step * size, size)
        assert all(np.array_equal(a, b) for a, b in zip(again, whole[step], strict=True))
    one = [packed.batch(i, 1) for i in range(2 * size)]
    assert np.array_equal(np.concatenate([b.ids for b in one]), np.concatenate([b.ids for b in whole[:2]]))


def test_samples_of_epochs(shards):
    packed = Packed(shards, 16, seed=5)
    for epoch in range(3):
        rows = [packed.sample(i, epoch).ids.tobytes() for i in range(len(packed))]
        assert sorted(rows) == sorted(packed.sample(i).ids.tobytes() for i in range(len(packed)))
        assert np.array_equal(packed.sample(3, epoch).ids, packed.batch(epoch * len(packed) + 3, 1).ids)
    assert packed.sample(3, 0).ids.tobytes() != packed.sample(3, 1).ids.tobytes()
    assert Packed(shards, 16, seed=6).sample(0).ids.tobytes() != packed.sample(0).ids.tobytes()


@settings(max_examples=30)
@given(st.integers(1, 90), st.integers(0, 10**12), st.integers(1, 5))
def test_every_batch_is_well_formed(folder, length, position, size):
    shards = Shards(folder)
    batch = Packed(shards, length, 9).batch(position, size)
    assert len(batch.ids) == len(batch.targets) == size * length == batch.starts[-1]
    assert np.all(np.diff(batch.starts) > 0) and {i * length for i in range(size)} <= set(batch.starts.tolist())
    shards.close()


def test_what_cannot_be_packed(shards):
    for length in (0, shards.tokens):
        with pytest.raises(DataError, match="length: "):
            Packed(shards, length)
    assert len(Packed(shards, shards.tokens - 1)) == 1
    packed = Packed(shards, 8)
    for position, size in [(-1, 1), (0, 0)]:
        with pytest.raises(DataError, match="batch: position"):
            packed.batch(position, size)
    with pytest.raises(DataError, match="sample: "):
        packed.sample(len(packed))
