"""Conversations token by token: what is wanted, what is cut, what is refused, and the order."""

import json

import data_corpora
import numpy as np
import pytest
import tiny_tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.data import IGNORED, Conversations
from pyllm.data.fingerprint import open_tokenizer
from pyllm.data.rendering import render_record
from pyllm.errors import DataError

CHATML = (
    "{% for m in messages %}{{ '<s>' + m.role + '\\n' + m.content | trim + '</s>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"
)
BARE = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
FORGETFUL = (
    "{% for m in messages %}{% if loop.last or m.role != 'assistant' %}"
    "{{ m.role + '\\n' + m.content + '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}"
)


@pytest.fixture(scope="module", params=["bpe", "spm", "json"])
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tok")
    if request.param == "json":
        tiny_tokenizers.write_json(folder, 400)
        return open_tokenizer(folder)
    return open_tokenizer(data_corpora.native(folder / "tok.gguf", request.param, 330))


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    return open_tokenizer(data_corpora.native(tmp_path_factory.mktemp("tok") / "tok.gguf"))


def turn(*contents, system=None):
    """Messages of a user and an assistant in turn."""
    roles = ["user", "assistant"] * len(contents)
    found = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    return [{"role": "system", "content": system}, *found] if system else found


def wanted_text(row, tokenizer):
    """The runs of wanted tokens as text."""
    runs, held = [], []
    for token, wanted in zip([*row.ids.tolist(), 0], [*row.wanted.tolist(), False], strict=True):
        if wanted:
            held.append(token)
        elif held:
            runs.append(tokenizer.decode(held))
            held = []
    return runs


def test_answers_up_to_their_end_are_wanted(tokenizer):
    messages = turn("the quick", "brown fox", "jumps over", "a lazy dog", system="it was raining")
    row = render_record({"messages": messages}, tokenizer)
    assert row.ids.tolist() == tokenizer.apply_chat_template(messages)
    assert [text.strip() for text in wanted_text(row, tokenizer)] == ["brown fox</s>", "a lazy dog</s>"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.sampled_from(["", "the fox", "</s>", "<s>assistant\n", "\n", " a", "\u00e9", "dog "]), min_size=2, max_size=6
    )
)
def test_what_generation_would_see_is_the_prompt(native, contents):
    """Token by token: an answer begins where the prompt of a chat ends, and ends with its end token."""
    messages = turn(*contents)
    row = render_record({"messages": messages}, native)
    expected = np.zeros(len(row.ids), bool)
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = native.apply_chat_template(messages[:i], add_generation_prompt=True)
            same = [int(a) == b for a, b in zip(row.ids, prompt, strict=False)]
            begin = same.index(False) if False in same else len(prompt)
            end = begin + row.ids[begin:].tolist().index(data_corpora.EOS) + 1
            expected[begin:end] = True
    assert row.wanted.tolist() == expected.tolist()
    assert (row.ids == data_corpora.EOS).sum() == len(messages)  # spellings in messages stay text


def test_shifted_targets(native):
    found = Conversations([{"messages": turn("fox", "dog")}], native, 100)
    full = native.apply_chat_template(turn("fox", "dog"))
    prompt = len(native.apply_chat_template(turn("fox"), add_generation_prompt=True))
    end = full.index(data_corpora.EOS, prompt)
    batch = found.batch(0, 1)
    assert batch.ids.tolist() == full[:-1] and batch.starts.tolist() == [0, len(full) - 1]
    assert batch.targets.tolist() == [
        full[i + 1] if prompt <= i + 1 <= end else IGNORED for i in range(len(full) - 1)
    ]  # what the template prints behind the end is not learnt


def test_a_template_without_ends(native, monkeypatch):
    monkeypatch.setattr(native, "chat_template", BARE)
    row = render_record({"messages": turn("fox", "dog")}, native)
    assert wanted_text(row, native) == ["assistant: dog\n"]  # no generation prompt: the role is the model's to say


def test_a_template_that_trims(native, monkeypatch):
    monkeypatch.setattr(native, "chat_template", CHATML)
    row = render_record({"messages": turn(" fox ", "  dog\n")}, native)
    assert wanted_text(row, native) == ["dog</s>"]


def test_a_template_that_drops_earlier_answers(native, monkeypatch):
    monkeypatch.setattr(native, "chat_template", FORGETFUL)
    assert wanted_text(render_record({"messages": turn("a", "b")}, native), native) == ["b</s>"]
    with pytest.raises(ValueError, match=r"messages\[1\]: the chat template changes what stands before an answer"):
        render_record({"messages": turn("a", "b", "c", "d")}, native)


def test_prompt_and_completion(native, monkeypatch):
    asked = render_record({"prompt": "fox", "completion": "dog"}, native)
    chat = render_record({"messages": turn("fox", "dog")}, native)
    assert asked.ids.tolist() == chat.ids.tolist() and asked.wanted.tolist() == chat.wanted.tolist()
    row = render_record({"prompt": turn("a", "b", "c"), "completion": turn("x", "d")[1:]}, native)
    assert wanted_text(row, native) == ["d</s>"]  # an answer in the prompt is not learnt
    monkeypatch.setattr(native, "chat_template", None)
    row = render_record({"prompt": "fox", "completion": " dog"}, native)
    before, after = native.encode("fox"), native.encode(" dog")
    assert row.ids.tolist() == [*before, *after, data_corpora.EOS]
    assert row.wanted.tolist() == [False] * len(before) + [True] * (len(after) + 1)


