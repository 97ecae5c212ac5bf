"""Writes tokenizers_more/: tiny tokenizers in the shapes of real models, and the ids that Python gives for hard texts.

Run: python tests/references/tokenizers_more.py
Written with: python 3.11, transformers 4.57.1, tokenizers 0.22.2.

Each is trained on the sentences below; what makes it the shape of its model (splits, normalizers, where spaces go, what
is added around a text) is set as that model's own tokenizer.json sets it.
"""

import json
import shutil
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import generate_merges

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "tokenizers_more"

SENTENCES = [
    "the lens shows the next token and the queen of the north sees the other lens",
    "a token is a part of a text that the model reads and writes, one after the other",
    "don't say we've seen what they're saying; I'll see, you'd say it's theirs",
    "in 2024 there were 1234567 tokens, 3.14 of them round, 42 of them square",
    "def f(x):\n    return x * 2\n\nfor i in range(10):\n    print(f(i))\n",
    "Été naïve façade, Ünïcödé und Straße, l'état c'est moi",
    "日本語のテキスト、中文文本,한국어 텍스트",
    "the the the and and and of of of to to in in a a",
    "HTTPServer camelCase snake_case SCREAMING_CASE kebab-case",
    "two  spaces   three    four\ttab\r\nline\n\nparagraph",
]

MORE_TEXTS = [
    "e\u0301te\u0301 and \u00e9t\u00e9",
    "1234567890 12 345 6",
    "\u0967\u0968\u0969 \u0661\u0662\u0663 \u00bd",
    "I'LL don't DON'T we'Ve",
    "\n\n\n  the\n \n",
    "def f(x):\n        return x\n",
    "<tool> the <|im_end|> </tool>",
    "\u3000ideographic\u00a0no-break\u2003em",
    "日本語と中文123と한국어",
    "HTTPServer's camelCase",
    " ",
    "  the  ",
    "\u0000\u0007\u001b[0m",
    "\U0001F469\u200D\U0001F469\u200D\U0001F467 \U0001F1EB\U0001F1F7",
    "the<s>the</s> the",
    "▁the ▁▁ the",
]

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
QWEN_2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]


def special(token, **more):
    return AddedToken(token, special=True, normalized=False, **more)


def before(tokenizer, token):
    """Puts one token before a text."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, tokenizer.token_to_id(token))]
    )


def trained(splits, normalizer=None, size=320):
    """A byte-level BPE that splits as the patterns say."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not splits)
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in splits]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, level]) if steps else level
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def llama_3():
    """Llama 3: a part that is a token as a whole is taken without merging, though no merges lead to it."""
    tokenizer = trained([LLAMA_3])
    parts = json.loads(tokenizer.to_str())
    for piece in ["Ġtoken", "123", "Ġlens", "return"]:
        parts["model"]["vocab"].setdefault(piece, len(parts["model"]["vocab"]))
    parts["model"]["ignore_merges"] = True
    tokenizer = Tokenizer.from_str(json.dumps(parts))
    tokenizer.add_special_tokens([special("<|begin_of_text|>"), special("<|eot_id|>"), special("<|im_end|>")])
    before(tokenizer, "<|begin_of_text|>")
    return tokenizer, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}


def qwen_2():
    """Qwen 2: composed first, every digit alone, no BOS."""
    tokenizer = trained([QWEN_2], normalizers.NFC())
    tokenizer.add_special_tokens([special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>")])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("</tool>", normalized=False)])
    return tokenizer, {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": False}


def gpt_2():
    """GPT-2: its own pattern, one special token for everything."""
    tokenizer = trained([])
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=True)])
    return tokenizer, {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}


def neox():
    """GPT-NeoX: composed first, runs of spaces as added tokens that are not special."""
    tokenizer = trained([], normalizers.NFC())
    tokenizer.add_special_tokens([special("<|endoftext|>"), special("<|padding|>")])
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in range(8, 1, -1)])
    return tokenizer, {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}


