"""adapter_config.json: what a PEFT folder says of itself, checked; and the model that it changes."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple, NoReturn

from pyllm.errors import ModelFileError, printable
from pyllm.formats import download
from pyllm.formats.encoders import PROBLEMS, labels
from pyllm.formats.fields import Field, Raw, check_field
from pyllm.formats.folder import CONFIG_LIMIT
from pyllm.formats.json_file import load_json
from pyllm.formats.safetensors import SafeTensors
from pyllm.nn.adapter import TASKS, LoraConfig

CONFIG, WEIGHTS, LABELS = "adapter_config.json", "adapter_model.safetensors", "labels.json"
PREFIX = "base_model.model."
# What PEFT can do and is refused here, because the answers would be others: field -> values that mean it is not used.
_UNUSED: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "trainable_token_indices": (None, []),
    "layer_replication": (None, []),
    "target_parameters": (None, []),
    "use_bdlora": (None, False),
    "use_qalora": (None, False),
    "kasa_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "arrow_config": (None,),
    "alora_invocation_tokens": (None, []),
}
_CHANGED = ("pissa", "olora", "corda", "loftq", "lora_ga")  # ways to begin that change the model's weights too


def is_adapter(folder: str) -> bool:
    """Whether a folder holds an adapter and no model."""
    return os.path.exists(os.path.join(folder, CONFIG)) and not os.path.exists(os.path.join(folder, "config.json"))


def base_of(path: str | os.PathLike[str]) -> str | None:
    """Where the model lies that a PEFT folder changes; None where the path is no such folder. Raises ModelFileError."""
    folder = os.fspath(path)
    if not is_adapter(folder):
        return None
    name = read_adapter(folder).lora.base_model_name_or_path
    file, field = os.path.join(folder, CONFIG), "'base_model_name_or_path'"
    allowed = "the name, file or folder of the model that it was trained on"
    if not name:
        raise ModelFileError(file, field, None, "names no model", allowed)
    beside = os.path.join(folder, name)
    try:
        base = beside if not os.path.exists(name) and os.path.exists(beside) else download.resolve(name)
    except ModelFileError as error:
        raise ModelFileError(file, field, None, f"{printable(name)}: {error.found}", allowed) from error
    if is_adapter(base):
        raise ModelFileError(file, field, None, f"{printable(name)} is an adapter itself", allowed)
    return base


def labels_text(config: Any) -> bytes:
    """labels.json of a model with classes."""
    about = {"id2label": config.id2label, "problem_type": config.problem_type}
    return (json.dumps(about, ensure_ascii=False, indent=2) + "\n").encode()


def head_options(folder: str, name: str) -> dict[str, Any]:
    """What from_pretrained is to be asked for so that the head fits an adapter: id2label and problem_type of
    labels.json, else num_labels of the tensor `name`; nothing where the folder has neither. Raises ModelFileError."""
    file = os.path.join(folder, LABELS)
    if os.path.exists(file):
        values = load_json(file, CONFIG_LIMIT)
        if not isinstance(values, dict):
            raise ModelFileError(file, "", None, f"a {type(values).__name__}", "a JSON object")
        raw = Raw(file, values, lambda field: f"'{field}'")
        problem = check_field(raw, Field("problem_type", "choice", default=None, choices=PROBLEMS))
        return {"id2label": labels(raw)["id2label"], "problem_type": problem}
    with SafeTensors(os.path.join(folder, WEIGHTS)) as tensors:
        info = tensors.tensors.get(f"{PREFIX}{name}")
    return {} if info is None or len(info.shape) != 2 else {"num_labels": info.shape[0]}


class AdapterConfig(NamedTuple):
    """adapter_config.json, checked."""

    lora: LoraConfig
    alphas: dict[str, float]

    def scaling(self, module: str, rank: int) -> float:
        """What B A of a module is multiplied with."""
        alpha = next((a for key, a in self.alphas.items() if f".{module}".endswith(f".{key}")), self.lora.lora_alpha)
        return float(alpha / (rank**0.5 if self.lora.use_rslora else rank))


def read_adapter(folder: str) -> AdapterConfig:
    """adapter_config.json of a folder. Raises ModelFileError."""
    file = os.path.join(folder, CONFIG)
    values = load_json(file, CONFIG_LIMIT)

    def refuse(field: str, allowed: str) -> NoReturn:
        raise ModelFileError(file, f"'{field}'", None, printable(json.dumps(values.get(field)), 80), allowed)

    if not isinstance(values, dict):
        raise ModelFileError(file, "", None, f"a {type(values).__name__}", "a JSON object")
    if values.get("peft_type") != "LORA":
        refuse("peft_type", '"LORA"')
    for field, unused in _UNUSED.items():
        if values.get(field) not in unused:
            refuse(field, "what leaves W + scale B A alone: " + " or ".join(json.dumps(each) for each in unused))
    start = values.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(_CHANGED):
        refuse("init_lora_weights", "a way to begin that leaves the model's weights alone")
    alphas = values.get("alpha_pattern") or {}
    if not isinstance(alphas, dict) or not all(_positive(each) for each in alphas.values()):
        refuse("alpha_pattern", "names of matrices with numbers above 0")
    for field in ("r", "lora_alpha"):
        if not _positive(values.get(field, 8)):
            refuse(field, "a number above 0")
    base, rank = values.get("base_model_name_or_path"), values.get("r", 8)
    if not isinstance(base, str | None) or not isinstance(rank, int):
        refuse("r" if isinstance(base, str | None) else "base_model_name_or_path", "a whole number; text")
    dropout, scaled = values.get("lora_dropout", 0.0), values.get("use_rslora") is True
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        refuse("lora_dropout", "from 0 to below 1")
    targets = values.get("target_modules")
    targets = targets if isinstance(targets, str) or targets is None else tuple(map(str, targets))
    task, saved = values.get("task_type"), values.get("modules_to_save")
    if task not in (None, *TASKS):
        refuse("task_type", " or ".join(json.dumps(each) for each in (None, *TASKS)))
    if saved is not None and not (isinstance(saved, list) and all(isinstance(each, str) and each for each in saved)):
        refuse("modules_to_save", "names of modules")
    lora = LoraConfig(rank, values.get("lora_alpha", 8), dropout, targets, task_type=task, use_rslora=scaled,
                      base_model_name_or_path=base, modules_to_save=tuple(saved) if saved else None)  # fmt: skip
    return AdapterConfig(lora, alphas)


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
