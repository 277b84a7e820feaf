"""Streamers: what they are told, in which order, and that a reader in another thread is never left waiting."""

import queue
import threading

import numpy as np
import pytest
from fakes import END, FakeModel, FakeTokenizer

from pyllm.generate import GenerationError, TextIteratorStreamer, TextStreamer, generate
from pyllm.generate.stopping import StopText

TOK = FakeTokenizer()
PROMPT = TOK.encode("Say: ")


def talker(text="né!", **more):
    return FakeModel(vocab=261, script=[*TOK.encode(text), END], **more)


def test_text_streamer_prints(capsys):
    generate(talker(), PROMPT, streamer=TextStreamer(TOK))
    assert capsys.readouterr().out == "Say: né!<end>\n"
    streamer = TextStreamer(TOK, skip_prompt=True, skip_special_tokens=True)
    for _ in range(2):  # it can be used again
        generate(talker(), PROMPT, streamer=streamer)
        assert capsys.readouterr().out == "né!\n"


def test_text_iterator_streamer_in_a_thread():
    streamer = TextIteratorStreamer(TOK, skip_prompt=True, timeout=20, skip_special_tokens=True)
    thread = threading.Thread(target=generate, args=(talker(), PROMPT), kwargs={"streamer": streamer})
    thread.start()
    assert list(streamer) == ["n", "é", "!"]
    thread.join()
    with pytest.raises(queue.Empty):
        next(TextIteratorStreamer(TOK, timeout=0.01))


def test_an_error_ends_the_stream():
    streamer = TextIteratorStreamer(TOK, skip_prompt=True, timeout=20)
    with pytest.raises(MemoryError):
        generate(talker(fail={2: MemoryError()}), PROMPT, streamer=streamer)
    assert list(streamer) == ["n"]


def test_any_callable_gets_the_events():
    seen = []
    out = generate(talker(), [PROMPT, PROMPT[:2]], streamer=seen.append, max_new_tokens=2, tokenizer=TOK)
    assert [event.index for event in seen] == [0, 1, 0, 1]
    assert [event.token for event in seen if event.index == 1] == out[1, len(PROMPT) :].tolist()
    assert seen[-1].finish_reason == "length" and seen[0].finish_reason is None


def test_put_and_end_follow_one_sequence():
    class Recorder:
        def __init__(self):
            self.calls = []

        def put(self, value):
            self.calls.append(np.asarray(value).tolist())

        def end(self):
            self.calls.append("end")

    streamer = Recorder()
    generate(talker("a"), [5, 6], streamer=streamer)
    assert streamer.calls == [[5, 6], TOK.encode("a"), [END], "end"]
    with pytest.raises(GenerationError, match="follows one sequence, here are 2"):
        generate(talker(), [[5], [6]], streamer=streamer)
    with pytest.raises(GenerationError, match="beams know their tokens only at the end"):
        generate(talker(), [5], streamer=streamer, num_beams=2)


@pytest.mark.parametrize(
    ("strings", "pieces", "text", "matched"),
    [
        (["STOP"], ["a S", "TO", "P b"], "a ", "STOP"),
        (["STOP"], ["a STO", "RE"], "a STORE", None),
        (["aab"], ["a", "a", "a", "b"], "a", "aab"),
        (["xyz", "y"], ["wxy"], "wx", "y"),
        (["ab", "abc"], ["abc"], "", "abc"),
        (["\n\n"], ["one\n", "two\n", "\n"], "one\ntwo", "\n\n"),
        (["é"], ["caf", "é", "s"], "caf", "é"),
        ([], ["any", "thing"], "anything", None),
    ],
)
def test_stop_text(strings, pieces, text, matched):
    watch = StopText(strings)
    shown = [watch.put(piece) for piece in pieces]
    shown.append(watch.end())
    assert ("".join(shown), watch.matched) == (text, matched)
    assert not any(string in "".join(shown[:-1]) for string in strings)
