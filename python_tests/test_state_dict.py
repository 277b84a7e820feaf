"""Weights by name, in memory: transformers' models and PyTorch's parts to pyllm's and back, and what is refused."""

import copy
import pickle
import tempfile
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pair_models
import pytest
import tiny_encoders
import tiny_models
import torch
import transformers
from training_cases import VARIANTS, distance, tokens, torch_loss

import pyllm
from pyllm import nn
from pyllm.auto import new_config, new_model
from pyllm.errors import ModelFileError
from pyllm.models.mlp import MLP
from pyllm.optim import SGD

IDS, TARGETS = tokens(2, 12, 317)


def pair(variant):
    """(pyllm's model of a configuration, with other numbers; transformers' model, all of whose numbers are random)."""
    with tempfile.TemporaryDirectory() as folder:
        tiny_models.write_folder(Path(folder), VARIANTS[variant], tiny_models.random_weights(VARIANTS[variant]))
        mine = pyllm.AutoModelForCausalLM.from_pretrained(folder)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for each in theirs.parameters():
            each.normal_(0, 0.2)
    return mine, theirs


def named_as(theirs, state):
    """The state with the name that PyTorch's model has for GPT-NeoX's head: another than files since transformers 5."""
    known = theirs.state_dict()
    return {name if name in known else name.replace("embed_out", "lm_head"): each for name, each in state.items()}


def logits_of(theirs):
    with torch.no_grad():
        return theirs(torch.tensor(IDS)).logits.numpy()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_state_of_transformers_goes_there_and_back(variant):
    mine, theirs = pair(variant)
    before = logits_of(theirs)
    assert distance(mine(IDS).logits, before) > 0.1
    assert mine.load_state_dict(theirs.state_dict()) is mine
    assert abs(mine.loss(IDS, TARGETS).item() - torch_loss(theirs, IDS, TARGETS).item()) <= 1e-4
    assert distance(mine.eval()(IDS).logits, before) <= 1e-5
    state, named = named_as(theirs, mine.state_dict()), theirs.state_dict()
    assert set(state) == set(named)
    for name, array in state.items():
        # A norm of Gemma is stored less one and held whole.
        assert array.dtype == np.float32 and np.abs(array - named[name].numpy()).max() <= 2e-7, name
    with torch.no_grad():
        for each in theirs.parameters():
            each.zero_()
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    assert distance(logits_of(theirs), before) <= 1e-5
    assert np.array_equal(mine.load_state_dict(state).eval()(IDS).logits, mine(IDS).logits)


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_a_model_that_pyllm_makes_takes_transformers_weights(family):
    fields = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 24, "vocab_size": 317}
    if family == "Llama":
        fields = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                  "num_key_value_heads": 2, "max_position_embeddings": 24, "vocab_size": 317,
                  "tie_word_embeddings": False}  # fmt: skip
    config = getattr(transformers, f"{family}Config")(**fields, bos_token_id=0, eos_token_id=0)
    theirs = getattr(transformers, f"{family}LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM")(config)
    mine = new_model(new_config(family.lower(), **fields, **({} if family == "GPT2" else {"rms_norm_eps": 1e-6})), 3)
    mine.load_state_dict(theirs.eval().state_dict())
    assert distance(mine.eval()(IDS).logits, logits_of(theirs)) <= 1e-5
    headless = theirs.base_model.state_dict()
    if family == "GPT2":  # the embedding is the head: the model without it has all numbers
        assert np.array_equal(new_model(mine.config, 4).load_state_dict(headless).eval()(IDS).logits, mine(IDS).logits)
    halves = {name: each.to(torch.bfloat16) for name, each in theirs.state_dict().items()}
    rounded = mine.load_state_dict(halves).state_dict()
    assert all(np.array_equal(rounded[name], each.float().numpy()) for name, each in halves.items())


