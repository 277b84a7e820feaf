"""Trainer on rows as transformers' tokenizers and datasets give them, beside PyTorch's loop on its models."""

from types import SimpleNamespace

import numpy as np
import pair_models
import pytest
import tiny_encoders
import torch
import transformers

import pyllm
from pyllm.auto.new import new_config
from pyllm.errors import DataError
from pyllm.train import read

SIZES = {"vocab_size": 61, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LLAMA = SIZES | IDS | {"intermediate_size": 48, "num_key_value_heads": 1, "max_position_embeddings": 40}
GPT2 = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40, "bos_token_id": 1,
        "eos_token_id": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # fmt: skip
VIT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "image_size": 8,
       "patch_size": 4, "num_channels": 1, "num_labels": 3}  # fmt: skip
LENGTHS = (7, 12, 3, 9, 5)


def texts(random, low=3, high=50):
    return [random.integers(low, high, n) for n in LENGTHS]


def words(random):
    """Labels of tokens, none for some."""
    return [{"input_ids": ids, "labels": np.where(np.arange(len(ids)) % 3 == 1, -100, ids)} for ids in texts(random)]


def typed(random):
    """Two kinds of segment."""
    return [row | {"token_type_ids": (np.arange(len(row["input_ids"])) > 2) * 1} for row in words(random)]


def classes(random):
    return [{"input_ids": ids, "label": int(random.integers(3))} for ids in texts(random)]


def several(random):
    return [{"input_ids": ids, "labels": (random.random(3) < 0.5).astype(np.float32)} for ids in texts(random)]


def tags(random):
    return [{"input_ids": ids, "labels": random.integers(0, 3, len(ids))} for ids in texts(random)]


def pairs(random):
    return [{"input_ids": a, "labels": b} for a, b in zip(texts(random), reversed(texts(random)), strict=True)]


def images(random):
    shape = len(LENGTHS), 1, 8, 8
    return [{"pixel_values": x, "labels": i % 3} for i, x in enumerate(random.standard_normal(shape, np.float32))]


def sentences(random):
    return [row | {"next_sentence_label": i % 2} for i, row in enumerate(typed(random))]


def made(kind, fields):
    """A new model of transformers."""
    torch.manual_seed(0)
    family, _, task = kind.partition(" ")
    config = transformers.AutoConfig.for_model(family, **fields)
    return getattr(transformers, f"AutoModelFor{task}").from_config(config, attn_implementation="eager").eval()


CASES = {
    "llama CausalLM": (words, lambda: made("llama CausalLM", LLAMA)),
    "gpt2 CausalLM": (words, lambda: made("gpt2 CausalLM", GPT2)),
    "llama SequenceClassification": (classes, lambda: made("llama SequenceClassification", LLAMA | {"num_labels": 3})),
    "bert MaskedLM": (typed, lambda: tiny_encoders.theirs("bert", "MaskedLM", **STILL)),
    "bert PreTraining": (sentences, lambda: tiny_encoders.theirs("bert", "PreTraining", **STILL)),
    "roberta SequenceClassification": (several, lambda: tiny_encoders.theirs(
        "roberta", "SequenceClassification", problem_type="multi_label_classification", **STILL)),
    "bert TokenClassification": (tags, lambda: tiny_encoders.theirs("bert", "TokenClassification", **STILL)),
    "bart Seq2SeqLM": (pairs, lambda: pair_models.build("bart", spread=0.05)),
    "mbart Seq2SeqLM": (pairs, lambda: pair_models.build("mbart", spread=0.05)),
    "t5 Seq2SeqLM": (pairs, lambda: pair_models.build("t5", spread=0.05)),
    "vit ImageClassification": (images, lambda: made("vit ImageClassification", VIT)),
}  # fmt: skip


def padded(rows, pad):
    """The rows as a batch of tensors, padded on the right."""
    out = {}
    if "input_ids" in rows[0]:
        rows = [row | {"attention_mask": np.ones(len(row["input_ids"]), np.int64)} for row in rows]
    for name in rows[0]:
        columns = [np.asarray(row[name]) for row in rows]
        fill = {"labels": -100, "input_ids": pad}.get(name, 0)
        if name in ("input_ids", "attention_mask", "token_type_ids") or len({each.shape for each in columns}) > 1:
            longest = max(map(len, columns))
            columns = [np.append(each, [fill] * (longest - len(each))).astype(np.int64) for each in columns]
        out[{"label": "labels"}.get(name, name)] = torch.tensor(np.stack(columns))
    return out


