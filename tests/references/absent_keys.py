"""What transformers makes of a config.json that lacks a key, holds null in its place, or speaks both dialects of rope.

    python tests/references/absent_keys.py

Written with: python 3.11, torch 2 (CPU), transformers 5.24.0. Writes two files:

- `src/model/families/defaults.json`: for every `model_type`, the keys of its configuration class with their defaults, the JSON
  types that the class takes, and the other names of keys. The program reads it.
- `absent_keys.json`: for every case of `cases.py` and every key, once absent and once null, and for a list of patches that mix
  both dialects: refused (with transformers' first words), tensors missing (which transformers makes up at random), or the sizes
  and some logits (eager, f32). `cargo test --test it absent_keys` loads the same variants and compares.
"""

import dataclasses
import json
import logging
import shutil
import tempfile
import types
import typing
import warnings
from pathlib import Path

import safetensors.torch
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

HERE = Path(__file__).parent
FAMILIES = (
    "llama mistral mixtral qwen2 qwen3 qwen3_moe gemma gemma2 gemma3_text gemma3 phi phi3 gpt2 gpt_neox opt olmo olmo2 olmoe "
    "starcoder2 smollm3 granite cohere stablelm"
).split()
NONE = object()

# Keys that the classes read from their keyword arguments, and so do not list.
UNLISTED = {
    "gemma3_text": ["sliding_window_pattern", "rope_local_base_freq", "rope_theta", "rope_scaling"],
    "gpt_neox": ["rotary_pct", "rotary_emb_base", "rope_scaling"],
    "*": ["rope_theta", "rope_scaling", "partial_rotary_factor", "original_max_position_embeddings"],
}

# Without these nothing is a language model's configuration; ids and names change no number.
SKIPPED = {
    "model_type", "architectures", "transformers_version", "dtype", "torch_dtype", "id2label", "label2id", "problem_type",
    "return_dict", "output_hidden_states", "bos_token_id", "eos_token_id", "pad_token_id", "vision_config",
    "text_config.model_type", "text_config.dtype",
}  # fmt: skip

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "factor": 3.0}

# name: keys to set; a value of "-" takes the key away.
PATCHES = {
    "yarn by hand": {"rope_scaling": YARN},
    "yarn by hand, with a base": {"rope_scaling": YARN | {"rope_theta": 333.0}},
    "yarn by hand, older name": {"rope_scaling": {"type": "yarn", "factor": 4.0}},
    "linear by hand": {"rope_scaling": LINEAR},
    "two names of the type": {"rope_scaling": {"type": "dynamic", "rope_type": "linear", "factor": 2.0}},
    "no type": {"rope_scaling": {"factor": 2.0}},
    "type null": {"rope_scaling": {"rope_type": None, "factor": 2.0}},
    "factor null": {"rope_scaling": {"rope_type": "linear", "factor": None}},
    "factor absent": {"rope_scaling": {"rope_type": "linear"}},
    "scaling empty": {"rope_scaling": {}},
    "scaling null": {"rope_scaling": None},
    "parameters null": {"rope_parameters": None},
    "parameters empty": {"rope_parameters": {}},
    "base outside": {"rope_theta": 77.0},
    "base outside, parameters without": {"rope_theta": 77.0, "rope_parameters": {"rope_type": "default"}},
    "base in both": {"rope_theta": 77.0, "rope_parameters": {"rope_type": "default", "rope_theta": 55.0}},
    "base in both, scaling too": {
        "rope_theta": 77.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 55.0},
        "rope_scaling": LINEAR,
    },
    "base in parameters, scaling too": {
        "rope_theta": "-",
        "rope_parameters": {"rope_type": "default", "rope_theta": 55.0},
        "rope_scaling": LINEAR,
    },
    "base null": {"rope_theta": None},
    "base null in parameters": {"rope_parameters": {"rope_type": "default", "rope_theta": None}, "rope_theta": 77.0},
    "default with a factor": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "factor": 8.0}},
    "parameters older name": {"rope_parameters": {"type": "linear", "factor": 2.0, "rope_theta": 100.0}},
    "part outside": {"partial_rotary_factor": 0.5},
    "part null": {"partial_rotary_factor": None},
    "part in parameters": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}},
    "part in both": {
        "partial_rotary_factor": 0.5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0},
    },
    "part and scaling": {"partial_rotary_factor": 0.5, "rope_scaling": LINEAR},
    "original outside": {"original_max_position_embeddings": 48, "rope_scaling": YARN},
    "original outside, none inside": {"original_max_position_embeddings": 48, "rope_scaling": {"type": "yarn", "factor": 2.0}},
    "original null outside": {"original_max_position_embeddings": None, "rope_scaling": YARN},
    "by layer type": {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 200.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
        }
    },
    "by layer type, one": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 200.0}}},
    "by layer type, one null": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 200.0},
            "sliding_attention": None,
        }
    },
    "by layer type, base outside": {
        "rope_theta": 77.0,
        "rope_local_base_freq": 33.0,
        "rope_parameters": {"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "default"}},
    },
    "by layer type, scaling too": {
        "rope_scaling": LINEAR,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 200.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
        },
    },
    "yarn with nulls": {
        "rope_scaling": YARN | {"attention_factor": None, "beta_fast": None, "mscale": None, "truncate": None}
    },
    "yarn with zeros": {"rope_scaling": YARN | {"beta_fast": 0, "beta_slow": 0, "mscale": 0, "mscale_all_dim": 1.0}},
    "twisted": {"rope_scaling": {"rope_type": "twisted", "factor": 2.0}},
    "su": {"rope_scaling": {"type": "su", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.0]}},
    "longrope with a factor": {
        "rope_scaling": {
            "type": "longrope",
            "factor": 2.0,
            "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [1.0, 2.0, 3.0, 4.0],
            "original_max_position_embeddings": 32,
        }
    },
}  # fmt: skip
# Cases that the patches are applied to: every way in which classes read rope differs in one of these.
PATCHED = "llama mistral mixtral qwen2 qwen3 gemma2 gemma3_text phi phi3 gpt_neox smollm3 cohere stablelm olmo2".split()


