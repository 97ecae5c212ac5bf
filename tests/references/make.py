"""Makes the reference checkpoints and activations that `cargo test --test it parity` compares with.

    python tests/references/make.py            # rewrites the folders beside this file

Written with: python 3.11, transformers 4.57.1, torch 2.15.0 (CPU), safetensors 0.8.0, tokenizers 0.22.2, numpy 2.4.6.

Every case is a tiny random checkpoint in Hugging Face layout. Its numbers come from the real Hugging Face modules, in
eager attention and f32, run on fixed token ids:

* almost every site is the input or the output of a module, taken by a forward hook;
* `attn_scores` is what eager attention hands to `torch.nn.functional.softmax`, taken by wrapping that function during the
  run; nothing is recomputed. Hugging Face masks with the lowest finite number, here written as -inf;
* `attn_add` and `mlp_add` are the outputs of the attention and MLP modules, which these families add as they are;
* `q`, `k`, `v` are the outputs of the projections, before the rotation, split into heads as the modules split them.

`activations.safetensors` holds a prompt of 72 tokens and `activations.short.safetensors` one of a single token: one f32
tensor an address of `src/model/site.rs`, and `tokens`. Of the long prompt's `attn_scores` and `attn_probs` only the last
queries are kept, as `attn_probs.0.tail` `[heads, 8, 72]`, to keep the files small; the others show in `z`.
"""

import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

HERE = Path(__file__).parent
LONG = 72
TAIL = 8


@dataclass
class Parts:
    """Where a family keeps the modules whose inputs and outputs are sites; block parts are relative to the block."""

    embed: str
    block: str
    norm_attn: str
    attention: str
    qkv: tuple
    write: str
    norm_mlp: str
    mlp: str
    gate: str
    up: str
    down: str
    norm_final: str


LLAMA_PARTS = Parts(
    embed="model.embed_tokens",
    block="model.layers.{}",
    norm_attn="input_layernorm",
    attention="self_attn",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    write="self_attn.o_proj",
    norm_mlp="post_attention_layernorm",
    mlp="mlp",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    norm_final="model.norm",
)
GPT2_PARTS = Parts(
    embed="transformer.drop",  # its input and output: token plus position
    block="transformer.h.{}",
    norm_attn="ln_1",
    attention="attn",
    qkv=("attn.c_attn",),
    write="attn.c_proj",
    norm_mlp="ln_2",
    mlp="mlp",
    gate="",
    up="mlp.c_fc",
    down="mlp.c_proj",
    norm_final="transformer.ln_f",
)

