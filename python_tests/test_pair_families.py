"""BART, T5 and their relatives beside transformers: scores, losses, attention, gradients, files, bytes, refusals."""

import contextlib
import json
import re

import numpy as np
import pair_models
import pytest
import torch
import transformers
from kernel_checks import same_bits, threads
from pair_models import VARIANTS

import pyllm
from pyllm.auto.new import SHAPES, new_config, new_model
from pyllm.models.counting import count_preset
from pyllm.models.planning import sizes
from pyllm.models.presets import PRESETS, from_config

SOURCES = [[5, 6, 7, 8, 9, 10, 2], [9, 10, 2], [11]]
LABELS = [[4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [3, 4]]


def padded(rows, fill):
    """(batch, longest), and 1 where there is a token."""
    longest = max(map(len, rows))
    whole = np.array([row + [fill] * (longest - len(row)) for row in rows])
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return whole, mask


def relative(found, wanted):
    """max |difference| / max |reference| of the worst row."""
    assert found.shape == wanted.shape and np.isfinite(found).all()
    return float((np.abs(found - wanted).max(-1) / np.abs(wanted).max(-1)).max())


def scores(model, sources, targets):
    """Logits of lists, end to end."""
    return np.concatenate(model(sources, decoder_input_ids=targets).logits)


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
    """(transformers' model, ours from its folder, the folder)."""
    theirs, folder = pair_models.save(request.param, tmp_path_factory.mktemp("m"))
    return theirs, pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder), folder


def unused(model):
    """Names of transformers' tables that nothing looks up: the shared one where the sides have their own."""
    apart = not model.config.tie_word_embeddings and hasattr(model.model, "shared")
    return {"model.shared.weight"} if apart else set()


def theirs_of(model, **options):
    """transformers on the padded batch."""
    ids, mask = (torch.tensor(x) for x in padded(SOURCES, 1))
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, **options)


def test_scores_losses_and_attention_are_transformers(pair):
    theirs, ours, _ = pair
    ids, mask = padded(SOURCES, 1)
    labels, there = padded(LABELS, -100)
    wanted = theirs_of(theirs, labels=torch.tensor(labels), output_attentions=True)
    found = ours(ids, mask, labels=labels, output_attentions=True)
    rows = there == 1
    assert relative(found.logits[rows], wanted.logits.numpy()[rows]) < 1e-4
    assert (found.logits[~rows] == 0).all()
    assert abs(found.loss - wanted.loss.item()) < 1e-4 * wanted.loss.item()
    seen = mask == 1
    hidden = wanted.encoder_last_hidden_state.numpy()
    assert relative(found.encoder_last_hidden_state[seen], hidden[seen]) < 1e-4
    cases = (
        ("encoder_attentions", seen, seen),
        ("decoder_attentions", rows, rows),
        ("cross_attentions", rows, seen),
    )
    for name, queries, keys in cases:
        mine, other = getattr(found, name), getattr(wanted, name)
        assert len(mine) == len(other)
        for a, b in zip(mine, other, strict=True):
            for i in range(len(SOURCES)):
                left, right = np.flatnonzero(queries[i])[:, None], np.flatnonzero(keys[i])[None]
                np.testing.assert_allclose(a[i][:, left, right], b.numpy()[i][:, left, right], atol=1e-5)
                np.testing.assert_allclose(a[i][:, left[:, 0]].sum(axis=-1), 1, atol=1e-5)


def test_decoder_ids_and_their_mask(pair):
    theirs, ours, _ = pair
    targets, mask = padded([[2, *row] for row in LABELS], 1)
    wanted = theirs_of(theirs, decoder_input_ids=torch.tensor(targets), decoder_attention_mask=torch.tensor(mask))
    ids, seen = padded(SOURCES, 1)
    found = ours(input_ids=ids, attention_mask=seen, decoder_input_ids=targets, decoder_attention_mask=mask)
    assert found.loss is None and found.cross_attentions is None
    assert relative(found.logits[mask == 1], wanted.logits.numpy()[mask == 1]) < 1e-4
    assert same_bits(scores(ours, SOURCES, [[2, *row] for row in LABELS]), found.logits[mask == 1])