def types_of(annotation):
    """The JSON types that a class takes under a key."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return sorted({t for part in typing.get_args(annotation) for t in types_of(part)})
    names = {int: "int", float: "number", bool: "bool", str: "text", types.NoneType: "null", dict: "object", list: "list"}
    found = names.get(typing.get_origin(annotation) or annotation)
    return [found] if found else ["object"]


def classes():
    common = {f.name for f in dataclasses.fields(transformers.PreTrainedConfig)}
    out = {}
    for name in FAMILIES:
        kind = CONFIG_MAPPING[name]
        hints = typing.get_type_hints(kind, localns={"torch": torch})
        keys = {}
        for field in dataclasses.fields(kind):
            if field.name in common or field.default is dataclasses.MISSING:
                continue
            keys[field.name] = {"default": field.default, "types": types_of(hints[field.name])}
        out[name] = {"keys": keys, "also": dict(kind.attribute_map)}
    return out


def find(config, path):
    for part in path.split("."):
        if not isinstance(config, dict) or part not in config:
            return NONE
        config = config[part]
    return config


def put(config, path, value):
    *above, last = path.split(".")
    for part in above:
        config = config.setdefault(part, {})
    if value == "-":
        config.pop(last, None)
    else:
        config[last] = value


def sizes(config):
    text = config.get_text_config(decoder=True)
    of = lambda key: getattr(text, key, None)  # noqa: E731
    heads = of("num_attention_heads")
    return {
        "d_model": of("hidden_size"),
        "layers": of("num_hidden_layers"),
        "heads": heads,
        "kv_heads": of("num_key_value_heads") or heads,
        "vocab": of("vocab_size"),
        "context": of("max_position_embeddings"),
    }


def outcome(config, folder, tokens):
    """What transformers does with one variant."""
    (folder / "config.json").write_text(json.dumps(config))
    words = lambda e: " ".join(str(e).split())[:100]  # noqa: E731
    found = {}
    try:
        read = AutoConfig.from_pretrained(folder)
        found["sizes"] = sizes(read)
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, config=read, dtype=torch.float32, attn_implementation="eager", output_loading_info=True,
            experts_implementation="eager",
        )
    except Exception as error:  # noqa: BLE001
        return found | {"refused": f"{type(error).__name__}: {words(error)}"}
    missing = sorted(info["missing_keys"])
    if missing:
        return found | {"missing": missing[0]}
    try:
        with torch.no_grad():
            logits = model.eval()(tokens, use_cache=False).logits[0]
    except Exception as error:  # noqa: BLE001
        return found | {"refused": f"{type(error).__name__}: {words(error)}"}
    if not torch.isfinite(logits).all():
        return found | {"refused": "its logits are not finite"}
    rows = [logits[-1, :6], logits[len(logits) // 2, :6]]
    return found | {"logits": [round(float(x), 5) for row in rows for x in row], "unused": len(info["unexpected_keys"])}


def main():
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    known = classes()
    place = HERE.parent.parent / "src/model/families/defaults.json"
    write_defaults(known, place)
    cases = {}
    for source in sorted(HERE.iterdir()):
        if not (source / "activations.short.safetensors").exists():
            continue
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            shutil.copy(source / "model.safetensors", folder)
            prompt = safetensors.torch.load_file(source / "activations.safetensors")["tokens"].long()[None]
            rows = []
            for dialect in ["config.json", "config.v5.json"]:
                base = json.loads((source / dialect).read_text())
                wrapped = "text_config" in base
                under = "text_config." if wrapped else ""
                family = base["text_config"].get("model_type", "gemma3_text") if wrapped else base["model_type"]
                plain = outcome(base, folder, prompt)
                assert "logits" in plain, (source.name, dialect, plain)
                assert plain["sizes"]["d_model"], source.name
                variants = []
                if dialect == "config.json":
                    listed = [under + k for k in known[family]["keys"]]
                    listed += [under + k for k in known[family]["also"]]
                    listed += [under + k for k in UNLISTED.get(family, UNLISTED["*"])]
                    listed += [k for k in base if k not in listed and k != "text_config"]
                    if wrapped:
                        listed += ["text_config." + k for k in base["text_config"] if "text_config." + k not in listed]
                else:
                    listed = [under + "rope_parameters"] if find(base, under + "rope_parameters") is not NONE else []
                inner = [f"{k}.{i}" for k in listed for i in (find(base, k) if isinstance(find(base, k), dict) else {})]
                inner += [f"{k}.{i}" for k in inner for i in (find(base, k) if isinstance(find(base, k), dict) else {})]
                for key in listed + inner:
                    if key in SKIPPED:
                        continue
                    if find(base, key) is not NONE:
                        variants.append((f"{key} absent", {key: "-"}))
                    if find(base, key) is not None:
                        variants.append((f"{key} null", {key: None}))
                if source.name in PATCHED:
                    variants += PATCHES.items()
                for name, patch in variants:
                    config = json.loads(json.dumps(base))
                    for path, value in patch.items():
                        put(config, path, json.loads(json.dumps(value)))
                    found = outcome(config, folder, prompt)
                    if found.get("logits") == plain["logits"]:
                        del found["logits"]
                    if found.get("sizes") == plain["sizes"]:
                        del found["sizes"]
                    if found.get("unused") == 0:
                        del found["unused"]
                    rows.append({"name": name, "of": dialect} | found)
                rows.append({"name": "as it is", "of": dialect} | plain)
            cases[source.name] = rows
            print(source.name, len(rows), flush=True)
    write_cases(cases, HERE / "absent_keys.json")


def write_defaults(known, place):
    """A line a key."""
    out = []
    for name, kind in known.items():
        keys = ",\n".join(f"   {json.dumps(key)}: {json.dumps(of)}" for key, of in sorted(kind["keys"].items()))
        out.append(f' {json.dumps(name)}: {{\n  "also": {json.dumps(kind["also"])},\n  "keys": {{\n{keys}\n  }}\n }}')
    place.write_text("{\n" + ",\n".join(out) + "\n}\n")


def write_cases(cases, place):
    """What is as without the change is a list of names."""
    out = []
    for name, rows in cases.items():
        for dialect in ["config.json", "config.v5.json"]:
            sorted_out = {"same": [], "refused": {}, "missing": {}, "other": {}}
            for row in rows:
                if row["of"] != dialect:
                    continue
                rest = {k: v for k, v in row.items() if k in ("logits", "sizes", "unused")}
                if "refused" in row:
                    sorted_out["refused"][row["name"]] = row["refused"][:70]
                elif "missing" in row:
                    sorted_out["missing"][row["name"]] = row["missing"]
                elif rest:
                    sorted_out["other"][row["name"]] = rest
                else:
                    sorted_out["same"].append(row["name"])
            inside = [f'  "same": {json.dumps(sorted_out["same"])}']
            for kind in ["refused", "missing", "other"]:
                lines = ",\n".join(f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted_out[kind].items())
                inside.append(f'  "{kind}": {{\n{lines}\n  }}')
            out.append(f' "{name}/{dialect}": {{\n' + ",\n".join(inside) + "\n }")
    patches = ",\n".join(f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in PATCHES.items())
    out.append(f' "patches": {{\n{patches}\n }}')
    place.write_text("{\n" + ",\n".join(out) + "\n}\n")


if __name__ == "__main__":
    main()