def deepseek():
    """DeepSeek V3: numbers first, then Chinese and Japanese, then words."""
    tokenizer = trained(DEEPSEEK)
    tokenizer.add_special_tokens([special("<｜begin▁of▁sentence｜>"), special("<｜end▁of▁sentence｜>")])
    before(tokenizer, "<｜begin▁of▁sentence｜>")
    return tokenizer, {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"}


def pieces_by_score(specials):
    """SentencePiece's vocabulary: pieces whose scores fall, and the merges that Hugging Face derives from them."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    learner.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    found = json.loads(learner.to_str())["model"]
    learned = ["".join(merge) for merge in found["merges"]]
    letters = [piece for piece in sorted(found["vocab"], key=found["vocab"].get) if len(piece) == 1 and piece > " "]
    pieces = [(token, 0.0) for token in specials] + [(f"<0x{byte:02X}>", 0.0) for byte in range(256)]
    ordered = [*learned, "▁▁", "▁▁▁▁", *letters]
    pieces += [(piece, -float(n)) for n, piece in enumerate(dict.fromkeys(ordered))]
    vocab = {piece: id for id, (piece, _) in enumerate(pieces)}
    merges = generate_merges({p: i for p, i in vocab.items()}, dict(pieces[len(specials) + 256 :]))
    return vocab, merges


def sentence_pieces(specials):
    vocab, merges = pieces_by_score(specials)
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens([special(token) for token in specials])
    return tokenizer


TO_TEXT = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


def gemma():
    """Gemma: spaces become `▁`, none is put before the text."""
    tokenizer = sentence_pieces(["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"])
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(TO_TEXT)
    tokenizer.add_tokens([AddedToken("▁▁", normalized=False), AddedToken("▁▁▁▁", normalized=False)])
    before(tokenizer, "<bos>")
    return tokenizer, {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}


def llama_2():
    """Llama 2: `▁` before every part of the text."""
    tokenizer = sentence_pieces(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([*TO_TEXT, decoders.Strip(" ", 1, 0)])
    before(tokenizer, "<s>")
    return tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def mistral():
    """Mistral: a Metaspace that puts `▁` before the text's first part alone and splits nothing."""
    tokenizer = sentence_pieces(["<unk>", "<s>", "</s>", "[INST]", "[/INST]"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([*TO_TEXT, decoders.Strip(" ", 1, 0)])
    before(tokenizer, "<s>")
    return tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def unigram():
    """T5's kind: pieces by their likelihood, words split at spaces, an end after the text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    end = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", end)]
    )
    return tokenizer, {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


ALL = [llama_2, llama_3, qwen_2, gpt_2, neox, deepseek, gemma, mistral, unigram]


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    cases = json.loads((HERE / "tokenizers" / "tokenizers.json").read_text())["byte_level"]["cases"]
    texts = list(dict.fromkeys([case["text"] for case in cases] + MORE_TEXTS))
    expected = {"texts": texts, "tokenizers": {}}
    for build in ALL:
        name = build.__name__
        folder = FOLDER / name
        folder.mkdir(parents=True)
        tokenizer, config = build()
        (folder / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n")
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}
        (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n")
        python = AutoTokenizer.from_pretrained(folder)
        ids = [python(text)["input_ids"] for text in texts]
        raw = [python(text, add_special_tokens=False)["input_ids"] for text in texts]
        # What stands around every text is kept once.
        empty = python("")["input_ids"]
        first = [id for id in empty if id == python.bos_token_id]
        last = empty[len(first) :]
        assert all(whole == first + part + last for whole, part in zip(ids, raw)), name
        expected["tokenizers"][name] = {
            "bos": python.bos_token_id,
            "eos": python.eos_token_id,
            "size": len(python),
            "first": first,
            "last": last,
            "ids": raw,
            "decoded": [python.decode(part, skip_special_tokens=False) == text for part, text in zip(raw, texts)],
        }
    (FOLDER / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")
    sizes = [path.stat().st_size for path in FOLDER.rglob("*.json")]
    print(len(ALL), "tokenizers,", len(texts), "texts,", sum(sizes), "bytes")


if __name__ == "__main__":
    main()