def test_a_row_has_the_same_bits_in_any_company_and_step_by_step(pair):
    _, ours, _ = pair
    targets = [[2, *row] for row in LABELS]
    together = ours(SOURCES, decoder_input_ids=targets).logits
    with threads(1):
        back = ours(SOURCES[::-1], decoder_input_ids=targets[::-1]).logits[::-1]
    assert all(same_bits(a, b) for a, b in zip(together, back, strict=True))
    padding = [[1] * (3 - i) + row + [1] * i for i, row in enumerate(SOURCES)]
    ids, _ = padded(padding, 1)
    mask = np.array([[3 - i <= c < 3 - i + len(row) for c in range(ids.shape[1])] for i, row in enumerate(SOURCES)])
    assert same_bits(np.concatenate(ours(ids, mask, targets).logits), np.concatenate(together))
    for source, target, wanted in zip(SOURCES, targets, together, strict=True):
        assert same_bits(scores(ours, [source], [target]), wanted)
        state = ours.start(source)
        assert same_bits(np.concatenate([ours.step(state, [token]) for token in target]), wanted)
    state = ours.start(SOURCES, tokens=3)
    memory, steps = [each for keys in state.keys for each in keys], []
    for column in np.array([target[:3] for target in targets]).T:
        state.reorder([0, 0, 1, 2, 2] if len(state.source) == 3 else [1, 0, 2, 4, 3])
        steps.append(ours.step(state, column[[0, 0, 1, 2, 2]]))
    for beam, source in enumerate([0, 0, 1, 2, 2]):
        assert same_bits(np.stack([step[beam] for step in steps]), together[source][:3])
    state.reorder([4])
    assert all(each is kept for each, kept in zip((x for keys in state.keys for x in keys), memory, strict=True))


@pytest.mark.parametrize("family", ["bart", "t5", "umt5", "pegasus"])
def test_long_targets_outgrow_their_room(family):
    """More rows than were foreseen, more positions than a table has, more than one chunk of attention; moved beams."""
    longer = {} if "t5" in family else {"max_position_embeddings": 300}
    fields = {name: size for name, size in (VARIANTS[family][1] | longer).items() if size is not None}
    model = new_model(new_config(family, **fields), 5).eval()
    random, state = np.random.default_rng(0), model.start(SOURCES[:2], tokens=10)
    said, source = [[], []], [0, 1]
    for _ in range(290):
        index = np.sort(random.integers(0, len(said), 5)) if len(said) > 2 else np.array([0, 0, 1, 1, 1])
        index[[0, -1]] = 0, len(said) - 1
        state.reorder(index)
        said, source = [list(said[i]) for i in index], [source[i] for i in index]
        for beam, token in zip(said, random.integers(3, 50, 5).tolist(), strict=True):
            beam.append(token)
        logits = model.step(state, [beam[-1] for beam in said])
    for beam, tokens in enumerate(said):
        whole = scores(model, [SOURCES[source[beam]]], [tokens])
        assert same_bits(whole[-1], logits[beam])


def test_gradients_are_torchs(pair):
    theirs, _, folder = pair
    theirs = type(theirs).from_pretrained(folder).double()
    ids, mask = padded(SOURCES, 1)
    labels, _ = padded(LABELS, -100)
    given = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}
    theirs(**given).loss.backward()
    model = pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder).train()
    loss = model(ids, mask, labels=labels).loss
    loss.backward()
    names = {id(each): name for name, each in theirs.named_parameters()}
    found = {name: grad for name, grad in grads_by_name(model).items() if name in names.values()}
    wanted = {name: each.grad.numpy() for name, each in theirs.named_parameters() if each.grad is not None}
    constant = [name for name in wanted if name not in found]
    assert all("embed_positions" in name for name in constant), constant  # Marian's sines
    for name, grad in found.items():
        scale = max(np.abs(wanted[name]).max(), 1e-2)
        assert np.abs(grad - wanted[name]).max() <= 1e-4 * scale, name


def grads_by_name(model):
    """The gradient of every tensor of the folder, by its name there."""
    from pyllm.auto.saving import family_of
    from pyllm.auto.weights import FOLDER, places

    found = places(model, family_of(model)[1], FOLDER)
    return {place.name: each.value.grad for _, place, each in found if isinstance(each.value, pyllm.Tensor)}


