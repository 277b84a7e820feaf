"""Objectives: rates over many samples, targets that give the text back, the same tasks for the same positions."""

import re

import data_corpora
import numpy as np
import pytest
import tiny_tokenizers

import pyllm.text
from pyllm.data import IGNORED, Shards, Tasks, prepare
from pyllm.data.denoising import Denoising, SpanCorruption
from pyllm.data.draws import Draws
from pyllm.data.lexicon import Lexicon
from pyllm.data.objectives import MaskedLM, NextSentence, Piece, PrefixLM, PrefixPairs
from pyllm.data.packed import shuffled
from pyllm.data.tasks import NAMES, OBJECTIVES, objective
from pyllm.errors import DataError

LENGTH, START = 64, 5
SPECIAL = ("<mask>", *(f"<extra_id_{i}>" for i in range(12)))
ENDS = np.array([". ", "! ", "? ", " ", " ", " "])


def text_of(i):
    """A document of sentences, some of its words rare and therefore cut into tokens."""
    rng = np.random.default_rng(i)
    words = data_corpora.document(i, 60 + i % 90).split()
    return "".join(w.title() + e if i % 2 else w + e for w, e in zip(words, rng.choice(ENDS, len(words)), strict=True))


@pytest.fixture(scope="module")
def tokenizer():
    texts = [text_of(i) for i in range(100)]
    return pyllm.text.train(texts, vocab=380, special=SPECIAL)


@pytest.fixture(scope="module")
def lexicon(tokenizer):
    return Lexicon(tokenizer)