# Epsilons are large, so that a wrong one shows. With theta 100 and head_dim 8 the four wavelengths are 6, 20, 63 and 199
# tokens: under llama3 scaling from 32 tokens one is kept, one blended, two stretched, and 72 tokens go far past 32.
LLAMA = LlamaConfig(
    vocab_size=53,
    hidden_size=20,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    intermediate_size=28,
    max_position_embeddings=256,
    rms_norm_eps=3e-3,
    attention_bias=True,
    mlp_bias=True,
    tie_word_embeddings=False,
    rope_theta=100.0,
    rope_scaling={
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    bos_token_id=0,
    eos_token_id=1,
)
QWEN2 = Qwen2Config(
    vocab_size=59,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    intermediate_size=36,
    max_position_embeddings=128,
    rms_norm_eps=2e-3,
    tie_word_embeddings=True,
    rope_theta=1_000_000.0,
    bos_token_id=0,
    eos_token_id=1,
)
GPT2 = GPT2Config(
    vocab_size=57,
    n_embd=16,
    n_layer=2,
    n_head=4,
    n_inner=36,
    n_positions=96,
    layer_norm_epsilon=4e-3,
    activation_function="gelu_new",
    bos_token_id=0,
    eos_token_id=1,
)


def randomise(model, seed):
    """Gives every parameter a random value: gains around one, biases that matter, matrices that keep the scale."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(1 + 0.3 * noise if name.endswith("weight") else 0.3 * noise)
            elif any(part in name for part in ("embed_tokens", "wte", "wpe")):
                parameter.copy_(0.7 * noise)
            else:
                conv1d = ".c_" in name  # stored [in, out]
                parameter.copy_(noise / math.sqrt(parameter.shape[0 if conv1d else 1]))


def prompt(length, vocab, seed):
    """Random ids that include the first and the last of the vocabulary, and a repetition."""
    ids = torch.randint(0, vocab, (length,), generator=torch.Generator().manual_seed(seed))
    if length > 8:
        ids[3], ids[5] = 0, vocab - 1
        ids[length // 2 : length // 2 + 8] = ids[:8]
    return ids


def record(model, parts, ids):
    """Runs the model and returns every site, by address, without the batch dimension."""
    config = model.config
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    sites, scores, hooks = {}, [], []

    def keep(address, tensor):
        assert address not in sites, address
        sites[address] = tensor[0].detach().clone()

    def on_output(path, *addresses):
        def hook(_module, _inputs, output):
            for address in addresses:
                keep(address, output[0] if isinstance(output, tuple) else output)

        hooks.append(model.get_submodule(path).register_forward_hook(hook))

    def on_input(path, address):
        hooks.append(model.get_submodule(path).register_forward_pre_hook(lambda _m, inputs: keep(address, inputs[0])))

    on_output(parts.embed, "embed")
    for layer in range(config.num_hidden_layers):
        block = parts.block.format(layer)
        on_input(f"{block}.{parts.norm_attn}", f"resid_pre.{layer}")
        on_output(f"{block}.{parts.norm_attn}", f"attn_in.{layer}")
        if len(parts.qkv) == 3:
            for name, path in zip("qkv", parts.qkv):
                on_output(f"{block}.{path}", f"{name}.{layer}")
        else:
            on_output(f"{block}.{parts.qkv[0]}", f"qkv.{layer}")
        on_input(f"{block}.{parts.write}", f"z.{layer}")
        on_output(f"{block}.{parts.attention}", f"attn_out.{layer}", f"attn_add.{layer}")
        hooks.append(
            model.get_submodule(f"{block}.{parts.attention}").register_forward_hook(
                lambda _m, _i, output, layer=layer: keep(f"attn_probs.{layer}", output[1])
            )
        )
        on_input(f"{block}.{parts.norm_mlp}", f"resid_mid.{layer}")
        on_output(f"{block}.{parts.norm_mlp}", f"mlp_in.{layer}")
        if parts.gate:
            on_output(f"{block}.{parts.gate}", f"mlp_gate.{layer}")
        on_output(f"{block}.{parts.up}", f"mlp_up.{layer}")
        on_input(f"{block}.{parts.down}", f"mlp_act.{layer}")
        on_output(f"{block}.{parts.mlp}", f"mlp_out.{layer}", f"mlp_add.{layer}")
        on_output(block, f"resid_post.{layer}")
    on_output(parts.norm_final, "final_norm")
    on_output("lm_head", "logits_raw")

    softmax = torch.nn.functional.softmax

    def spy(x, *args, **kwargs):
        scores.append(x[0].detach().clone())
        return softmax(x, *args, **kwargs)

    with torch.no_grad(), mock.patch.object(torch.nn.functional, "softmax", spy):
        output = model(ids[None], use_cache=False, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    keep("logits", output.logits)

    tokens = len(ids)
    future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    assert len(scores) == config.num_hidden_layers
    for layer, score in enumerate(scores):
        assert score.shape == (heads, tokens, tokens)
        assert (score[:, future] < -1e30).all() and score[:, ~future].abs().max() < 100
        sites[f"attn_scores.{layer}"] = score.masked_fill(future, -math.inf)
        if len(parts.qkv) == 1:
            fused = sites.pop(f"qkv.{layer}").split(config.hidden_size, dim=-1)
            sites |= {f"{name}.{layer}": part for name, part in zip("qkv", fused)}
        for name, count in [("q", heads), ("k", kv_heads), ("v", kv_heads), ("z", heads)]:
            sites[f"{name}.{layer}"] = sites[f"{name}.{layer}"].reshape(tokens, count, head_dim)
    check(sites, output.hidden_states, config.num_hidden_layers)
    return sites


def check(sites, hidden_states, layers):
    """The hooks sit where they are meant to: what Hugging Face itself calls hidden states is found again."""
    for layer in range(layers):
        before, after = f"resid_pre.{layer}", f"resid_post.{layer}"
        assert torch.equal(sites[before], hidden_states[layer][0])
        mid = sites[before] + sites[f"attn_add.{layer}"]
        assert torch.equal(mid, sites[f"resid_mid.{layer}"])
        assert torch.equal(mid + sites[f"mlp_add.{layer}"], sites[after])
        probs = torch.softmax(sites[f"attn_scores.{layer}"], -1)
        assert torch.allclose(probs, sites[f"attn_probs.{layer}"], atol=1e-6)
        values = sites[f"v.{layer}"]
        values = values.repeat_interleave(probs.shape[0] // values.shape[1], dim=1)
        assert torch.allclose(torch.einsum("hqk,khd->qhd", probs, values), sites[f"z.{layer}"], atol=1e-5)
    # Hugging Face's last hidden state is after the final norm.
    assert torch.equal(sites["final_norm"], hidden_states[layers][0])
    assert torch.equal(sites["embed"], sites["resid_pre.0"]) and torch.equal(sites["logits_raw"], sites["logits"])


def write(path, sites, ids):
    """Writes sites as f32; the attention matrices of a long prompt lose all but their last queries."""
    out = {"tokens": ids.to(torch.int64).contiguous()}
    for address, tensor in sites.items():
        assert tensor.dtype == torch.float32
        if len(ids) > TAIL and address.startswith(("attn_scores", "attn_probs")):
            address, tensor = f"{address}.tail", tensor[:, -TAIL:]
        out[address] = tensor.contiguous()
    save_file(out, path)


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def case(name, config, kind, parts, seed):
    """One checkpoint with its activations; what is run is what a reader of the folder would load."""
    folder = fresh(HERE / name)
    model = kind(config)
    randomise(model, seed)
    model.save_pretrained(folder)
    model = eager(folder)
    for length, file in [(LONG, "activations.safetensors"), (1, "activations.short.safetensors")]:
        ids = prompt(length, config.vocab_size, seed + length)
        write(folder / file, record(model, parts, ids), ids)
    return model


def eager(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def sharded(model):
    """The llama case in two shards with an index, its config.json in the spelling of transformers 5."""
    folder = fresh(HERE / "llama_sharded")
    model.save_pretrained(folder, max_shard_size="22KB")
    assert len(list(folder.glob("model-*-of-00002.safetensors"))) == 2, sorted(folder.iterdir())
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["rope_parameters"] = {"rope_theta": config.pop("rope_theta"), **config.pop("rope_scaling")}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def half(model, name, dtype, bare):
    """A case stored in 16 bits, with the logits that its rounded weights give in f32.

    `bare` drops `transformer.` from the names, as OpenAI's own GPT-2 checkpoints on the hub have it.
    """
    folder = fresh(HERE / name)
    vocab = model.config.vocab_size
    model.to(dtype)
    (model.transformer if bare else model).save_pretrained(folder)
    assert bare != any(key.startswith(("model.", "transformer.")) for key in load_file(folder / "model.safetensors"))
    model = eager(folder)
    ids = prompt(24, vocab, 7)
    with torch.no_grad():
        logits = model(ids[None], use_cache=False).logits[0]
    save_file({"tokens": ids, "logits": logits.contiguous()}, folder / "activations.safetensors")


SENTENCES = [
    "The lens shows what every layer would have said about the next token.",
    "A model writes token by token, and beside each token stand its neurons.",
    "One key changes the model between two tokens; another takes the change back.",
    "def forward(self, x):\n    return self.down(self.act(self.gate(x)) * self.up(x))",
    "Was der Schirm zeigt, ist genau das, was weiterfließt. Überall, jederzeit.",
    "The queen of the north, the king of the south: there they stood, then and there.",
    "for (int i = 0; i < 10; i++) { total += values[i]; }  // the total of the values",
    "语言模型的示波器，语言模型的镜头。 今天天气很好。",
]

TEXTS = [
    "",
    " ",
    "   ",
    "The lens shows the next token.",
    " the queen of the north",
    "trailing space ",
    "two  three   four    spaces",
    "tab\tnewline\ncarriage\r\n\n\nend\n",
    "I'll say we've DON'T they'RE o'clock",
    "1234567 3.14159 2026-11-23 1,000",
    "def f(x):\n    return x ** 2  # the square\n\n\tif x != 0: pass",
    "{\"key\": [1, null, \"\\n\"], 'a': `b`}",
    "👍",
    "👍🏽 thumbs 👩‍👩‍👧‍👦 family 🇩🇪 flag ☺️",
    "语言模型的示波器",
    "今天天气很好。Hello世界！　全角",
    "Überall fließt naïve café coöperation",
    "e\u0301 decomposed, \u00e9 composed, \ufb01 ligature, \u212b angstrom",
    "مرحبا بالعالم שלום עולם",
    "ไม่มีช่องว่าง हिन्दी 한국어",
    "\x00\x01\x02\x07\x08\x1b[31mred\x1b[0m\x7f",
    "\u200bzero\u200dwidth\ufeff \u00a0nbsp\u2028line\u2029paragraph",
    "▁lower one eighth ▁▁ and Ġ and Ċ",
    "<0x0A><0xE4> is typed, not a byte",
    "𝕳𝖊𝖑𝖑𝖔 𐍈 \U0010ffff",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "thethethethe ttthhheee",
    "<|begin|>",
    "<|end|>",
    "a<|end|>b <|end|> c<|end|>",
    "<|begin|><|begin|>twice",
    "ignore <|begin|> the rest <|end|> <|pad|>   after",
    "<| end |> <|END|> <|end",
    "<s>",
    "</s> is typed </s>",
    "<s><s> twice <unk>",
    "  <tool>  call  </tool>",
]


def byte_level(folder):
    """A byte-level BPE as Llama 3 and Qwen have it: a pattern splits, bytes are letters, `<|begin|>` goes first."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_special_tokens([
        AddedToken("<|begin|>", special=True, normalized=False),
        AddedToken("<|end|>", special=True, normalized=False),
        AddedToken("<|pad|>", special=True, normalized=False, lstrip=True, rstrip=True),
    ])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("</tool>", normalized=False, lstrip=True)])
    begin = tokenizer.token_to_id("<|begin|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", begin)]
    )
    save_tokenizer(folder, tokenizer, {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "clean_up_tokenization_spaces": False,
    })