def test_saved_models_are_transformers_again(pair, tmp_path):
    theirs, ours, _ = pair
    ours.save_pretrained(tmp_path / "again")
    again = type(theirs).from_pretrained(tmp_path / "again", attn_implementation="eager").eval()
    labels = torch.tensor(padded(LABELS, 1)[0])
    before, after = (theirs_of(model, labels=labels).logits.numpy() for model in (theirs, again))
    assert same_bits(before, after)
    back = pyllm.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "again")
    targets = [[2, *row] for row in LABELS]
    assert same_bits(*(scores(m, SOURCES, targets) for m in (ours, back)))
    theirs.save_pretrained(tmp_path / "whole", max_shard_size="20KB")
    shards = pyllm.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "whole")
    assert same_bits(*(scores(m, SOURCES, targets) for m in (ours, shards)))


def test_states_go_both_ways(pair):
    theirs, ours, _ = pair
    state = theirs.state_dict()
    fresh = new_model(ours.config, seed=3)
    fresh.load_state_dict(state)
    targets = [[2, *row] for row in LABELS]
    assert same_bits(*(scores(m, SOURCES, targets) for m in (ours, fresh)))
    copy = type(theirs)(theirs.config).eval()
    missing = copy.load_state_dict({name: torch.tensor(a) for name, a in ours.state_dict().items()}, strict=False)
    assert not missing.unexpected_keys
    assert {name for name in missing.missing_keys if "embed_positions" not in name} == unused(theirs)
    labels = torch.tensor(padded(LABELS, 1)[0])
    assert same_bits(*(theirs_of(m, labels=labels).logits.numpy() for m in (theirs, copy)))


def test_bf16_is_near(pair):
    _, ours, folder = pair
    model = pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype="bfloat16")
    targets = [[2, *row] for row in LABELS]
    exact, rounded = (scores(m, SOURCES, targets) for m in (ours, model))
    assert 1e-5 < np.abs(exact - rounded).max() < 0.2 * np.abs(exact).max()
    assert (ours.cache_type, model.cache_type) == ("F32", "BF16")
    state = model.start(SOURCES)
    step = model.step(state, [2, 2, 2])
    begin = np.cumsum([0, *map(len, targets)])[:-1]
    assert np.abs(step - rounded[begin]).max() < 0.05 * np.abs(rounded).max()


def test_numbers_are_counted_from_the_sizes(pair):
    theirs, ours, folder = pair
    with pyllm.formats.open_model(folder) as source:
        counted = sizes(from_config(source.config))
    sines = sum(p.numel() for n, p in theirs.named_parameters() if "embed_positions" in n and not p.requires_grad)
    spare = sum(theirs.state_dict()[name].numel() for name in unused(theirs))
    assert counted.parameters == ours.num_parameters() == theirs.num_parameters() - sines - spare
    assert ours.training_flops() == 3 * counted.multiplied


# As published; the others are counted by formula.
SIZES = {"all-minilm-l6-v2": 22_713_216, "all-minilm-l12-v2": 33_360_000, "roberta-base": 124_645_632}
SIZES |= {"distilbert-base": 66_362_880, "albert-base": 11_683_584}


@pytest.mark.parametrize("name", SHAPES)
def test_published_shapes_have_their_size(name):
    from importlib import import_module

    config = new_config(name)
    model = import_module(type(config).__module__).Model(config)
    assert model.num_parameters() == (SIZES.get(name) or count_preset(PRESETS[name]).total)


def test_a_new_model_learns_and_goes_on():
    sizes = {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 24, "d_kv": 5, "vocab_size": 20}
    model = new_model(new_config("t5", **sizes, decoder_start_token_id=0, dropout_rate=0.0))
    optimizer = pyllm.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = model([[1, 2, 3], [4, 5]], labels=[[3, 2, 1], [5, 4, -100]]).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        model([[1, 2]], decoder_input_ids=[[0]])  # asked in between, it runs, and learns on
    assert losses[-1] < 0.2 * losses[0]