def test_texts_are_wanted_whole(native):
    row = render_record({"text": "the quick fox</s>"}, native)
    assert row.ids.tolist() == [*native.encode("the quick fox</s>"), data_corpora.EOS] and row.wanted.all()
    found = Conversations([{"text": "the quick fox"}], native, 100).batch(0, 1)
    assert found.targets.tolist() == [*found.ids[1:].tolist(), data_corpora.EOS]


def test_tools_reach_the_template(native, monkeypatch):
    monkeypatch.setattr(native, "chat_template", "{{ tools | length if tools else 0 }}" + CHATML)
    row = render_record({"messages": turn("a", "b"), "tools": [{"name": "x"}]}, native)
    assert native.decode(row.ids).startswith("1<s>")


BAD = [
    (["x"], "is list; an object is wanted"),
    ({}, "has the fields none; messages, or prompt and completion, or text are wanted"),
    ({"prompt": "a"}, "has the fields prompt; messages"),
    ({"messages": []}, "messages is list of no message; a list of messages is wanted"),
    ({"messages": "hi"}, "messages is str"),
    ({"messages": [{"content": "a"}]}, r"messages\[0\] has no role"),
    ({"messages": [7]}, r"messages\[0\] has no role"),
    ({"messages": [{"role": "user", "content": 7}]}, r"messages\[0\]\.content is int; a text is wanted"),
    ({"messages": turn("only a question")}, "has no message of the role assistant"),
    ({"prompt": 7, "completion": "a"}, "prompt is int"),
    ({"prompt": "a", "completion": None}, "completion is NoneType"),
    ({"text": 7}, "text is int; a text is wanted"),
    ({"text": ""}, "completion or text has no token"),
    ({"messages": [{"role": "assistant", "content": None}]}, "chat template"),
]


@pytest.mark.parametrize(("record", "said"), BAD)
def test_bad_records_name_file_and_line(tmp_path, native, record, said):
    path = data_corpora.jsonl(tmp_path / "a.jsonl", [{"text": "fine"}, record, {"text": "too"}])
    with pytest.raises(DataError, match=rf"a\.jsonl: line 2 at 0x11: .*{said}"):
        Conversations(path, native, 100)
    with pytest.raises(DataError, match=f"conversations: row 1: .*{said}"):
        Conversations([{"text": "fine"}, record], native, 100)
    found = Conversations(path, native, 100, skip_bad_records=True)
    assert found.report["dropped"] == {"bad_record": 1, "too_long": 0, "no_answer": 0} and len(found) == 2


@pytest.mark.parametrize("pack", data_corpora.PACKERS)
def test_files_are_what_json_reads(tmp_path, native, pack):
    rows = [{"text": data_corpora.document(i)} for i in range(9)]
    path = data_corpora.jsonl(tmp_path / "a.jsonl", rows, pack)
    files, memory = Conversations(path, native, 100), Conversations(rows, native, 100)
    for i in range(9):
        assert all(np.array_equal(a, b) for a, b in zip(files.row(i), memory.row(i), strict=True))
    assert len(Conversations([path, path], native, 100)) == 18
    (tmp_path / "b.txt").write_text("text")
    with pytest.raises(DataError, match=r"b\.txt: is no jsonl"):
        Conversations(tmp_path / "b.txt", native, 100)


