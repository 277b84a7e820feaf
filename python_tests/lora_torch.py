"""PEFT's folders by their definition in torch: W + alpha / r B A in transformers' own model, and what learned whole."""

import json

import torch
from safetensors.torch import load_file, save_file

PREFIX = "base_model.model."


def stored(folder):
    """(tensors by PEFT's names without the prefix, module -> (A, B, scale))."""
    tensors = load_file(folder / "adapter_model.safetensors")
    assert all(name.startswith(PREFIX) for name in tensors)
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    config = json.loads((folder / "adapter_config.json").read_text())
    low = {}
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            alpha = config["alpha_pattern"].get(module, config["lora_alpha"])
            low[module] = a, tensors[f"{module}.lora_B.weight"], alpha / len(a)
    return tensors, low


def weights(theirs, tensors, low):
    """All weights of the model with the adapter, as functions of its tensors."""
    mine = dict(theirs.named_parameters())
    found = {name: tensors[name] for name in tensors if ".lora_" not in name}
    assert set(found) <= set(mine), set(found) - set(mine)
    for module, (a, b, scale) in low.items():
        found[f"{module}.weight"] = mine[f"{module}.weight"].detach() + scale * b @ a
    return {name: each.detach() for name, each in mine.items()} | found


def called(theirs, folder, **inputs):
    """What transformers' model says with the adapter of a folder."""
    with torch.no_grad():
        return torch.func.functional_call(theirs, weights(theirs, *stored(folder)), (), inputs)


def gradients(theirs, folder, **inputs):
    """(loss, gradient of every tensor of the folder by its name without the prefix)."""
    tensors, low = stored(folder)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    low = {m: (leaves[f"{m}.lora_A.weight"], leaves[f"{m}.lora_B.weight"], scale) for m, (*_, scale) in low.items()}
    loss = torch.func.functional_call(theirs, weights(theirs, leaves, low), (), inputs).loss
    loss.backward()
    return loss.item(), {name: leaf.grad.numpy() for name, leaf in leaves.items()}


def write(folder, base, modules, whole=(), rank=3, alpha=5, **fields):
    """A PEFT folder as PEFT writes it, of random numbers. modules: name -> (outputs, inputs); whole: name -> shape."""
    torch.manual_seed(4)
    tensors = {}
    for name, (outputs, inputs) in modules.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = torch.randn(rank, inputs) * 0.3
        tensors[f"{PREFIX}{name}.lora_B.weight"] = torch.randn(outputs, rank) * 0.3
    for name, shape in dict(whole).items():
        tensors[f"{PREFIX}{name}"] = torch.randn(shape)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "base_model_name_or_path": str(base), "r": rank, "lora_alpha": alpha, "lora_dropout": 0.0,
        "target_modules": sorted({name.rpartition(".")[2] for name in modules}), "bias": "none", "rank_pattern": {},
        "alpha_pattern": {}, "use_rslora": False, "use_dora": False, "inference_mode": True, "modules_to_save": None,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config | fields))
    return folder


def matrices(theirs, *ends):
    """Path -> (outputs, inputs) of the linear modules of transformers' model whose paths end so."""
    linears = {name: each for name, each in theirs.named_modules() if isinstance(each, torch.nn.Linear)}
    return {name: tuple(each.weight.shape) for name, each in linears.items() if f".{name}".endswith(ends)}
