"""Conversations: what is fed, what is remembered, and what happens when somebody leaves in the middle."""

import pytest
from fakes import END, FakeModel, FakeTokenizer

from pyllm.errors import ContextError
from pyllm.generate import Chat, GenerationError, LogitsError

TOK = FakeTokenizer()


def talker(text="Yes. No!", context=400, **more):
    """A model that always says `text` and ends."""
    return FakeModel(vocab=261, context=context, script=[*TOK.encode(text), END], **more)


def fed(model):
    """All tokens fed so far, per step."""
    return [ids for _, ids in model.fed]


def test_answers_are_kept_and_only_new_tokens_are_fed():
    model = talker()
    chat = Chat(model, TOK, "Be brief.")
    assert chat.send("Well?") == "Yes. No!"
    first = TOK.apply_chat_template(chat.messages[:2], add_generation_prompt=True)
    assert fed(model)[0] == first
    assert all(len(ids) == 1 for ids in fed(model)[1:])
    assert chat.finish_reason == "stop"
    before = len(model.fed)
    assert chat.send("Sure?") == "Yes. No!"
    assert chat.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "content": "Yes. No!"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes. No!"},
    ]
    start, ids = model.fed[before]
    assert ids == [END, 2, *TOK.encode("Sure?"), END, 3]  # the end token was chosen, but never fed
    assert chat.state.tokens[:start] == [*first, *TOK.encode("Yes. No!")]
    chat.close()
    assert model.alive == 0


def test_pieces_arrive_as_they_are_computed():
    model = talker("né")
    chat = Chat(model, TOK)
    pieces = chat.stream("x")
    assert model.steps == 0
    assert next(pieces) == "n" and model.steps == 1
    assert next(pieces) == "é" and model.steps == 3
    assert list(pieces) == []


def test_history_may_be_edited():
    model = talker("abc")
    chat = Chat(model, TOK)
    chat.send("one")
    chat.messages[0]["content"] = "two"
    chat.send("three")
    whole = TOK.apply_chat_template(chat.messages[:3], add_generation_prompt=True)
    assert (2, whole[2:]) in model.fed  # the beginning and the role are shared, the rest is fed again
    assert chat.state.tokens == [*whole, *TOK.encode("abc")]


def test_same_question_again_feeds_one_token():
    model = talker("abc")
    chat = Chat(model, TOK)
    chat.send("one")
    assert chat.undo() == "one" and chat.messages == []
    before = len(model.fed)
    assert chat.send("one") == "abc"
    assert model.fed[before] == (6, [3])
    assert chat.undo() == "one" and chat.undo() is None


def test_leaving_early_stops_computing_and_keeps_what_was_said():
    model = talker("abcdef")
    chat = Chat(model, TOK)
    for piece in chat.stream("x"):
        if piece == "c":
            break
    assert model.steps == 3
    assert chat.messages[-1] == {"role": "assistant", "content": "abc"}
    assert chat.finish_reason == "cancelled"
    model.answered = 0
    assert chat.send("y") == "abcdef"
    assert chat.state.tokens[:10] == TOK.apply_chat_template(chat.messages)[:10]


def test_a_new_question_ends_the_answer_before():
    model = talker("abcdef")
    chat = Chat(model, TOK)
    first = chat.stream("x")
    next(first)
    model.answered = 0
    assert chat.send("y") == "abcdef"
    assert [m["content"] for m in chat.messages] == ["x", "a", "y", "abcdef"]
    assert list(first) == []


@pytest.mark.parametrize("at", [1, 2, 4])
def test_interrupts_leave_the_chat_usable(at):
    model = talker("abcdef", fail={at: KeyboardInterrupt()})
    chat = Chat(model, TOK)
    with pytest.raises(KeyboardInterrupt):
        chat.send("x")
    said = "abcdef"[: at - 1]
    assert [m["content"] for m in chat.messages] == (["x", said] if said else [])
    model.answered = 0
    assert chat.send("y") == "abcdef"
    whole = TOK.apply_chat_template(chat.messages[:-1], add_generation_prompt=True)
    assert chat.state.tokens == [*whole, *TOK.encode("abcdef")]
    chat.close()
    assert model.alive == 0


def test_errors_take_the_question_back():
    model = talker()
    chat = Chat(model, TOK)
    model.script = None
    model.table[:] = float("nan")
    with pytest.raises(LogitsError):
        chat.send("x")
    assert chat.messages == []


def test_overflow_is_an_error_with_advice():
    chat = Chat(talker(context=40), TOK)
    with pytest.raises(ContextError, match=r"44 tokens, the context holds 40 .* undo\(\) or reset\(\)"):
        chat.send("x" * 40)
    assert chat.messages == []
    assert chat.send("short") == "Yes. No!"


def test_overflow_can_drop_the_oldest_turns():
    model = talker(context=100)
    chat = Chat(model, TOK, "sys", overflow="drop")
    for turn in range(12):
        assert chat.send(f"question {turn}") == "Yes. No!"
        assert chat.messages[0] == {"role": "system", "content": "sys"}
        assert chat.messages[-2]["content"] == f"question {turn}"
        assert len(chat.state.tokens) <= 100
    assert 3 <= len(chat.messages) < 12
    assert [m["role"] for m in chat.messages[1:]] == ["user", "assistant"] * (len(chat.messages) // 2)
    with pytest.raises(ContextError):
        chat.send("x" * 100)


def test_the_answer_ends_where_the_context_does():
    model = FakeModel(vocab=261, context=20, script=TOK.encode("ab"))
    chat = Chat(model, TOK)
    answer = chat.send("hello")
    assert chat.finish_reason == "length" and len(answer) == 20 - 9
    chat = Chat(FakeModel(vocab=261, script=TOK.encode("ab")), TOK, max_new_tokens=5)
    assert chat.send("hello") == "ababa"


def test_stop_strings_are_not_part_of_the_answer():
    chat = Chat(talker("one. User: two"), TOK, stop_strings=["User:", "\n"])
    assert chat.send("x") == "one. "
    assert chat.messages[-1]["content"] == "one. "


def test_special_tokens_inside_an_answer_are_not_shown():
    model = FakeModel(vocab=261, script=[*TOK.encode("a"), 4, *TOK.encode("b"), END])
    assert Chat(model, TOK).send("x") == "ab"


def test_reset_keeps_the_instruction():
    model = talker()
    chat = Chat(model, TOK, "sys")
    chat.send("x")
    chat.reset()
    assert chat.messages == [{"role": "system", "content": "sys"}] and model.alive == 0
    with Chat(model, TOK) as other:
        other.send("x")
        other.reset()
        assert other.messages == []
    assert model.alive == 0


def test_seeds_repeat_a_conversation():
    def talk(seed):
        with Chat(FakeModel(vocab=261), TOK, do_sample=True, top_k=0, seed=seed, max_new_tokens=8) as chat:
            return [chat.send("x"), chat.send("y")]

    assert talk(1) == talk(1) != talk(2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overflow": "ignore"}, "needs 'error' or 'drop'"),
        ({"num_beams": 2}, "a chat has one answer"),
        ({"num_return_sequences": 2}, "a chat has one answer"),
        ({"seed": [1]}, "a chat has one seed"),
        ({"tempature": 1}, "did you mean 'temperature'"),
        ({"temperature": float("nan")}, "temperature=nan"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(GenerationError, match=message):
        Chat(talker(), TOK, **settings)
    with pytest.raises(GenerationError, match="message='int'; needs a str"):
        Chat(talker(), TOK).stream(5)