def test_an_optimizer_goes_on_with_the_numbers_that_were_loaded():
    model, other = (new_model(new_config("gpt2", n_embd=16, n_layer=1, n_head=2, n_positions=12, vocab_size=317), seed)
                    for seed in (1, 2))  # fmt: skip
    optimizer = SGD(model.parameters(), lr=0.1)
    model.eval().load_state_dict(other.state_dict())
    for each, its in ((model, optimizer), (other, SGD(other.parameters(), lr=0.1))):
        its.zero_grad()
        each.loss(IDS, TARGETS).backward()
        its.step()
    expected = other.state_dict()
    assert all(np.array_equal(array, expected[name]) for name, array in model.state_dict().items())
    state = model.state_dict()
    state["transformer.ln_f.weight"] += 1  # a copy
    assert not np.array_equal(state["transformer.ln_f.weight"], model.state_dict()["transformer.ln_f.weight"])


def test_what_learns_is_saved_as_what_runs(tmp_path):
    model = new_model(new_config("llama", hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=97,
                                 max_position_embeddings=16))  # fmt: skip
    model.save_pretrained(tmp_path / "learning")
    model.eval().save_pretrained(tmp_path / "running")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "learning" / name).read_bytes() == (tmp_path / "running" / name).read_bytes()


def test_quantised_weights_are_given_as_numbers(tmp_path):
    config = tiny_models.llama_config()
    tiny_models.write_gguf(tmp_path / "m.gguf", config, tiny_models.random_weights(config), "Q8_0")
    model = pyllm.AutoModelForCausalLM.from_pretrained(tmp_path / "m.gguf")
    before = {name: parameter.array() for name, parameter in model.own_parameters().items()}
    state = model.state_dict()
    model.load_state_dict(state)
    assert all(np.array_equal(before[name], each.array()) for name, each in model.own_parameters().items())


@pytest.mark.parametrize("variant", ["gpt2", "llama grouped"])
def test_every_wrong_tensor_is_named_at_once_and_nothing_changes(variant):
    mine, theirs = pair(variant)
    before = mine.state_dict()
    state = dict(theirs.state_dict())
    names = [name for name in state if name.endswith("weight") and "lm_head" not in name]
    gone, cut = names[1:12], names[12]
    for name in gone:
        del state[name]
    state[cut] = state[cut][..., :-1]
    state["extra.\x1b[2Jweight"] = torch.zeros(3)
    if variant == "gpt2":
        state["lm_head.weight"] = state["lm_head.weight"] + 1
    with pytest.raises(ValueError) as caught:
        mine.load_state_dict(state)
    said = str(caught.value)
    assert said.startswith("load_state_dict: ") and "\x1b" not in said
    assert all(f"'{name}' [" in said and "] is missing" in said for name in gone)
    whole = list(theirs.state_dict()[cut].shape)
    assert f"'{cut}' is {list(state[cut].shape)}, expected {whole}" in said
    assert "'extra.\\x1b[2Jweight' is unexpected" in said and said.count("'") == 2 * (13 + 2 * (variant == "gpt2"))
    tied = "'lm_head.weight' differs from 'transformer.wte.weight', to which the configuration ties it"
    assert (tied in said) == (variant == "gpt2")
    assert all(np.array_equal(array, before[name]) for name, array in mine.state_dict().items())
    with pytest.raises(TypeError, match="tensor: holds <U1, allowed are real numbers"):
        mine.load_state_dict(theirs.state_dict() | {names[0]: np.array("a")})


def test_adapters_keep_their_own_names():
    model = new_model(new_config("gpt2", n_embd=16, n_layer=1, n_head=2, n_positions=12, vocab_size=317))
    model.eval().add_adapter(nn.LoraConfig(2, 4.0))
    state = model.state_dict()
    assert set(state) == set(model.learned()) and all(".lora_" in name for name in state)
    state = {name: array + 1 for name, array in state.items()}
    model.load_state_dict(state)
    assert all(np.array_equal(array, state[name]) for name, array in model.state_dict().items())


PARTS = {
    "linear": (lambda: nn.Linear(5, 3, bias=True), lambda: torch.nn.Linear(5, 3)),
    "layer norm": (lambda: nn.LayerNorm(6, 1e-5), lambda: torch.nn.LayerNorm(6)),
    "rms norm": (lambda: nn.RMSNorm(6, 1e-6), lambda: torch.nn.RMSNorm(6)),
    "embedding": (lambda: nn.Embedding(7, 4), lambda: torch.nn.Embedding(7, 4)),
}