DROPPED = {  # fields -> what sublayers give, attention weights, inside of feed-forward
    "t5": ({"num_layers": 1, "d_model": 16, "num_heads": 2, "d_ff": 24, "d_kv": 5, "dropout_rate": 0.2}, (0.2,) * 3),
    "bart": ({**{f"{side}_{name}": n for side in ("encoder", "decoder")
                 for name, n in (("layers", 1), ("ffn_dim", 24), ("attention_heads", 2))},
              "d_model": 16, "dropout": 0.2, "attention_dropout": 0.1, "activation_dropout": 0.3}, (0.2, 0.1, 0.3)),
}  # fmt: skip


@pytest.mark.parametrize("family", DROPPED)
def test_what_is_dropped_is_what_transformers_drops(family):
    """Of every layer, each place with draws of its own; within noise alone, each batch another."""
    fields, (results, weights, inner) = DROPPED[family]
    special = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    model = new_model(new_config(family, vocab_size=20, **fields, **special))
    layers = [each.dropouts for side in (model.encoder, model.decoder) for each in side.layers]
    assert [len(each.results) - len(each.weights) for each in layers] == [1, 1]
    for each in layers:
        assert {x.p for x in each.results} == {results} and {x.p for x in each.weights} == {weights}
        assert each.inner.p == inner
    streams = [x.stream for each in layers for x in (*each.results, *each.weights, each.inner)]
    assert len(set(streams)) == len(streams) == 10
    losses = []
    for step in (None, 0, 0, 1):
        with contextlib.nullcontext() if step is None else pyllm.ops.noise(3, step):
            losses.append(model([[5, 2, 3], [4, 6]], labels=[[3, 2, 1], [5, 4, -100]]).loss.item())
    assert losses[1] == losses[2] and len(set(losses)) == 3
    places = [x for each in layers for x in (*each.results, *each.weights, each.inner)]
    around = [each for side in (model.encoder, model.decoder) for each in (side.dropout, side.last) if each is not None]
    for each in (*places, *around):
        each.p = 0.0
    for each in places:  # alone it changes the loss: none is named and not applied
        each.p = 0.5
        with pyllm.ops.noise(3, 0):
            assert model([[5, 2, 3], [4, 6]], labels=[[3, 2, 1], [5, 4, -100]]).loss.item() != losses[0]
        each.p = 0.0


# --- refusals ---


def folder_of(tmp_path, variant, **changes):
    _, folder = pair_models.save(variant, tmp_path / "m")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("variant", "changes", "text"),
    [
        ("bart", {"d_model": 30}, "'d_model': 30; a multiple of the 4 encoder attention heads"),
        ("bart", {"encoder_layers": 0}, "'encoder_layers': 0"),
        ("bart", {"decoder_layers": None}, "'decoder_layers': missing"),
        ("bart", {"activation_function": "mish"}, "'activation_function': 'mish'; known are: gelu"),
        ("bart", {"tie_word_embeddings": False}, "'lm_head.weight' [53, 32] is missing"),
        ("bart", {"pad_token_id": 53}, "'pad_token_id': 53; 0 to 52, the vocabulary"),
        ("bart", {"forced_bos_token_id": "x"}, "'forced_bos_token_id': 'x'"),
        ("bart", {"task_specific_params": {"a": 1}}, "'task_specific_params'"),
        ("marian", {"scale_embedding": "yes"}, "'scale_embedding': 'yes'"),
        ("t5", {"feed_forward_proj": "gated-mish"}, "'feed_forward_proj': 'gated-mish'"),
        ("t5", {"relative_attention_num_buckets": 3}, "'relative_attention_num_buckets': 3"),
        ("t5", {"relative_attention_max_distance": 4}, "'relative_attention_max_distance': 4; more than half"),
        ("t5", {"d_kv": 0}, "'d_kv': 0"),
        ("m2m100", {"decoder_start_token_id": 1}, "'decoder_start_token_id': 1; another than the padding token"),
        ("umt5", {"feed_forward_proj": "gated-mish"}, "'feed_forward_proj': 'gated-mish'"),
    ],
)
def test_configurations_that_cannot_be_are_refused_by_name(tmp_path, variant, changes, text):
    with pytest.raises(pyllm.ModelFileError, match=re.escape(text)):
        pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder_of(tmp_path, variant, **changes))


