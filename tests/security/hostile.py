"""Define hostile folders, which name code or files outside, each with a harmless twin."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

SECRET = "SECRET-OUTSIDE"  # in the name of every path that must not be read
# The entrances that read the files of sentence-transformers.
HOST = (
    *("load", "SentenceEncoder", "audit", "replace_pooling"),
    *(("PoolingEncoder",) if importlib.util.find_spec("mteb") else ()),
)
MODEL = (*HOST, "Encoder.load", "bench")
POOLING = (*HOST, "SentenceEmbedder")  # the entrances that read the pooling saved in a folder
PLAIN = ("SentenceEncoder", "Encoder.load", "audit", "bench")
Change = Callable[[Path, Path], object]  # the folder, and the folder outside with the secrets and the canary


class Payload:
    """Create a canary file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.canary)!r}, 'w').close()",)


@dataclass(frozen=True)
class Case:
    """Describe a hostile folder.

    Attributes:
        base: The name of the base that is changed.
        change: Makes a copy of the base hostile.
        twin: Makes the harmless version of the same change.
        names: The text that the error must contain.
        refused: The entrances that must refuse the folder. Others may open it, without its code and outside files.
    """

    base: str
    change: Change
    twin: Change
    names: str
    refused: tuple[str, ...] = MODEL

    @property
    def tried(self) -> tuple[str, ...]:
        """Return the entrances that must refuse the folder, and for a model those that read only a part of it."""
        of_models = ("Encoder.load", "SentenceEmbedder") if {"load", "Encoder.load"} & {*self.refused} else ()
        return tuple(dict.fromkeys((*self.refused, *of_models)))


def canary(outside: Path) -> Path:
    return outside / "canary"


def merge(file: str, changes: dict[str, Any]) -> Change:
    """Set fields of a JSON file; {secret} becomes the path of the folder with the secrets."""

    def change(folder: Path, outside: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text()) if path.exists() else {}
        filled = json.loads(json.dumps(changes).replace("{secret}", str(outside)))
        path.write_text(json.dumps(_merged(content, filled)))

    return change