@pytest.mark.parametrize("part", PARTS)
def test_parts_have_pytorchs_names(part):
    mine, theirs = (make() for make in PARTS[part])
    with torch.no_grad():
        for each in theirs.parameters():
            each.normal_()
    state = mine.load_state_dict(theirs.state_dict()).state_dict()
    assert list(state) == list(theirs.state_dict())
    theirs.load_state_dict({name: torch.from_numpy(array) + 1 for name, array in state.items()})
    assert all(np.array_equal(array + 1, theirs.state_dict()[name].numpy()) for name, array in state.items())


def test_an_mlp_takes_the_weights_of_a_sequential():
    sizes = (5, 4, 3, 2, 1)
    layers = [part for a, b in pairwise(sizes) for part in (torch.nn.Linear(a, b), torch.nn.Tanh())]
    theirs = torch.nn.Sequential(*layers[:-1])
    assert list(theirs.state_dict())[:3] == ["0.weight", "0.bias", "2.weight"]
    mine = MLP(*sizes, act="tanh").load_state_dict(theirs.state_dict())
    x = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)
    with torch.no_grad():
        assert np.abs(mine(x).data - theirs(torch.tensor(x)).numpy()).max() <= 1e-6
    listed = torch.nn.Module()
    listed.layers = torch.nn.ModuleList(layers[::2])
    listed.load_state_dict({name: torch.from_numpy(array) for name, array in mine.state_dict().items()})
    assert mine.load_state_dict(listed.state_dict()) is mine
    short = dict(list(theirs.state_dict().items())[:-2])
    with pytest.raises(ValueError, match=r"^load_state_dict: missing layers\.3\.weight; missing layers\.3\.bias$"):
        mine.load_state_dict(short)


def some(name, folder):
    """(pyllm's model, its twin of PyTorch), of random numbers."""
    if name == "part":
        return nn.Linear(3, 2, bias=True).initialise(1), torch.nn.Linear(3, 2)
    if name == "bart":
        theirs, place = pair_models.save("bart", folder)
        return pyllm.AutoModelForSeq2SeqLM.from_pretrained(place), theirs
    if name == "bert":
        theirs = tiny_encoders.theirs("bert", "MaskedLM")
        theirs.save_pretrained(folder)
        return pyllm.AutoModelForMaskedLM.from_pretrained(folder), theirs
    return pair(name)


@pytest.mark.parametrize("name", ["part", "llama grouped", "gpt2", "bert", "bart"])
def test_not_strict_is_pytorchs(name, tmp_path):
    """What is missing stays, what is not known is passed over, both are named; a tied tensor comes under any name."""
    mine, theirs = some(name, tmp_path)
    before, state = mine.state_dict(), {key: each + 1 for key, each in theirs.state_dict().items()}
    dropped = list(before)[-1 if name == "part" else 1]
    given = {key: each for key, each in state.items() if key != dropped} | {"more": torch.zeros(2)}
    found, wanted = mine.load_state_dict(given, strict=False), theirs.load_state_dict(given, strict=False)
    assert found == (wanted.missing_keys, wanted.unexpected_keys) == ([dropped], ["more"])
    for key, array in mine.state_dict().items():
        assert np.abs(array - (before[key] if key == dropped else state[key].numpy())).max() < 1e-5, key
    if name in ("gpt2", "bert", "bart"):  # the embedding alone, by another of its names
        table = next(iter(before))
        names = [key for key, array in before.items() if array is before[table]]
        found = mine.load_state_dict({names[-1]: np.zeros_like(before[table])}, strict=False)
        assert len(names) > 1 and table in found.missing_keys and not mine.state_dict()[table].any()
    with pytest.raises(ValueError, match=f"load_state_dict: .*{dropped}"):
        mine.load_state_dict({dropped: np.zeros((7, 7), np.float32)}, strict=False)
    with pytest.raises(ValueError, match="is no mapping of names"):
        mine.load_state_dict("weights.pt", strict=False)