@pytest.fixture(scope="module")
def shards(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("objectives")
    source = data_corpora.jsonl(folder / "a.jsonl", [{"text": text_of(i)} for i in range(150)])
    prepare(source, tokenizer, folder / "shards", valid=0.1, shard_tokens=2000)
    return Shards(folder / "shards")


def every(lexicon):
    """An objective of every kind and name."""
    kinds = [(kind, name) for kind, names in OBJECTIVES.items() for name in names if name != "next"]
    return [objective(name, kind, lexicon, START) for kind, name in kinds]


def pieces(tasks, epoch=0):
    """(piece, what was posed of it) of every window, in order of positions."""
    first = epoch * len(tasks)
    for i, window in enumerate(shuffled(first, len(tasks), len(tasks), tasks.seed).tolist()):
        draws = Draws(tasks.seed, tasks.objective.name, first + i)
        for piece in tasks.pieces(window):
            yield piece, tasks.objective.pose(piece, draws, tasks.shards)


def test_numbers_are_those_of_the_position_and_even():
    again = [Draws(3, "mlm", 10**14).uniform(5).tolist() for _ in range(2)]
    assert again[0] == again[1] == KNOWN
    seen = {Draws(s, p, at).uniform(1)[0] for s in (0, 1) for p in ("mlm", "span") for at in range(500)}
    assert len(seen) == 2000 and abs(np.mean(list(seen)) - 0.5) < 4 * (1 / 12 / 2000) ** 0.5
    draws = Draws(0, "x", 0)
    counts = np.bincount(draws.poisson(3.0, 100_000))
    exact = np.exp(-3.0) * np.cumprod([1.0, *(3.0 / np.arange(1, 8))])
    assert np.abs(counts[:8] / 100_000 - exact).max() < 4 * (0.25 / 100_000) ** 0.5
    assert abs(np.mean([draws.rounded(2.3) for _ in range(20_000)]) - 2.3) < 4 * (0.21 / 20_000) ** 0.5
    orders = np.array([draws.order(4) for _ in range(24_000)])
    found = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(found) == 24 and np.abs(found - 1000).max() < 150
    least = np.array([0, 1, 1, 0])
    some = np.array([draws.parts(6, 4, least) for _ in range(35_000)])
    found = np.unique(some, axis=0, return_counts=True)[1]
    assert len(found) == 35 and np.abs(found - 1000).max() < 150  # 4 free ones in 4 places: 7 choose 3
    assert (some.sum(axis=1) == 6).all() and (some >= least).all()
    assert draws.parts(5, 1, np.array([1])).tolist() == [5]


def test_words_and_sentences_begin_where_they_do(tokenizer, lexicon):
    for text in ("the quickxyzq jumps, (over) 3.14. And then!", "Zebra's caf\u00e9 42nd"):
        ids = np.array(tokenizer.encode(text, add_special_tokens=False), np.int32)
        groups = np.split(ids, np.flatnonzero(lexicon.words(ids))[1:])
        words = [b"".join(map(tokenizer.token_bytes, group.tolist())).decode().strip() for group in groups]
        assert "".join(words) == text.replace(" ", "") and not any(" " in word for word in words)
        assert {word for word in re.split(r"[\s.(),!']+", text) if word} <= set(words)
    ids = np.array(tokenizer.encode("One is 3.14 of two. Three! four", add_special_tokens=False), np.int32)
    cut = np.split(ids, np.flatnonzero(lexicon.sentences(ids))[1:])
    assert [tokenizer.decode(part).strip() for part in cut] == ["One is 3.14 of two.", "Three!", "four"]


def test_words_of_wordpieces_are_hidden_whole(tmp_path):
    tiny_tokenizers.write_vocabulary(tmp_path)
    tokenizer = pyllm.AutoTokenizer.from_pretrained(tmp_path)
    lexicon = Lexicon(tokenizer)
    around = [int(lexicon.before[0]), int(lexicon.after[0]), lexicon.mask]
    assert tokenizer.convert_ids_to_tokens(around) == ["[CLS]", "[SEP]", "[MASK]"]
    ids = np.array(tokenizer.encode("my footballers, unaffable john", add_special_tokens=False), np.int32)
    words = np.split(ids, np.flatnonzero(lexicon.words(ids))[1:])
    assert [len(word) for word in words] == [1, 4, 1, 3, 2]
    sizes, met = {len(word): set(word.tolist()) for word in words}, set()
    for i in range(400):
        _, targets = MaskedLM(lexicon, 0.4).hidden([ids], Draws(0, "mlm", i))
        hidden = targets[1:-1] != IGNORED
        parts = np.split(hidden, np.flatnonzero(lexicon.words(ids))[1:])
        assert all(part.all() or not part.any() for part in parts)
        met |= {len(part) for part in parts if part.all()}
    assert met == set(sizes)


def test_masked_lm_hides_fifteen_per_cent_of_whole_words(shards, lexicon):
    tasks = Tasks(shards, LENGTH, MaskedLM(lexicon), 1)
    open_ = hidden = masked = kept = swapped = 0
    for epoch in range(16):
        for piece, posed in pieces(tasks, epoch):
            if not len(piece.ids):
                assert not posed.sequences
                continue
            ((ids, targets),) = posed.sequences
            text = np.concatenate([lexicon.before, piece.ids, lexicon.after])
            chosen = targets != IGNORED
            assert np.array_equal(np.where(chosen, targets, ids), text)  # given back exactly
            assert not lexicon.special[text[chosen]].any()
            starts = lexicon.words(text) | lexicon.special[text]
            word = np.cumsum(starts)
            whole = {int(w) for w in word[chosen]}
            assert all(chosen[word == w].all() for w in whole)
            open_ += int((~lexicon.special[text]).sum())
            hidden += int(chosen.sum())
            masked += int((ids[chosen] == lexicon.mask).sum())
            kept += int((ids[chosen] == text[chosen]).sum())
            swapped += int(((ids != text) & (ids != lexicon.mask)).sum())
            others = ids[(ids != text) & (ids != lexicon.mask)]
            assert not lexicon.special[others].any()
    assert hidden > 30_000
    assert 0.97 * 0.15 < hidden / open_ <= 0.15 + 3 * (0.15 / open_) ** 0.5  # what no whole word fits into stays
    for count, share in ((masked, 0.8), (kept, 0.1 + 0.1 / len(lexicon.plain)), (swapped, 0.1)):
        assert abs(count / hidden - share) < 4 * (share * (1 - share) / hidden) ** 0.5
    assert masked + kept + swapped == hidden


def test_words_of_one_token_are_hidden_at_the_exact_rate(lexicon):
    ids = np.array([i for i in lexicon.plain if lexicon.spaced[i]][:50], np.int32)
    assert lexicon.words(ids).all()
    task = MaskedLM(lexicon)
    count = [(task.hidden([ids], Draws(0, "mlm", i))[1] != IGNORED).sum() for i in range(4000)]
    assert set(count) == {7, 8} and abs(np.mean(count) - 7.5) < 4 * 0.5 / 4000**0.5
    places = np.sum([task.hidden([ids], Draws(1, "mlm", i))[1] != IGNORED for i in range(4000)], axis=0)[1:-1]
    assert np.abs(places - 600).max() < 5 * (600 * 0.85) ** 0.5  # no place is preferred


def test_half_of_the_second_segments_follow(shards, lexicon, tokenizer):
    tasks = Tasks(shards, LENGTH, NextSentence(lexicon), 2)
    answers, follow = [], 0
    documents = [shards.document(i) for i in range(len(shards))]
    for epoch in range(6):
        for piece, posed in pieces(tasks, epoch):
            for (ids, targets), answer in zip(posed.sequences, posed.whole, strict=True):
                text = np.where(targets != IGNORED, targets, ids)
                ends = np.flatnonzero(text == lexicon.after[0])
                if len(piece.ids) < 2:
                    assert answer == IGNORED and len(ends) == 2
                    continue
                assert len(ends) == 3 and text[0] == lexicon.before[0] and len(ids) <= LENGTH  # one end token for all
                first, second = text[1 : ends[1]], text[ends[1] + 1 : -1]
                assert len(first) and len(second) and np.array_equal(first, piece.ids[: len(first)])
                answers.append(answer)
                here = np.array_equal(second, piece.ids[len(first) :])
                follow += here
                if answer == 0:
                    assert here
                else:
                    other = " ".join(map(str, second.tolist()))
                    assert any(other in " ".join(map(str, d.tolist())) for d in documents)
                    assert len(second) <= len(piece.ids) - len(first)
    assert abs(np.mean(answers) - 0.5) < 4 * 0.5 / len(answers) ** 0.5 and len(answers) > 1200
    assert follow - answers.count(0) < 0.05 * len(answers)
    batch = tasks.batch(0, 4)
    assert len(batch.targets) == len(batch.ids) + len(batch.starts) - 1
    assert set(batch.targets[len(batch.ids) :].tolist()) <= {0, 1, IGNORED}


def test_spans_are_cut_out_and_put_back(shards, lexicon):
    task = SpanCorruption(lexicon, START)
    tasks = Tasks(shards, LENGTH, task, 3)
    noise, spans, total, places = 0, 0, 0, np.zeros(LENGTH - 1)
    for epoch in range(10):
        for piece, posed in pieces(tasks, epoch):
            if not len(piece.ids):
                continue
            (source, nothing), (ids, targets) = posed.sequences
            assert (nothing == IGNORED).all() and source[-1] == targets[-1] == lexicon.after[-1]
            assert ids[0] == START and np.array_equal(ids[1:], targets[:-1])
            text, hidden = put_back(source[:-1], targets[:-1], lexicon)
            assert np.array_equal(text, piece.ids)
            assert len(source) <= LENGTH
            if len(text) == LENGTH - 1:
                noise, spans, total = noise + hidden.sum(), spans + len(targets) - 2 - hidden.sum(), total + len(text)
                places += hidden
    assert total > 20_000
    assert abs(noise / total - 0.15) < 0.002 and abs(noise / spans - 3) < 0.05
    assert places.min() > 0.2 * places.mean()  # at the first and at the last as well, if less often
    lengths = [len(np.flatnonzero(~lexicon.special[p.sequences[1][1]])) for _, p in pieces(tasks) if p.sequences]
    assert np.mean(lengths) > 3


def put_back(source, target, lexicon):
    """(the text, which of its tokens were hidden) of a source and a target without their ends."""
    number = {int(s): i for i, s in enumerate(lexicon.sentinels)}
    marks = [i for i, t in enumerate(target.tolist()) if t in number]
    assert [number[int(target[i])] for i in marks] == list(range(len(marks))) and marks[-1] == len(target) - 1
    text, hidden, met = [], [], 0
    for token in source.tolist():
        part = [token]
        if token in number:
            assert number[token] == met
            part = target[marks[met] + 1 : marks[met + 1]].tolist()
            assert part
            met += 1
        text += part
        hidden += [token in number] * len(part)
    assert met == len(marks) - 1
    return np.array(text, np.int32), np.array(hidden)


def test_spans_have_all_lengths(lexicon):
    """The lengths of 3 spans of 9 tokens are any of 28 sums with equal chance."""
    piece = Piece(np.arange(300, 360, dtype=np.int32), 0, np.arange(0, dtype=np.int32))
    task = SpanCorruption(lexicon, START)
    found = {}
    for i in range(5600):
        (_, _), (_, target) = task.pose(piece, Draws(0, "span", i), None).sequences
        marks = np.flatnonzero(np.isin(target, lexicon.sentinels))
        key = tuple(np.diff(marks) - 1)
        found[key] = found.get(key, 0) + 1
    assert len(found) == 28 and {sum(key) for key in found} == {9} and {len(key) for key in found} == {3}
    assert min(found.values()) > 130 and max(found.values()) < 270  # 200 each


def test_denoising_hides_thirty_per_cent_and_gives_the_text_back(shards, lexicon):
    tasks = Tasks(shards, LENGTH, Denoising(lexicon, START), 4)
    hidden, masks, total, moved = 0, 0, 0, 0
    for epoch in range(10):
        for piece, posed in pieces(tasks, epoch):
            if not len(piece.ids):
                continue
            (source, _), (ids, targets) = posed.sequences
            around = np.concatenate([lexicon.opening, piece.ids, lexicon.after])
            assert np.array_equal(targets, around)
            assert ids[0] == START and np.array_equal(ids[1:], targets[:-1])
            damaged = source[len(lexicon.opening) : -1]
            seen = damaged[damaged != lexicon.mask]
            counts = [np.bincount(each, minlength=lexicon.size) for each in (seen, piece.ids)]
            assert (counts[0] <= counts[1]).all() and len(source) <= len(around)
            hidden, masks, total = (
                hidden + len(piece.ids) - len(seen),
                masks + len(damaged) - len(seen),
                total + len(piece.ids),
            )
    assert total > 50_000 and abs(hidden / total - 0.3) < 0.004
    assert 2.2 < hidden / masks < 3  # Poisson of mean 3, the last span of each piece cut
    flat = Denoising(lexicon, START, rate=0.0)
    for piece, posed in pieces(Tasks(shards, LENGTH, flat, 4)):
        if len(piece.ids):
            damaged = posed.sequences[0][0][:-1]
            parts = [p.tobytes() for p in np.split(piece.ids, np.flatnonzero(lexicon.sentences(piece.ids))[1:])]
            assert sorted(damaged.tolist()) == sorted(piece.ids.tolist())
            assert all(part in damaged.tobytes() for part in parts)
            moved += len(parts) > 1 and not np.array_equal(damaged, piece.ids)
    assert moved > 20
    still = Denoising(lexicon, START, rate=0.0, permute=False)
    for piece, posed in pieces(Tasks(shards, LENGTH, still, 4)):
        assert not len(piece.ids) or np.array_equal(posed.sequences[0][0][:-1], piece.ids)


def test_prefixes_of_every_length(shards, lexicon):
    tasks = Tasks(shards, LENGTH, PrefixLM(lexicon), 5)
    shares = []
    for epoch in range(20):
        for piece, posed in pieces(tasks, epoch):
            for ids, targets in posed.sequences:
                assert np.array_equal(ids, piece.stream[:-1])
                wanted = targets != IGNORED
                first = int(np.argmax(wanted))
                assert wanted[first:].all() and np.array_equal(targets[wanted], piece.stream[1 + first :])
                if len(ids) == LENGTH - 1:
                    shares.append(first / (len(ids) - 1))
    assert min(shares) == 0 and max(shares) == 1 and abs(np.mean(shares) - 0.5) < 0.03
    tasks = Tasks(shards, LENGTH, PrefixPairs(lexicon, START), 5)
    for piece, posed in pieces(tasks):
        if posed.sequences:
            (source, _), (ids, targets) = posed.sequences
            assert np.array_equal(np.concatenate([source[:-1], targets[:-1]]), piece.ids)
            assert source[-1] == targets[-1] == lexicon.after[-1] and ids[0] == START


def test_tasks_depend_on_the_position_alone(shards, lexicon):
    for each in every(lexicon):
        tasks = Tasks(shards, LENGTH, each, 6)
        whole = tasks.batch(0, 2 * len(tasks))
        parts = [Tasks(shards, LENGTH, each, 6).batch(i, 1) for i in range(2 * len(tasks))]
        assert np.array_equal(np.concatenate([part.ids for part in parts]), whole.ids)
        n = whole.starts[-1]
        assert np.array_equal(np.concatenate([part.targets[: len(part.ids)] for part in parts]), whole.targets[:n])
        assert np.array_equal(np.concatenate([p.targets[len(p.ids) :] for p in parts]), whole.targets[n:])
        assert whole.ids.dtype == whole.targets.dtype == whole.starts.dtype == np.int32
        assert (np.diff(whole.starts) > 0).all() and np.diff(whole.starts).max() <= LENGTH
        one, two = (sorted(p.targets.tobytes() for p in half) for half in (parts[: len(tasks)], parts[len(tasks) :]))
        assert one != two  # other draws in the next epoch
        other = Tasks(shards, LENGTH, each, 7).batch(0, 3)
        assert other.ids.tobytes() != tasks.batch(0, 3).ids.tobytes()
        assert each.facts["name"] == each.name in NAMES


def test_special_tokens_within_a_text_stay(lexicon):
    """A document may hold special tokens, of conversations for instance: they are never hidden, and cut words."""
    rng = np.random.default_rng(0)
    for i in range(300):
        ids = rng.integers(0, lexicon.size, 40).astype(np.int32)
        ids[rng.random(40) < 0.3] = lexicon.sentinels[3]
        piece = Piece(ids, 0, ids)
        ((_, targets),) = MaskedLM(lexicon, 0.5).pose(piece, Draws(0, "mlm", i), None).sequences
        assert not lexicon.special[targets[targets != IGNORED]].any()
        (source, _), _ = Denoising(lexicon, START, permute=False).pose(piece, Draws(0, "d", i), None).sequences
        special = ids[lexicon.special[ids] & (ids != lexicon.mask)]
        found = source[:-1]
        assert np.array_equal(found[lexicon.special[found] & (found != lexicon.mask)], special)
    nothing = np.full(9, lexicon.sentinels[0], np.int32)
    ((_, targets),) = MaskedLM(lexicon).pose(Piece(nothing, 0, nothing), Draws(0, "mlm", 0), None).sequences
    assert (targets == IGNORED).all()


def test_hostile_tokenizers_windows_and_names(shards, lexicon, tmp_path):
    bare = pyllm.text.train(["a b c d e f g"] * 3, vocab=270, special=SPECIAL[1:3])
    for name, kind in (("mlm", "encoder"), ("mlm+nsp", "encoder"), ("denoise", "pairs")):
        with pytest.raises(DataError, match=r"has no mask token.*--special '<mask>'"):
            objective(name, kind, Lexicon(bare))
    with pytest.raises(DataError, match="tokenizer: 265 tokens; 372, those of the shards"):
        Tasks(shards, LENGTH, PrefixLM(Lexicon(bare)))
    Tasks(shards, 97, SpanCorruption(lexicon, START))
    with pytest.raises(DataError, match=r"12 sentinels in the tokenizer.*39 for windows of 751: .*--sentinels 39"):
        Tasks(shards, 752, SpanCorruption(lexicon, START))
    for each in every(lexicon):
        with pytest.raises(DataError, match=f"length: {7 + each.extra}.*at least {8 + each.extra}: 8 of text"):
            Tasks(shards, 7 + each.extra, each)
        assert len(Tasks(shards, 8 + each.extra, each).batch(0, 3).ids)
    with pytest.raises(DataError, match="for a window"):
        Tasks(shards, shards.tokens + 10, PrefixLM(lexicon))
    tasks = Tasks(shards, LENGTH, PrefixLM(lexicon))
    for position, size in [(-1, 1), (0, 0)]:
        with pytest.raises(DataError, match="batch: position"):
            tasks.batch(position, size)
    for name, kind, allowed in (("span", "encoder", "mlm, mlm+nsp"), ("mlm", "decoder", "next, prefix"),
                                ("", "pairs", "span, denoise, prefix")):  # fmt: skip
        with pytest.raises(ValueError, match=f"objective: '{name}'.*{allowed.replace('+', '.')}"):
            objective(name, kind, lexicon)
    for name, kind in (("mlm", "encoder"), ("span", "pairs")):
        for rate in (0.0, 1.0, -0.5, float("nan")):
            with pytest.raises(ValueError, match=f"objective: {name} with a rate of {rate:g}, allowed are shares"):
                objective(name, kind, lexicon, START, rate)
    with pytest.raises(ValueError, match=r"objective: a rate of 0.3 for 'prefix'"):
        objective("prefix", "pairs", lexicon, START, 0.3)


@pytest.mark.parametrize("name", ("mlm", "mlm+nsp", "span", "denoise"))
@pytest.mark.parametrize("rate", (0.1, 0.4))
def test_the_rate_is_the_one_asked_for(tokenizer, shards, lexicon, name, rate):
    kind = "encoder" if name.startswith("mlm") else "pairs"
    hidden = total = 0
    for piece, posed in pieces(Tasks(shards, 40, objective(name, kind, lexicon, START, rate))):
        if not posed.sequences:
            continue
        ids, targets = posed.sequences[0]
        if kind == "encoder":
            text = np.where(targets == IGNORED, ids, targets)
            hidden, total = hidden + int((targets != IGNORED).sum()), total + int((~lexicon.special[text]).sum())
        else:
            seen = ids[~lexicon.special[ids]]
            hidden, total = hidden + len(piece.ids) - len(seen), total + len(piece.ids)
    assert total > 5000 and abs(hidden / total - rate) < 0.03


def test_next_sentences_need_two_documents(tokenizer, lexicon, tmp_path):
    source = data_corpora.jsonl(tmp_path / "a.jsonl", [{"text": text_of(1)}])
    prepare(source, tokenizer, tmp_path / "shards")
    with pytest.raises(DataError, match="one document; two"):
        Tasks(Shards(tmp_path / "shards"), 32, NextSentence(lexicon))
    assert len(Tasks(Shards(tmp_path / "shards"), 32, MaskedLM(lexicon)))


KNOWN = [0.7899645735438812, 0.7014199879342865, 0.017870695669521375, 0.040999850867137755, 0.222275112608595]