def sentence_piece(folder):
    """A BPE as Llama 2 has it: `▁` for spaces and before the text, bytes for what has no piece, `<s>` first."""
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizer
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # for training only: no piece spans words
    trained.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=180, show_progress=False))
    bpe = json.loads(trained.to_str())["model"]

    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += sorted(bpe["vocab"], key=bpe["vocab"].get) + ["▁▁", "▁▁▁▁"]
    merges = [tuple(merge) for merge in bpe["merges"]] + [("▁", "▁"), ("▁▁", "▁▁")]
    vocab = {piece: id for id, piece in enumerate(pieces) if piece != "\n"}  # a newline is a byte, as in Llama 2
    vocab = {piece: id for id, piece in enumerate(vocab)}
    merges = [(a, b) for a, b in merges if a in vocab and b in vocab and a + b in vocab]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    save_tokenizer(folder, tokenizer, {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False},
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "legacy": False,
        "clean_up_tokenization_spaces": False,
    })


def save_tokenizer(folder, tokenizer, config):
    fresh(folder)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def tokenizer_cases():
    """What `AutoTokenizer` gives for the hard texts, with and without the tokens it puts around a text."""
    expected = {}
    for name, build in [("byte_level", byte_level), ("sentence_piece", sentence_piece)]:
        folder = HERE / "tokenizers" / name
        build(folder)
        python = AutoTokenizer.from_pretrained(folder)
        assert python.is_fast
        expected[name] = {
            "class": type(python).__name__,
            "bos": python.bos_token_id,
            "eos": python.eos_token_id,
            "size": len(python),
            "cases": [
                {"text": text, "ids": python(text)["input_ids"], "raw": python(text, add_special_tokens=False)["input_ids"]}
                for text in TEXTS
            ],
        }
    lines = json.dumps(expected, indent=1)
    (HERE / "tokenizers" / "tokenizers.json").write_text(compact(lines))


def compact(text):
    """Puts lists of numbers on one line."""
    return re.sub(r"\[[\s\d,]*\]", lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"), text) + "\n"


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    llama = case("llama", LLAMA, LlamaForCausalLM, LLAMA_PARTS, 11)
    case("qwen2", QWEN2, Qwen2ForCausalLM, LLAMA_PARTS, 22)
    gpt2 = case("gpt2", GPT2, GPT2LMHeadModel, GPT2_PARTS, 33)
    sharded(llama)
    half(llama, "llama_bf16", torch.bfloat16, bare=False)
    half(gpt2, "gpt2_f16", torch.float16, bare=True)
    tokenizer_cases()
    for file in HERE.rglob("generation_config.json"):
        file.unlink()  # nothing here generates
    for file in HERE.rglob("*.safetensors"):
        file.chmod(0o644)
    sizes = {p.name: sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) for p in sorted(HERE.iterdir()) if p.is_dir()}
    print(sizes, sum(sizes.values()))


if __name__ == "__main__":
    main()