@pytest.mark.parametrize("what", ["str", "path", "bytes", "file"])
@pytest.mark.parametrize("model", ["mlp", "gpt2", "part"])
def test_pickled_files_are_refused_in_one_sentence(model, what, tmp_path):
    makers = {
        "mlp": lambda: MLP(5, 4, 3, 2, 1),
        "gpt2": lambda: new_model(new_config("gpt2", n_embd=8, n_layer=1, n_head=1, n_positions=4, vocab_size=9)),
        "part": lambda: nn.Linear(2, 2),
    }
    path = tmp_path / "weights.pt"
    torch.save({"0.weight": torch.zeros(4, 5)}, path)
    with open(path, "rb") as file:
        given = {"str": str(path), "path": path, "bytes": path.read_bytes(), "file": file}[what]
        with pytest.raises(ValueError) as caught:
            makers[model]().load_state_dict(given)
    said = str(caught.value)
    name = repr(str(path)) if what in ("str", "path") else type(given).__name__
    assert said.startswith(f"load_state_dict: {name} is no mapping of names to arrays; ")
    assert "pickled files (.pt, .pth, .bin) can run code and are never read: write safetensors" in said


@pytest.mark.parametrize("name", ["weights.pt", "pytorch_model.bin"])
def test_pickled_files_are_no_models(name, tmp_path):
    torch.save({"0.weight": torch.zeros(4, 5)}, tmp_path / name)
    with pytest.raises(ModelFileError, match="pickled weights can run code and are never read; GGUF, or"):
        pyllm.AutoModelForCausalLM.from_pretrained(tmp_path / name)
    config = tiny_models.llama_config()
    tiny_models.write_gguf(tmp_path / "gguf.bin", config, tiny_models.random_weights(config))
    assert pyllm.AutoModelForCausalLM.from_pretrained(tmp_path / "gguf.bin").config.vocab_size == 317
    with pytest.raises(ModelFileError, match=r"no\.pt: "):
        pyllm.AutoModelForCausalLM.from_pretrained(tmp_path / "no.pt")


def ready(kind, folder, dtype):
    """(a model of a folder, ready to run, a call of it)."""
    if kind == "llama grouped":
        tiny_models.write_folder(folder, VARIANTS[kind], tiny_models.random_weights(VARIANTS[kind]))
        model = pyllm.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        return model, lambda each: each.generate(IDS[:1, :5], max_new_tokens=6)
    if kind == "bert":
        tiny_encoders.theirs(kind, "TokenClassification").save_pretrained(folder)
        model = pyllm.AutoModelForTokenClassification.from_pretrained(folder, dtype=dtype)
        return model, lambda each: each(IDS[:, :9] % 50).logits
    pair_models.save(kind, folder)
    model = pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=dtype)
    return model, lambda each: each(IDS[:, :9] % 50, decoder_input_ids=IDS[:, :4] % 50).logits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["bert", "t5", "bart", "llama grouped"])
def test_models_are_copied_and_pickled(kind, dtype, tmp_path):
    """Ready to run, after a call and before, and ready to learn: the same bits of a model of its own."""
    model, call = ready(kind, tmp_path, dtype)
    found = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    wanted = call(model)
    found += [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    assert all(np.array_equal(call(each), wanted) for each in found)
    theirs = {id(each) for each in model.own_parameters().values()}
    assert not theirs & {id(each) for each in found[0].own_parameters().values()}
    assert found[0].num_parameters() == model.num_parameters()  # what is tied stays so
    other = copy.deepcopy(model.train()).eval()
    assert dtype != "float32" or np.array_equal(call(other), wanted)


def test_copies_of_blocks_are_refused(tmp_path):
    model, _ = ready("bert", tmp_path, "int8")
    with pytest.raises(TypeError, match="copy: a weight stored as INT8, allowed are F32, F16 and BF16"):
        copy.deepcopy(model)


def test_names_stand_in_one_place():
    """What a family's table says is what state_dict, files and transformers have."""
    for variant in VARIANTS:
        mine, _ = pair(variant)
        table = import_module(type(mine).__module__).NAMES
        prefixes = {names[0].lstrip("^+").split(".")[0] for names in table.values()}
        assert {name.split(".")[0] for name in mine.state_dict()} <= prefixes