def torch_losses(model, batch, steps, rate):
    """The loss of each step of PyTorch's loop: matrices decay, gradients are clipped to 1."""
    groups = [{"params": [p for p in model.parameters() if (p.ndim > 1) is many], "weight_decay": 0.1 * many}
              for many in (True, False)]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), eps=1e-8)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield loss.item()


def told(folder, **changes):
    usual = {"max_steps": 4, "per_device_train_batch_size": len(LENGTHS), "learning_rate": 1e-3}
    return pyllm.TrainingArguments(str(folder), **(usual | {"lr_scheduler_type": "constant"} | changes))


@pytest.mark.parametrize("case", CASES)
def test_the_first_steps_are_pytorchs(tmp_path, case):
    make, build = CASES[case]
    rows, theirs = make(np.random.default_rng(3)), build()
    theirs.save_pretrained(tmp_path / "model")
    mine = getattr(pyllm, f"AutoModelFor{case.split()[1]}").from_pretrained(tmp_path / "model")
    trainer = pyllm.Trainer(mine, told(tmp_path / "run"), train_dataset=rows, eval_dataset=rows, callbacks=None)
    before = trainer.evaluate()
    assert trainer.train().complete
    pad = getattr(theirs.config, "pad_token_id", None)
    batch = padded(rows, 0 if pad is None else pad)
    expected = list(torch_losses(theirs, batch, 4, 1e-3))
    found = [line["loss"] for line in read(tmp_path / "run")]
    assert np.allclose(found, expected, rtol=0, atol=2e-4 * abs(expected[0])), (found, expected)
    assert abs(before - expected[0]) <= 1e-4 * expected[0] and expected[-1] < expected[0]
    assert trainer.evaluate() < before  # ready to learn on, whatever judged it
    trainer.save_model(tmp_path / "saved")
    again = getattr(pyllm, f"AutoModelFor{case.split()[1]}").from_pretrained(tmp_path / "saved")
    assert pyllm.Trainer(again, told(tmp_path / "other")).evaluate(rows) == pytest.approx(trainer.evaluate(), rel=1e-5)


@pytest.mark.parametrize(("strategy", "judged"), [("epoch", [2, 4, 6, 8]), ("steps", [3, 6, 8]), ("no", [8])])
def test_passes_are_judged_and_saved_as_transformers_is_told_to(tmp_path, strategy, judged):
    usual = {"eval_strategy": strategy, "save_strategy": strategy, "eval_steps": 3, "save_steps": 3}
    usual |= {"num_train_epochs": 3.5, "save_total_limit": 9, "logging_steps": 10, "report_to": "none", "fp16": False}
    a = told(tmp_path / "run", **({"max_steps": -1, "per_device_train_batch_size": 2} | usual))
    rows = [{"input_ids": [i + 1, 2, 3], "labels": [i + 1, 2, 3]} for i in range(5)]
    trainer = pyllm.Trainer(new(tmp_path / "model"), a, train_dataset=rows, eval_dataset=rows[:2])
    assert a.max_steps == 0 and trainer.train().step == 8
    assert [line["step"] for line in read(tmp_path / "run") if "valid_loss" in line] == judged
    assert sorted(int(path.name[-8:]) for path in (tmp_path / "run").glob("checkpoint-*")) == judged


def new(folder, **changes):
    made("gpt2 CausalLM", GPT2 | changes).save_pretrained(folder)
    return pyllm.AutoModelForCausalLM.from_pretrained(folder)


def test_padding_on_either_side_collators_and_columns_give_the_same_bits(tmp_path):
    rows = words(np.random.default_rng(0))
    model = new(tmp_path / "model")
    longest = max(LENGTHS)

    def filled(row, left):
        n = longest - len(row["input_ids"])
        mask = np.ones(len(row["input_ids"]), np.int64)
        sides = (n, 0) if left else (0, n)
        return {"input_ids": np.pad(row["input_ids"], sides).tolist(), "attention_mask": np.pad(mask, sides).tolist(),
                "labels": np.pad(row["labels"], sides, constant_values=7).tolist(), "text": "words"}  # fmt: skip

    def collator(some):
        return {name: torch.tensor(np.array([filled(row, False)[name] for row in some]))
                for name in ("input_ids", "attention_mask", "labels")}  # fmt: skip

    class Dataset:
        column_names = ("input_ids", "labels")

        def batch(self, batch_size):
            raise AssertionError("this is the datasets' batch(), not ours")

        def __len__(self):
            return len(rows)

        def __getitem__(self, i):
            return {name: torch.tensor(column) for name, column in rows[i].items()}

    trainer = pyllm.Trainer(model, args=told(tmp_path / "run"))
    found = {trainer.evaluate(each) for each in
             (rows, [filled(row, True) for row in rows], [filled(row, False) for row in rows], Dataset())}  # fmt: skip
    collated = pyllm.Trainer(model, told(tmp_path / "run"), data_collator=collator)
    assert found == {collated.evaluate(rows)}