def _merged(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(content)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def entry(number: int, **changes: Any) -> Change:
    """Change the entry of a module in modules.json."""

    def change(folder: Path, outside: Path) -> None:
        modules = json.loads((folder / "modules.json").read_text())
        modules[number] |= json.loads(json.dumps(changes).replace("{secret}", str(outside)))
        (folder / "modules.json").write_text(json.dumps(modules))

    return change


def also(*changes: Change) -> Change:
    def change(folder: Path, outside: Path) -> None:
        for step in changes:
            step(folder, outside)

    return change


def nothing(folder: Path, outside: Path) -> None:
    """Leave the folder as it is."""


def remove(file: str) -> Change:
    return lambda folder, outside: (folder / file).unlink()


def code(folder: Path, outside: Path) -> None:
    """Write Python modules that create the canary file."""
    for name in ("evil.py", "custom_generate/generate.py", "sitecustomize.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"open({str(canary(outside))!r}, 'w').close()\n")


def payload(file: str = "pytorch_model.bin", of: str = "model.safetensors") -> Change:
    """Replace safe weights by a pickle that also holds a payload."""

    def change(folder: Path, outside: Path) -> None:
        weights: dict[str, Any] = load_file(folder / of)
        (folder / of).unlink()
        torch.save({**weights, "payload": Payload(canary(outside))}, folder / file)
        _without_dtype(folder / of)

    return change


def harmless_pickle(file: str = "pytorch_model.bin", of: str = "model.safetensors") -> Change:
    """Replace safe weights by a pickle of the same tensors."""

    def change(folder: Path, outside: Path) -> None:
        weights = load_file(folder / of)
        (folder / of).unlink()
        torch.save(weights, folder / file)
        _without_dtype(folder / of)

    return change


def _without_dtype(weights: Path) -> None:
    config = weights.with_name("config.json")
    if config.exists():
        content = json.loads(config.read_text())
        if "model_type" in content:
            config.write_text(json.dumps({k: v for k, v in content.items() if k not in ("dtype", "torch_dtype")}))


def linked(file: str, inside: bool = False) -> Change:
    """Move a file or folder, within the folder or to the outside, and replace it by a link."""

    def change(folder: Path, outside: Path) -> None:
        path = folder / file
        target = (folder / "elsewhere" if inside else outside / SECRET) / path.name
        target.parent.mkdir(exist_ok=True, parents=True)
        if target.is_dir():
            shutil.rmtree(target)
        if not path.exists():
            path.write_text("{}")  # sentence-transformers before 6.0 saves no settings of Normalize
        shutil.move(path, target)
        path.symlink_to(target)

    return change


def moved(file: str, place: str) -> Change:
    """Move a file or folder within the folder."""

    def change(folder: Path, outside: Path) -> None:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).rename(folder / place)

    return change


def link(file: str, target: str) -> Change:
    """Make a link with a relative target."""
    return lambda folder, outside: (folder / file).symlink_to(target)


def transformer_in(place: str) -> Change:
    """Move the transformer into a subfolder of the model."""

    def change(folder: Path, outside: Path) -> None:
        files = [path for path in folder.iterdir() if path.is_file()]
        (folder / place).mkdir()
        for path in files:
            if path.name not in ("modules.json", "config_sentence_transformers.json"):
                path.rename(folder / place / path.name)
        entry(0, path=place)(folder, outside)

    return change


def router_entry(name: str) -> Change:
    """Give the transformer in the inner router another folder."""

    def change(folder: Path, outside: Path) -> None:
        inner = folder / "query_0_Router"
        (inner / "only_0_Transformer").rename(inner / name)
        config = inner / "router_config.json"
        config.write_text(config.read_text().replace('"only_0_Transformer"', json.dumps(name)))

    return change


def snapshot(folder: Path, outside: Path) -> None:
    """Replace the folder by a link to a snapshot in the hub's cache, whose files are links to blobs."""
    repository = folder.parent / "models--me--model"
    target = repository / "snapshots" / "0123456789abcdef"
    target.parent.mkdir(parents=True)
    (repository / "blobs").mkdir()
    folder.rename(target)
    folder.symlink_to(target)
    for number, file in enumerate(sorted(path for path in target.rglob("*") if path.is_file())):
        blob = repository / "blobs" / str(number)
        file.rename(blob)
        file.symlink_to(blob)


def folder_among_blobs(folder: Path, outside: Path) -> None:
    """Replace a folder of a snapshot by a link to a folder among the blobs."""
    target = folder.resolve().parents[1] / "blobs" / "d"
    (folder / "t").rename(target)
    (folder / "t").symlink_to(target)


def pipe(file: str) -> Change:
    def change(folder: Path, outside: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        os.mkfifo(folder / file)

    return change


def device(file: str) -> Change:
    def change(folder: Path, outside: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).symlink_to("/dev/zero")

    return change


def index(shard: str, file: str = "model.safetensors.index.json") -> Change:
    """Replace the weights by an index that names a shard."""

    def change(folder: Path, outside: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        name = shard.replace("{secret}", str(outside))
        target = Path(os.path.normpath(folder / name))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".bin":
            torch.save({**weights, "payload": Payload(canary(outside))}, target)
            _without_dtype(folder / "model.safetensors")
        else:
            save_file(weights, target, {"format": "pt"})
        (folder / "model.safetensors").unlink()
        (folder / file).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, name)}))

    return change


def write(file: str, content: str | bytes) -> Change:
    def change(folder: Path, outside: Path) -> None:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        filled = content.replace("{secret}", str(outside)) if isinstance(content, str) else content
        (folder / file).write_bytes(filled if isinstance(filled, bytes) else filled.encode())

    return change


def pickled(file: str) -> Change:
    return lambda folder, outside: (folder / file).write_bytes(pickle.dumps(Payload(canary(outside))) + b"\n")


def objects(file: str) -> Change:
    """Write an array of objects, which numpy stores as a pickle."""

    def change(folder: Path, outside: Path) -> None:
        np.save(folder / file, np.array([Payload(canary(outside))], dtype=object), allow_pickle=True)

    return change