@pytest.mark.parametrize("variant", ["bart", "t5"])
def test_tensors_that_are_missing_or_new_or_of_another_shape_are_each_named(tmp_path, variant):
    from safetensors.torch import load_file, save_file

    folder = folder_of(tmp_path, variant)
    file = folder / "model.safetensors"
    good = load_file(file)
    q = next(name for name in good if name.endswith(("layers.0.self_attn.q_proj.weight", "0.SelfAttention.q.weight")))
    shared = next(name for name in good if name.endswith("shared.weight"))
    bad = {name: tensor for name, tensor in good.items() if name != q}
    bad["encoder.surplus"] = torch.zeros(3)
    bad[shared] = torch.zeros(52, 32)
    save_file(bad, file)
    with pytest.raises(pyllm.ModelFileError) as caught:
        pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder)
    for phrase in (
        f"'{q}'",
        "is missing",
        "'encoder.surplus' is unexpected",
        f"'{shared}' is [52, 32], expected [53, 32]",
    ):
        assert phrase in str(caught.value)
    copy = shared.replace("shared", "encoder.embed_tokens")
    save_file(good | {copy: good[shared].clone()}, file)
    pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder)
    alone = {name: tensor for name, tensor in good.items() if name != shared}
    before = pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder)
    save_file(alone | {copy: good[shared]}, file, {"format": "pt"})
    after = pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert same_bits(*(scores(m, SOURCES, [[2, 3]] * 3) for m in (before, after)))
    save_file(good | {copy: good[shared] + 1}, file)
    with pytest.raises(pyllm.ModelFileError, match=f"'{copy}' differs from '{shared}'"):
        pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder)


def test_calls_that_cannot_be_are_refused():
    model = new_model(new_config("bart", **{name: size for name, size in pair_models.BART.items() if size is not None}))
    long, limit = [[1] * 41], "has 41 tokens, the model's positions are 40"
    refused = [
        ({"input_ids": [[1, 2]]}, ValueError, "decoder_input_ids and labels are missing"),
        ({"input_ids": [[1], []], "labels": [[1], [1]]}, ValueError, r"input_ids\[1\] has shape \(0,\)"),
        ({"input_ids": np.zeros((2, 0), int), "labels": [[1], [1]]}, ValueError, r"input_ids \(2, 0\), allowed"),
        ({"input_ids": [[1.5]], "labels": [[1]]}, ValueError, "hold float64, allowed are integers"),
        ({"input_ids": [[53]], "labels": [[1]]}, IndexError, "input_ids: 53 at token 0 of sequence 0, allowed"),
        ({"input_ids": [[1]], "decoder_input_ids": [[-1]]}, IndexError, "decoder_input_ids: -1 at token 0"),
        ({"input_ids": [[1]], "labels": [[60, -100]]}, IndexError, "60"),
        ({"input_ids": long, "labels": [[1]]}, pyllm.ContextError, limit),
        ({"input_ids": [[1]], "labels": long}, pyllm.ContextError, limit),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]], "labels": [[1]]}, ValueError, r"mask \(1, 1\) for input_ids"),
        ({"input_ids": [[1, 2], [3, 4]], "attention_mask": [[1, 1], [0, 0]], "labels": [[1], [1]]}, ValueError,
         "hides all of row 1"),
        ({"input_ids": [[1, 2, 3], [1, 2, 3]], "attention_mask": [[1, 1, 1], [1, 0, 1]], "labels": [[1], [1]]},
         ValueError, "has a hole"),
        ({"input_ids": [[1], [2]], "labels": [[1]]}, ValueError, "2 sources and 1 targets"),
        ({"input_ids": [[1]], "labels": [[-100, -100]]}, ValueError, "labels 0 are all -100"),
        ({"input_ids": [[1], [2]], "labels": [[1, 2], [1, 2, -100]]}, ValueError, "labels 1 end with -100"),
        ({"input_ids": [[1]], "labels": [1]}, ValueError, "labels"),
        ({"input_ids": [[1]], "labels": [[1]], "decoder_input_ids": [[1, 2]]}, ValueError, "labels of lengths"),
    ]  # fmt: skip
    for given, error, text in refused:
        with pytest.raises(error, match=text):
            model(**given)


def test_families_that_are_not_known_are_listed(tmp_path):
    transformers.LEDConfig().save_pretrained(tmp_path)
    with pytest.raises(pyllm.ModelFileError, match=r"'led'; known are: .*bart, mbart, marian, t5"):
        pyllm.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