def test_lines_that_are_no_json(tmp_path, native):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n\n{"text"\n')
    with pytest.raises(DataError, match=r"a\.jsonl: line 3 at 0xf: not JSON"):
        Conversations(tmp_path / "a.jsonl", native, 100)


def test_what_is_too_long(native):
    short, long = {"text": "fox"}, {"messages": turn("a", "the quick brown fox jumps over a lazy dog")}
    full = native.apply_chat_template(long["messages"])
    prompt = len(native.apply_chat_template(turn("a"), add_generation_prompt=True))
    cut = Conversations([short, long], native, prompt + 3)
    assert cut.report["cut"] == 1 and cut.row(1).ids.tolist() == full[: prompt + 3]
    assert (cut.row(1).targets != IGNORED).sum() == 4
    assert len(Conversations([long], native, len(full) - 1).row(0).ids) == len(full) - 1  # just fits
    assert Conversations([long], native, len(full) - 1).report["cut"] == 0
    dropped = Conversations([short, long], native, prompt + 3, too_long="drop")
    assert dropped.report["dropped"]["too_long"] == 1 and len(dropped) == 1
    nothing = Conversations([short, long], native, prompt - 1)
    assert nothing.report["dropped"]["no_answer"] == 1 and nothing.report["cut"] == 0
    with pytest.raises(DataError, match="no record is left of 1: 1 no_answer; at least one"):
        Conversations([long], native, prompt - 1)


def test_a_row_of_one_token_has_nothing_to_predict(native, monkeypatch):
    monkeypatch.setattr(native, "eos_token_id", None)
    assert len(native.encode("a")) == 1
    found = Conversations([{"text": "a"}, {"text": "the fox"}], native, 9)
    assert found.report["dropped"]["no_answer"] == 1 and len(found) == 1


def test_the_report_counts(native):
    rows = [{"text": "the fox"}, {"messages": turn("a", "b")}]
    found = Conversations(rows, native, 50)
    batch = found.batch(0, 2)
    assert found.report == {
        "records": 2, "kept": 2, "cut": 0, "dropped": {"bad_record": 0, "too_long": 0, "no_answer": 0},
        "tokens": len(batch.ids) + 2, "targets": int((batch.targets != IGNORED).sum()),
    }  # fmt: skip
    assert "2 rows" in repr(found)


def test_batches_by_position(native):
    rows = [{"text": data_corpora.document(i, i)} for i in range(13)]
    found = Conversations(rows, native, 1000, seed=4)
    whole = [found.batch(i, 1) for i in range(39)]
    again = Conversations(rows, native, 1000, seed=4).batch(5, 20)
    assert np.array_equal(again.ids, np.concatenate([b.ids for b in whole[5:25]]))
    assert np.array_equal(again.targets, np.concatenate([b.targets for b in whole[5:25]]))
    assert again.starts.tolist() == np.cumsum([0, *(len(b.ids) for b in whole[5:25])]).tolist()
    for epoch in range(3):
        seen = {b.ids.tobytes() for b in whole[13 * epoch : 13 * epoch + 13]}
        assert seen == {found.row(i).ids.tobytes() for i in range(13)}
    orders = {tuple(len(b.ids) for b in whole[13 * epoch : 13 * epoch + 13]) for epoch in range(3)}
    assert len(orders) == 3
    assert all(each.dtype == np.int32 for each in again)


def test_held_out_rows_follow_their_content(native):
    rows = [{"text": data_corpora.document(i)} for i in range(40)]

    def parts(rows, n):
        both = Conversations(rows, native, 1000).held_out(n)
        return [{part.row(i).ids.tobytes() for i in range(len(part))} for part in both]

    rest, held = parts(rows, 8)
    assert len(held) == 8 and len(rest) == 32 and not rest & held
    assert parts(rows[::-1], 8) == [rest, held]
    assert parts(rows, 4)[1] < held
    rest, held = parts([*rows, *rows], 7)  # equal rows stay together
    assert len(held) == 4 and not rest & held
    both = Conversations(rows, native, 1000).held_out(8)
    assert [part.report["kept"] for part in both] == [32, 8]


@pytest.mark.parametrize("n", [0, -1, 3, 9])
def test_too_many_held_out(native, n):
    with pytest.raises(DataError, match=f"held_out: {n}; at least 1, below 3"):
        Conversations([{"text": str(i)} for i in range(3)], native, 9).held_out(n)
    with pytest.raises(DataError, match="held_out: 1; rows that differ: equal ones go together, and all 2 would be"):
        Conversations([{"text": "same"}] * 2, native, 9).held_out(1)
    with pytest.raises(DataError, match="held_out: one row only; two or more"):
        Conversations([{"text": "alone"}], native, 9).held_out(1)


def test_settings_that_make_no_sense(native):
    rows = [{"text": "a"}]
    for length, too_long in [(0, "cut"), (5, "wrap")]:
        with pytest.raises(DataError, match="at least 1, cut or drop"):
            Conversations(rows, native, length, too_long=too_long)
    with pytest.raises(DataError, match="one mapping; an iterable of them"):
        Conversations(rows[0], native, 5)
    with pytest.raises(DataError, match="no record is left of 0: there are none"):
        Conversations([], native, 5)
    found = Conversations(rows, native, 5)
    for position, size in [(-1, 1), (0, 0)]:
        with pytest.raises(DataError, match="batch: position"):
            found.batch(position, size)
    with pytest.raises(DataError, match="row: 1; 0 to 0"):
        found.row(1)


def test_a_tokenizer_without_template(native, monkeypatch):
    monkeypatch.setattr(native, "chat_template", None)
    with pytest.raises(DataError, match=r"row 0: .*no chat template"):
        Conversations([{"messages": turn("a", "b")}], native, 9)


def test_records_are_json_of_any_shape(tmp_path, native):
    """Hostile values in a record are bad records, not crashes."""
    values = [None, True, 1, 1e308, "x", [], {}, [[]], {"role": {}}, "\ud800", [None] * 3]
    for key in ("messages", "prompt", "text", "tools"):
        for value in values:
            record = {"messages": turn("a", "b"), key: value} if key == "tools" else {key: value, "completion": value}
            (tmp_path / "a.jsonl").write_text(json.dumps(record) + '\n{"text": "fine"}\n')
            assert 1 <= len(Conversations(tmp_path / "a.jsonl", native, 99, skip_bad_records=True)) <= 2