HOST_FILE = "sentence_bert_config.json"
TOKENIZER = "tokenizer_config.json"
REMOTE = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
TOKENIZER_REMOTE = {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"], "AutoProcessor": "evil.Processor"}
CASES: dict[str, Case] = {}


def _arguments(kind: str, bad: dict[str, Any], good: dict[str, Any], how: Change = nothing) -> None:
    """Add a case for a field of the host's file that is passed on to transformers."""
    name = next(iter(bad))
    CASES[f"{kind}.{name}"] = Case(
        "model", also(how, merge(HOST_FILE, {kind: bad})), merge(HOST_FILE, {kind: good}), f"{kind}.{name}", HOST
    )


def _config(bad: dict[str, Any], good: dict[str, Any], how: Change = nothing, label: str = "") -> None:
    name = label or next(iter(bad))
    CASES[f"config.json {name}"] = Case(
        "model", also(how, merge("config.json", bad)), merge("config.json", good), "config.json"
    )


def _tokenizer(bad: dict[str, Any], good: dict[str, Any], how: Change = nothing, label: str = "") -> None:
    name = label or next(iter(bad))
    CASES[f"tokenizer {name}"] = Case("model", also(how, merge(TOKENIZER, bad)), merge(TOKENIZER, good), TOKENIZER)


# --------------------------------------------------------------- arguments that are passed on to transformers
for key in ("model_args", "model_kwargs"):
    _arguments(key, {"weights_only": False}, {"weights_only": True}, payload())
    _arguments(
        key,
        {"trust_remote_code": True},
        {"trust_remote_code": False},
        also(code, merge("config.json", {"auto_map": REMOTE})),
    )
_arguments("model_args", {"attn_implementation": "evil/kernel"}, {"attn_implementation": "eager"})
_arguments("model_args", {"quantization_config": {"quant_method": "fp8"}}, {"dtype": "float32"})
_arguments("model_args", {"subfolder": "../outside"}, {"torch_dtype": "float32"})
_arguments("model_args", {"cache_dir": "{secret}"}, {"use_safetensors": True})
_arguments("model_args", {"gguf_file": "../evil.gguf"}, {"low_cpu_mem_usage": True})
_arguments("model_args", {"use_kernels": True}, {"use_safetensors": None})
_arguments("model_args", {"kernel_config": {"RMSNorm": "evil/kernel:RMSNorm"}}, {})
_arguments("model_args", {"config": "{secret}/config.json"}, {"attn_implementation": None})
_arguments("model_args", {"device_map": {"": "disk"}}, {"add_pooling_layer": True})
_arguments("model_args", {"offload_folder": "{secret}"}, {"torch_dtype": None})
_arguments("model_args", {"ignore_mismatched_sizes": True}, {"dtype": "auto"})
_arguments("model_args", {"adapter_kwargs": {"_adapter_model_path": "{secret}"}}, {})
_arguments("model_args", {"variant": "/../../evil"}, {})
_arguments(
    "tokenizer_args",
    {"trust_remote_code": True},
    {"trust_remote_code": False},
    also(code, merge(TOKENIZER, {"auto_map": TOKENIZER_REMOTE})),
)
_arguments("tokenizer_args", {"tokenizer_file": "{secret}/tokenizer.json"}, {"model_max_length": 64})
_arguments("processor_kwargs", {"vocab_file": "{secret}/vocab.txt"}, {"padding_side": "right"})
_arguments("processor_kwargs", {"subfolder": "../outside"}, {"use_fast": True})
_arguments("processor_kwargs", {"gguf_file": "evil.gguf"}, {"clean_up_tokenization_spaces": False})
_arguments("config_args", {"_configuration_file": "../config.json"}, {"use_cache": False})
_arguments("config_args", {"trust_remote_code": True}, {"trust_remote_code": False}, code)
_arguments("config_kwargs", {"attn_implementation": "evil/kernel"}, {"output_attentions": False})
_arguments("config_kwargs", {"name_or_path": "{secret}"}, {"num_labels": 2})
for field, bad, good in (
    ("tokenizer_name_or_path", "{secret}", {}),
    ("model_name_or_path", "{secret}", {}),
    ("processor_name", "{secret}", {}),
    ("backend", "openvino", {}),
    ("transformer_task", "retrieval", {"transformer_task": "feature-extraction"}),
    (
        "modality_config",
        {"text": {"method": "save_pretrained", "method_output_name": None}},
        {"modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}},
    ),
    ("processing_kwargs", {"text": {"tokenizer_file": "{secret}"}}, {"processing_kwargs": {"text": {"stride": 0}}}),
):
    CASES[f"host {field}"] = Case("model", merge(HOST_FILE, {field: bad}), merge(HOST_FILE, good), field, HOST)


def _renamed(folder: Path, outside: Path) -> None:
    (folder / HOST_FILE).rename(folder / "sentence_roberta_config.json")


CASES["host, older file"] = Case(
    "model",
    also(payload(), merge(HOST_FILE, {"model_args": {"weights_only": False}}), _renamed),
    _renamed,
    "sentence_roberta_config.json",
    HOST,
)
CASES["host, CLIPModel"] = Case(
    "model",
    also(entry(0, type="sentence_transformers.models.CLIPModel"), merge(HOST_FILE, {"processor_name": "{secret}"})),
    nothing,
    "processor_name",
    HOST,
)
# ------------------------------------------------------------------------------------------- config.json
_config({"auto_map": REMOTE, "model_type": "evil"}, {"auto_map": REMOTE}, code)
_config({"text_config": {"auto_map": REMOTE}}, {"text_config": {}}, code, "nested auto_map")
_config({"_attn_implementation": "evil/kernel"}, {"_attn_implementation": "eager"})
_config({"attn_implementation": {"": "evil/kernel:fn"}}, {"attn_implementation": None})
_config(
    {"text_config": {"_attn_implementation": "evil/kernel"}},
    {"text_config": {"_attn_implementation": "sdpa"}},
    label="nested attention",
)
_config({"attn_implementation": "flash_attention_2"}, {"attn_implementation": "sdpa"}, label="attention by a kernel")
_config({"experts_implementation": "deepgemm"}, {"experts_implementation": None})
_config({"quantization_config": {"quant_method": "gptq", "bits": 4}}, {"quantization_config": None})
_config({"transformers_weights": "../evil.safetensors"}, {"transformers_weights": "model.safetensors"})
_config({"configuration_files": ["../config.9.json"]}, {"configuration_files": ["config.json"]})
_config({"backbone": "hf-hub:evil/net", "use_timm_backbone": True}, {"backbone": None, "use_timm_backbone": False})
_config({"use_pretrained_backbone": True}, {"use_pretrained_backbone": False})
_config({"model_type": "timm_wrapper", "architecture": "local-dir:{secret}"}, {})
_config({"model_type": "rag", "passages_path": "{secret}"}, {"_name_or_path": "{secret}"}, label="rag")
_config({"kernel_config": {"a": "evil/kernel"}}, {"kernel_config": None})
_config({"fusion_config": {"patch_embeddings": True}}, {"fusion_config": None})
_config({"distributed_config": {"tp_size": 2}}, {"distributed_config": None})
_config({"base_model_name_or_path": "{secret}"}, {"base_model_name_or_path": ""})
_config({"dtype": "load"}, {"dtype": "float32"})
_config({"tokenizer_class": "AutoModel"}, {"tokenizer_class": None})
_config({"custom_generate": "evil"}, {"custom_pipelines": {}}, code)
CASES["adapter"] = Case(
    "model", write("adapter_config.json", '{"base_model_name_or_path": "{secret}"}'), nothing, "adapter_config.json"
)
CASES["adapter only"] = Case(
    "plain",
    also(write("adapter_config.json", '{"base_model_name_or_path": "{secret}"}'), remove("config.json")),
    nothing,
    "adapter_config.json",
    PLAIN,
)
# ------------------------------------------------------------------------------- tokenizers and processors
_tokenizer(
    {"auto_map": TOKENIZER_REMOTE, "tokenizer_class": "EvilTokenizer"},
    {"auto_map": {"AutoTokenizer": [None, "evil.Tokenizer"]}},
    code,
)
_tokenizer({"auto_map": ["evil.Tokenizer", "evil.Tokenizer"]}, {"auto_map": {}}, code, "auto_map of a list")
_tokenizer({"tokenizer_class": "AutoModel"}, {"tokenizer_class": "PreTrainedTokenizerFast"})
_tokenizer({"tokenizer_class": "RagRetriever"}, {"tokenizer_class": "TokenizersBackend"}, label="of another kind")
_tokenizer({"processor_class": "Trainer"}, {"processor_class": None})
_tokenizer({"vocab": "{secret}/vocab.json"}, {"vocab": None})
_tokenizer({"merges": "{secret}/merges.txt"}, {"merges": None})
_tokenizer({"merges_file": "{secret}/merges.txt"}, {"vocab_file": "{secret}/vocab.txt"})
_tokenizer({"spm_file": "{secret}/spm.model"}, {"tokenizer_file": "{secret}/tokenizer.json"})
_tokenizer({"init_inputs": ["{secret}/vocab.txt"]}, {"init_inputs": []})
_tokenizer({"gguf_file": "../evil.gguf"}, {"special_tokens_map_file": "{secret}/special_tokens_map.json"})
_tokenizer({"fast_tokenizer_files": ["../tokenizer.json"]}, {"fast_tokenizer_files": ["tokenizer.json"]})
_tokenizer({"sp_model_kwargs": {"model_file": "{secret}/spm.model"}}, {"sp_model_kwargs": {"alpha": 0.1}})
_tokenizer({"mecab_kwargs": {"mecab_option": "-r {secret}/mecabrc"}}, {"mecab_kwargs": None})
_tokenizer({"sudachi_kwargs": {"sudachi_config_path": "{secret}"}}, {"name_or_path": "{secret}"})
_tokenizer({"jumanpp_kwargs": {"executable": "{secret}"}}, {"jumanpp_kwargs": {}})
_tokenizer({"audio_tokenizer": {"audio_tokenizer_name_or_path": "{secret}"}}, {"audio_tokenizer": None})
_tokenizer({"trust_remote_code": True}, {"trust_remote_code": False}, code)
_tokenizer({"something": "{secret}/anything"}, {"chat_template": "{{ messages }}"})
for file, content in (
    ("special_tokens_map.json", '{"vocab_file": "{secret}/vocab.txt"}'),
    ("special_tokens_map.json ", '{"gguf_file": "{secret}"}'),
    ("processor_config.json", '{"processor_class": "CLIPProcessor", "auto_map": {"AutoProcessor": "evil.P"}}'),
    ("processor_config.json ", '{"audio_tokenizer": {"audio_tokenizer_name_or_path": "{secret}"}}'),
    ("preprocessor_config.json", '{"auto_map": {"AutoProcessor": "evil.P", "AutoImageProcessor": "evil.P"}}'),
    ("video_preprocessor_config.json", '{"auto_map": {"AutoProcessor": "evil.P"}}'),
    ("audio_tokenizer_config.json", '{"audio_tokenizer_name_or_path": "{secret}"}'),
):
    CASES[f"file {file}"] = Case(
        "model",
        also(code, write(file.strip(), content)),
        write("special_tokens_map.json", '{"pad_token": "[PAD]"}'),
        file.strip(),
    )
# ---------------------------------------------------------------------------------------------- weights
CASES["pickle with a payload"] = Case("model", payload(), harmless_pickle(), "model")
CASES["pickle with a payload, plain"] = Case("plain", payload(), harmless_pickle(), "plain", PLAIN)
CASES["index above"] = Case("model", index("../SECRET-OUTSIDE.safetensors"), index("one.safetensors"), "index.json")
CASES["index absolute"] = Case(
    "model", index("{secret}/SECRET-OUTSIDE.safetensors"), index("two.safetensors"), "index.json"
)
CASES["index of a pickle"] = Case(
    "model", index("evil.bin", "pytorch_model.bin.index.json"), index("a.safetensors"), "model"
)
CASES["distributed weights"] = Case(
    "model",
    lambda folder, outside: (
        (folder / "model.safetensors").rename(folder / "shard-00001-model-00001-of-00001.safetensors") and None
    ),
    nothing,
    "distributed",
)
# ------------------------------------------------------------------------------ links, pipes and devices
for file in ("model.safetensors", "config.json", "tokenizer.json", TOKENIZER):
    CASES[f"link {file}"] = Case("model", linked(file), linked(file, inside=True), file)
for file in ("modules.json", "1_Pooling", "2_Dense/model.safetensors", "2_Dense/config.json", HOST_FILE):
    # Links to files may stay inside; links to folders are refused.
    twin = nothing if file == "1_Pooling" else linked(file, inside=True)
    entrances = HOST if file.startswith("2_Dense") else POOLING
    CASES[f"link {file}"] = Case("model", linked(file), twin, Path(file).name, entrances)
for file in ("model.safetensors", "config.json", "tokenizer.json"):
    CASES[f"pipe {file}"] = Case("model", pipe(file), nothing, file)
for file in ("modules.json", "2_Dense/model.safetensors", "1_Pooling/config.json"):
    entrances = HOST if file.startswith("2_Dense") else POOLING
    CASES[f"pipe {file}"] = Case("model", pipe(file), nothing, Path(file).name, entrances)
for file in ("1_Pooling/config.json", "3_Normalize/config.json", "config_sentence_transformers.json"):
    CASES[f"link {file}"] = Case("model", linked(file), linked(file, True), Path(file).name, POOLING)
for label, change, twin, names in (
    (
        "hidden path",
        also(transformer_in(".hid"), linked(".hid/tokenizer.json")),
        transformer_in(".hid"),
        ".hid/tokenizer.json must stay",
    ),
    (
        "hidden path below another",
        also(entry(2, path=".a/b"), moved("2_Dense", ".a/b"), linked(".a/b/model.safetensors")),
        also(entry(2, path=".a/b"), moved("2_Dense", ".a/b")),
        ".a/b/model.safetensors must stay",
    ),
    (
        "link to a hidden folder",
        also(transformer_in("t"), linked("t/tokenizer.json"), moved("t", ".hid"), link("t", ".hid")),
        transformer_in("t"),
        "t must be a folder, got a link",
    ),
    (
        "link to a folder",
        also(transformer_in("t"), moved("t", "x"), link("t", "x")),
        nothing,
        "t must be a folder, got a link",
    ),
    (
        "link to a link to a folder",
        also(transformer_in("t"), moved("t", "x"), link("y", "x"), link("t", "y")),
        nothing,
        "t must be a folder, got a link",
    ),
    ("link to the folder itself", link("self", "."), nothing, "self must be a folder, got a link"),
    (
        "folder among the blobs",
        also(transformer_in("t"), linked("t/tokenizer.json"), snapshot, folder_among_blobs),
        also(transformer_in("t"), snapshot),
        "t must be a folder, got a link",
    ),
    (
        "blob that is a link",
        also(linked("tokenizer.json"), snapshot),
        snapshot,
        "tokenizer.json must stay",
    ),
):
    CASES[f"tree {label}"] = Case("model", change, twin, names, HOST)
for place in (".hid", "..hid"):
    CASES[f"tree hidden entry {place} of a router"] = Case(
        "router",
        also(router_entry(place), linked(f"query_0_Router/{place}/tokenizer.json")),
        router_entry(place),
        f"{place}/tokenizer.json must stay",
        HOST,
    )
TEMPLATES = "additional_chat_templates"
CASES["tree link to hidden templates"] = Case(
    "model",
    also(write(".hid/a.jinja", "{{ messages }}"), linked(".hid/a.jinja"), link(TEMPLATES, ".hid")),
    write(f"{TEMPLATES}/a.jinja", "{{ messages }}"),
    "must",
)
CASES["tree link through a hidden file"] = Case(
    "model",
    also(moved("tokenizer.json", ".tokenizer"), linked(".tokenizer"), link("tokenizer.json", ".tokenizer")),
    also(moved("tokenizer.json", ".tokenizer"), link("tokenizer.json", ".tokenizer")),
    "tokenizer",
)
CASES["tree link to a hidden shard"] = Case(
    "model",
    also(index(".s.safetensors"), linked(".s.safetensors")),
    index(".s.safetensors"),
    ".s.safetensors must stay",
)
CASES["device"] = Case("model", device("model.safetensors"), nothing, "model.safetensors")
# ---------------------------------------------------------------------------------------------- modules
DENSE = "torch.nn.modules.activation."
for label, change, twin, names in (
    (
        "class",
        also(code, entry(1, type="evil.Pooling")),
        entry(1, type="sentence_transformers.models.Pooling"),
        "evil.Pooling",
    ),
    ("class of the host", entry(1, type="sentence_transformers.util.http_get"), nothing, "http_get"),
    ("class of ours", entry(1, type="maskpool.integrations.sentence_transformers.load"), nothing, "load"),
    ("path above", entry(1, path="../SECRET-OUTSIDE"), entry(1, path="./1_Pooling"), "modules.json"),
    ("path absolute", entry(1, path="{secret}"), entry(1, path="1_Pooling/"), "modules.json"),
    ("path of Windows", entry(1, path="..\\..\\x"), nothing, "modules.json"),
    ("activation", merge("2_Dense/config.json", {"activation_function": "os.system"}), nothing, "activation_function"),
    (
        "activation of torch",
        merge("2_Dense/config.json", {"activation_function": "torch.hub.load"}),
        nothing,
        "activation_function",
    ),
    (
        "activation that is a module",
        merge("2_Dense/config.json", {"activation_function": "torch.nn.modules.container.Sequential"}),
        merge("2_Dense/config.json", {"activation_function": DENSE + "Tanh"}),
        "activation_function",
    ),
    (
        "dense with a payload",
        payload("2_Dense/pytorch_model.bin", "2_Dense/model.safetensors"),
        harmless_pickle("2_Dense/pytorch_model.bin", "2_Dense/model.safetensors"),
        "2_Dense",
    ),
    ("unknown setting", merge("2_Dense/config.json", {"init_weight": "{secret}"}), nothing, "init_weight"),
):
    CASES[f"module {label}"] = Case("model", change, twin, names, POOLING if label.startswith("path") else HOST)
INNER = "query_0_Router/only_0_Transformer/"
for label, change, twin, names in (
    (
        "class",
        also(code, merge("router_config.json", {"types": {"document_0_StaticEmbedding": "evil.Module"}})),
        nothing,
        "evil.Module",
    ),
    (
        "inner class",
        merge("query_0_Router/router_config.json", {"types": {"only_1_Pooling": "os.system"}}),
        nothing,
        "os.system",
    ),
    (
        "path above",
        merge("router_config.json", {"types": {"../SECRET-OUTSIDE": "sentence_transformers.models.Pooling"}}),
        nothing,
        "router_config.json",
    ),
    (
        "empty name",
        merge("router_config.json", {"types": {"": "sentence_transformers.models.Router"}}),
        nothing,
        "router_config.json",
    ),
    (
        "itself",
        merge("router_config.json", {"types": {".": "sentence_transformers.models.Router"}}),
        nothing,
        "router_config.json",
    ),
    (
        "arguments",
        also(
            payload(INNER + "pytorch_model.bin", INNER + "model.safetensors"),
            merge(INNER + HOST_FILE, {"model_args": {"weights_only": False}}),
        ),
        also(
            harmless_pickle(INNER + "pytorch_model.bin", INNER + "model.safetensors"),
            merge(INNER + HOST_FILE, {"model_args": {"weights_only": True}}),
        ),
        "weights_only",
    ),
    (
        "adapter",
        write("adapter_config.json", '{"base_model_name_or_path": "{secret}"}'),
        nothing,
        "adapter_config.json",
    ),
    (
        "attention",
        merge(INNER + "config.json", {"_attn_implementation": "evil/kernel"}),
        nothing,
        "_attn_implementation",
    ),
    (
        "route",
        merge("router_config.json", {"parameters": {"route_mappings": {"__import__('os').getcwd()": "query"}}}),
        nothing,
        "route_mappings",
    ),
):
    CASES[f"router {label}"] = Case("router", change, twin, names, HOST)


def _loop(folder: Path, outside: Path) -> None:
    inner = folder / "query_0_Router"
    (inner / "again").symlink_to(inner)
    merge("router_config.json", {"types": {"again": "sentence_transformers.models.Router"}})(inner, outside)


CASES["router link to itself"] = Case("router", _loop, nothing, "again must be a folder, got a link", HOST)
WORDS = "wordembedding_config.json"
for label, base, change, twin, names in (
    (
        "tokenizer",
        "words",
        also(code, merge(WORDS, {"tokenizer_class": "evil.Tokenizer"})),
        merge(WORDS, {"tokenizer_class": "sentence_transformers.models.tokenizer.WhitespaceTokenizer"}),
        "evil.Tokenizer",
    ),
    (
        "tokenizer of the host",
        "words",
        merge(WORDS, {"tokenizer_class": "sentence_transformers.SentenceTransformer"}),
        nothing,
        "tokenizer_class",
    ),
    ("payload", "words", payload(), harmless_pickle(), "words"),
    (
        "link",
        "words",
        linked("whitespacetokenizer_config.json"),
        linked("whitespacetokenizer_config.json", True),
        "whitespace",
    ),
    (
        "question",
        "wrapped",
        also(code, merge(TOKENIZER, {"auto_map": TOKENIZER_REMOTE, "tokenizer_class": "Evil"})),
        nothing,
        "auto_map",
    ),
    (
        "map",
        "wrapped",
        also(code, merge(TOKENIZER, {"auto_map": TOKENIZER_REMOTE})),
        merge(TOKENIZER, {"auto_map": {}}),
        "auto_map",
    ),
    ("static payload", "static", payload(), harmless_pickle(), "static"),
    ("static link", "static", linked("tokenizer.json"), linked("tokenizer.json", True), "tokenizer.json"),
):
    # A static embedding has no pooling to replace.
    CASES[f"words {label}"] = Case(base, change, twin, names, ("load", "audit") if base == "static" else HOST)
# ---------------------------------------------------------------------- heads, caches, weights, studies
for label, change, twin, names in (
    ("payload", payload(), harmless_pickle(), "head"),
    ("link", linked("model.safetensors"), linked("model.safetensors", True), "model.safetensors"),
    ("link of settings", linked("config.json"), linked("config.json", True), "config.json"),
    ("pipe", pipe("config.json"), nothing, "config.json"),
    ("pipe of weights", pipe("model.safetensors"), nothing, "model.safetensors"),
    ("setting", merge("config.json", {"path": {"a": "{secret}"}}), nothing, "path"),
):
    CASES[f"head {label}"] = Case("head", change, twin, names, ("head", "bench head"))
    if label != "setting":
        inner = "1_Pooling/"
        into = {
            "payload": payload(inner + "pytorch_model.bin", inner + "model.safetensors"),
            "link": linked(inner + "model.safetensors"),
            "link of settings": linked(inner + "config.json"),
            "pipe": pipe(inner + "config.json"),
            "pipe of weights": pipe(inner + "model.safetensors"),
        }
        CASES[f"head in a model, {label}"] = Case("learned", into[label], nothing, "1_Pooling", POOLING)
CACHE = ("cache", "cache_states")
CASES["cache payload"] = Case("cache", pickled("states.safetensors"), nothing, "states.safetensors", CACHE)
CASES["cache pipe"] = Case("cache", pipe("states.safetensors"), nothing, "states.safetensors", CACHE)
for label, change in (
    ("payload", pickled("states.safetensors.part")),
    ("pipe", pipe("states.safetensors.part")),
    ("link", also(write("part", b""), moved("part", "states.safetensors.part"), linked("states.safetensors.part"))),
    ("folder", lambda folder, outside: (folder / "states.safetensors.part").mkdir()),
):
    no_cache = remove("states.safetensors")
    CASES[f"cache part, {label}"] = Case("cache", also(no_cache, change), no_cache, ".part", ("cache_states",))
CASES["cache objects"] = Case("cache", objects("states.npy"), nothing, "states.npy", ("cache npy",))
CASES["idf payload"] = Case("idf", pickled("idf.json"), nothing, "idf.json", ("idf",))
CASES["idf pipe"] = Case("idf", pipe("idf.json"), nothing, "idf.json", ("idf",))
CASES["sif payload"] = Case("sif", pickled("sif.json"), nothing, "sif.json", ("sif",))
CASES["sif pipe"] = Case("sif", pipe("sif.json"), nothing, "sif.json", ("sif",))
CASES["sif of other weights"] = Case("sif", write("sif.json", '{"a": "{secret}"}'), nothing, "sif.json", ("sif",))
for file in ("study.json", "cells.jsonl"):
    CASES[f"study link {file}"] = Case("study", linked(file), linked(file, True), file, ("study",))
    CASES[f"study pipe {file}"] = Case("study", pipe(file), nothing, file, ("study",))
    CASES[f"study payload {file}"] = Case("study", pickled(file), nothing, file, ("study",))
CASES["study file payload"] = Case("study", pickled("study.toml"), nothing, "study.toml", ("study file",))
CASES["study file pipe"] = Case("study", pipe("study.toml"), nothing, "study.toml", ("study file",))
CASES["study vectors"] = Case("study", objects("v.npy"), nothing, "v.npy", ("vectors",))