def test_a_run_of_rows_resumes_to_the_bit(tmp_path):
    rows, ends = words(np.random.default_rng(0)), []
    for name, parts in (("one", (9,)), ("two", (4, 9))):
        for steps in parts:
            model = new(tmp_path / name, resid_pdrop=0.1)
            sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
            a = told(tmp_path / f"{name}-run", max_steps=9, **sizes)
            trainer = pyllm.Trainer(model, a, train_dataset=rows, callbacks=[_Stop(steps)])
            trainer.train(resume_from_checkpoint=True)
        ends.append(model.learned_arrays())
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])
    with pytest.raises(pyllm.train.CheckpointError, match="data"):
        pyllm.Trainer(new(tmp_path / "x"), a, train_dataset=rows[1:]).train()


class _Stop(pyllm.train.Callback):
    def __init__(self, at):
        self.at = at

    def on_step_end(self, trainer, values):
        if trainer.step == self.at:
            trainer.stop()


def test_refusals_name_the_row_and_what_it_lacks(tmp_path):
    model, a = new(tmp_path / "model"), told(tmp_path / "run")
    ids = [5, 6, 7]
    wrong = {
        r"row 0: labels: missing among input_ids; labels or label or label_ids": {"input_ids": ids},
        r"row 0: labels: int64 \(2,\); integers, one for each of 3 tokens": {"input_ids": ids, "labels": [1, 2]},
        r"row 0: input_ids: int64 \(1, 3\)": {"input_ids": [ids], "labels": [ids]},
        r"row 0: input_ids: none in text; ": {"text": "words"},
        r"row 0: input_ids: .* attention_mask \(3,\); .* one seen at least":
            {"input_ids": ids, "attention_mask": [0, 0, 0], "labels": ids},
        r"row 0: labels: <U4": {"input_ids": ids, "labels": "good"},
        r"row 0: position_ids: given": {"input_ids": ids, "labels": ids, "position_ids": [0, 1, 2]},
        r"row 0: a str; a dict": "words",
    }  # fmt: skip
    for message, row in wrong.items():
        with pytest.raises(DataError, match=message):
            pyllm.Trainer(model, a, train_dataset=[row]).train()
    texts_ = pyllm.AutoModelForSequenceClassification.from_config(new_config("bert", **SIZES, intermediate_size=20))
    with pytest.raises(DataError, match=r"labels: \([23],\); \([23],\), as row [01] has: one for a whole row"):
        pyllm.Trainer(texts_, a, train_dataset=[{"input_ids": ids[:n], "labels": ids[:n]} for n in (2, 3)]).train()
    for callback in (transformers.TrainerCallback(), _Stop):
        with pytest.raises(TypeError, match=r"a callback is .*allowed are objects of a pyllm.train.Callback"):
            pyllm.Trainer(model, a, train_dataset=[{"input_ids": ids}], callbacks=[callback])
    for rows in ({"input_ids": [ids]}, iter([]), 3):
        with pytest.raises(TypeError, match=r"Trainer: a dataset is .*allowed is a list, or what has"):
            pyllm.Trainer(model, a, train_dataset=rows)
    with pytest.raises(DataError, match="no row"):
        pyllm.Trainer(model, a, train_dataset=[])
    with pytest.raises(ValueError, match="no train_dataset"):
        pyllm.Trainer(model, a).train()
    with pytest.raises(ValueError, match="no eval_dataset"):
        pyllm.Trainer(model, a).evaluate()
    with pytest.raises(ValueError, match="resume_from_checkpoint is 'run'"):
        pyllm.Trainer(model, a, train_dataset=[{"input_ids": ids, "labels": ids}]).train(resume_from_checkpoint="run")
    with pytest.raises(TypeError, match=r"args is SimpleNamespace, allowed is pyllm.TrainingArguments"):
        pyllm.Trainer(model, args=SimpleNamespace(output_dir="x"), train_dataset=[{"input_ids": ids}])
