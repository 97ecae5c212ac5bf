"""The tokenizers of `tokenizers/` and the ids that Python's `AutoTokenizer` gives for hard texts."""

import json
import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from record import HERE, fresh

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
