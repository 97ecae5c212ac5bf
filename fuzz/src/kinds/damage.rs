//! How inputs are damaged: bytes, places of a JSON text, pieces of templates.
//! To damage in another way, add an arm; numbers then stand for other inputs, and fuzz/corpus keeps the old ones.

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

/// How inputs of a kind are damaged.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// Bytes.
    Bytes,
    /// Bytes; the header of safetensors more often.
    Binary,
    /// A safetensors file: the header more often than the rest, its length made right again.
    Header,
    /// Bytes; numbers and texts at the beginning more often.
    Gguf,
    /// A place of a JSON text more often than its bytes.
    Json,
    /// A chat template: pieces of one more often than the seed.
    Template,
    /// Text in which these words mean something.
    Words(&'static [&'static str]),
}

impl Form {
    /// Damages an input once.
    pub fn damage(self, bytes: &mut Vec<u8>, rng: &mut StdRng) {
        match self {
            Self::Json if rng.random_bool(0.8) => damage_json(bytes, rng),
            Self::Header if rng.random_bool(0.6) => damage_header(bytes, rng),
            Self::Binary if rng.random_bool(0.5) && has_header(bytes) => damage_header(bytes, rng),
            Self::Template if rng.random_bool(0.7) => *bytes = pieces(rng).into_bytes(),
            Self::Words(words) if rng.random_bool(0.7) => damage_words(bytes, words, rng),
            Self::Gguf if rng.random_bool(0.7) => damage_start(bytes, rng),
            Self::Bytes
            | Self::Binary
            | Self::Header
            | Self::Gguf
            | Self::Json
            | Self::Template
            | Self::Words(_) => damage(bytes, rng),
        }
    }
}

/// Damages the first eighth, where a file says what it holds.
fn damage_start(bytes: &mut Vec<u8>, rng: &mut StdRng) {
    let mut start: Vec<u8> = bytes.drain(..bytes.len().div_ceil(8)).collect();
    damage(&mut start, rng);
    bytes.splice(0..0, start);
}

/// Puts a word in, or in the place of another; takes lines away, doubles and swaps them.
fn damage_words(bytes: &mut Vec<u8>, words: &[&str], rng: &mut StdRng) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let word = words[rng.random_range(0..words.len())];
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    let line = rng.random_range(0..lines.len().max(1));
    match rng.random_range(0..8) {
        0 if !lines.is_empty() => {
            lines.remove(line);
            *bytes = lines.concat().into_bytes();
        }
        1 if !lines.is_empty() && lines.len() < 40 => {
            lines.insert(line, lines[line]);
            *bytes = lines.concat().into_bytes();
        }
        2 if !lines.is_empty() => {
            // One line alone: the others may hide what becomes of it.
            *bytes = lines[line].as_bytes().to_vec();
        }
        3..6 => {
            // In the place of what stands between two marks.
            let marks: Vec<usize> = text
                .char_indices()
                .filter(|(_, c)| !c.is_alphanumeric())
                .map(|(i, _)| i)
                .collect();
            if marks.len() < 2 {
                *bytes = word.as_bytes().to_vec();
                return;
            }
            let at = rng.random_range(0..marks.len() - 1);
            *bytes = text.clone().into_bytes();
            let from = marks[at] + text[marks[at]..].chars().next().map_or(1, char::len_utf8);
            bytes.splice(from..marks[at + 1].max(from), word.bytes());
        }
        _ => {
            let places: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
            let at = if places.is_empty() {
                0
            } else {
                places[rng.random_range(0..places.len())]
            };
            *bytes = text.into_bytes();
            bytes.splice(at..at, word.bytes());
        }
    }
}

/// Words of the edit grammar, and of presets.
#[rustfmt::skip]
pub const EDITS: &[&str] = &[
    "add", "add_unit_norm", "add_renorm", "icv", "project_out", "scale_along", "clamp_along", "set_along", "swap",
    "replace", "zero", "mean", "resample", "scale", "set", "rewrite", "cut", ":", "@", "*", "/", ",", "=", ">", "..",
    "-", " when ", ">=", "<", "p(", ")", "#3", "\"", "\\", "\"a@b*2\"", "refusal", "mood", "mood#1", "mood#-99",
    "random", "null", "writes", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_act", "mlp_add",
    "z", "q", "k", "v", "attn_scores", "attn_probs", "logits", ".0", ".3", ".7", ".*", ".99", ".4-6", ".6-4",
    "blocks.3.hook_resid_pre", "all", "all-but-bos", "last", "prompt", "generated", "token:", "text:", "span:",
    "prefill", "decode", "0", "1", "1.5", "3e38", "-3e38", "1e-45", "inf", "NaN", "-0", "4294967295", "4294967296",
    "18446744073709551615", "é", "日本", "\u{202e}", "\u{1b}[2J", "\n", "[[edit]]\n", "edit = ", "on = false\n",
    "mode = \"from now\"\n", "revision = \"\"\n", "{set}", "{a.toml}",
];

/// Words of TOML: themes, key maps, unit sets, template libraries.
#[rustfmt::skip]
pub const TOML: &[&str] = &[
    "[", "]", "[[", "]]", "=", "\"", "'", "\"\"\"", "#", "{", "}", ",", ".", "\n", "site", "units", "revision",
    "\"3/17\"", "\"65535/4294967295\"", "\"65536/0\"", "template", "name", "prompt", "slot", "about", "title",
    "variant", "dark", "light", "roles", "palette", "fg", "bg", "bold", "underline", "reversed", "\"#ff0000\"",
    "\"#f\"", "\"red\"", "\"bright-blue\"", "256", "-1", "inf", "1e400", "true", "1979-05-27", "heat", "sign",
    "ground", "[keys]", "ctrl-", "S-", "Enter", "Space", "F12", "F300", "Esc", "é", "日本", "\u{1b}]52;c;aGk=\u{7}",
    "\u{202e}", "quit", "ablate", "none", "\"\"", "[]", "0x", "\\u0000", "\\",
];

/// Words of lists.
#[rustfmt::skip]
pub const LISTS: &[&str] = &[
    "\t", ",", "\n", "\r\n", "\u{feff}", "#", "[", "]", "{", "}", "\"", "\\u0000", "null", "0", "\"prompt\"",
    "\"prompts\"", "\"answer\"", "\"bridge\"", "\"entity\"", "\"first\"", "\"second\"", "\"clean\"", "\"corrupt\"",
    "\"input\"", "\"output\"", "\"\"", ": ", "{input}", "{output}", "<|endoftext|>", "é", "日本", "\u{202e}", " ", "en",
    "fr", "[[[[[[[[", "1e999",
];

/// Keys in the little language of [`super::screen`].
#[rustfmt::skip]
pub const KEYS: &[&str] = &[
    "\n", "\u{1b}", "\t", ":", "i", "i日本 👍\n", "e", "e zero:17@mlp_act.3\n", ":theme\n", ":export json x\n",
    ":goto 9\n", ":group g\n", ":strength 2\n", ":load-edits x\n", ":notices\n", ":session x\n", ":seed 3\n", "p",
    "P", "o", "x", "X", "s", "a", "A", "B", "=", "b", "D", "f", "F", "z", "zz", "u", "\u{12}", "?", "q", "h", "j",
    "k", "l", "G", "gg", "1", "2", "9", "m", "t0.5\n", "T", "r", "R", "c", "n", "C", "v", "+", "-", "y", "Y", "w",
    "\u{3}", "\u{80}\u{1}\u{1}", "\u{80}\u{50}\u{18}", "\u{80}\u{ff}\u{ff}", "\u{81}", "\u{82}", "\u{83}", "\u{84}",
    "\u{85}", "\u{86}", "\u{87}", "\u{88}", "\u{89}", "\u{8a}", "\u{8b}", "\u{8c}", "\u{8d}", "\u{8e}", "\u{8f}",
    "\u{90}\u{1b}[2J\u{90}", "\u{91}", "\u{92}",
];

/// Arguments, a line each.
#[rustfmt::skip]
pub const ARGUMENTS: &[&str] = &[
    "\n", "lens\n", "neurons\n", "patchscope\n", "backpatch\n", "patching\n", "sweep\n", "heads\n", "residual\n",
    "attention\n", "knockout\n", "value\n", "triggers\n", "promoters\n", "fact\n", "dose\n", "select\n", "meters\n",
    "track\n", "settle\n", "generate\n", "trace\n", "direction\n", "vectors\n", "stats\n", "edit-value\n", "bench\n",
    "models\n", "sites\n", "themes\n", "keys\n", "doctor\n", "completions\n", "demo\n", "-p\n",
    "The capital of France is\n", "--edit\n", "zero:17@mlp_act.3\n", "--seed\n", "--format\n", "json\n", "csv\n",
    "--layer\n", "--position\n", "--ids\n", "1,2,3\n", "--chat\n", "--dtype\n", "f16\n", "q8_0\n", "--context\n",
    "--preset\n", "--norm\n", "--top\n", "-1\n", "0\n", "3\n", "99\n", "18446744073709551615\n", "-0.5\n", "1e400\n",
    "NaN\n", "--\n", "--help\n", "--version\n", "-\n", "é\n", "\u{1b}[2J\n", "--site\n", "resid_mid\n", "--units\n",
    "all\n", "--by\n", "--color\n", "--theme\n", "--shot-size\n", "0x0\n", "--temperature\n", "--top-p\n",
];

/// Words of the answers of a hub.
#[rustfmt::skip]
pub const HTTP: &[&str] = &[
    "HTTP/1.1 200 OK\r\n", "HTTP/1.1 404 Not Found\r\n", "HTTP/1.1 429 Too Many Requests\r\n",
    "HTTP/1.1 302 Found\r\n", "HTTP/1.1 206 Partial Content\r\n", "HTTP/1.1 416 Range Not Satisfiable\r\n",
    "HTTP/1.1 401 Unauthorized\r\n", "content-length: 0\r\n", "content-length: 18446744073709551615\r\n",
    "etag: \"../x\"\r\n", "etag: \"abc\"\r\n", "location: /x\r\n", "location: file:///etc/passwd\r\n",
    "retry-after: 99999999999\r\n", "retry-after: 0\r\n", "x-error-code: GatedRepo\r\n",
    "x-error-message: \u{1b}]52;c;aGk=\u{7}\r\n", "transfer-encoding: chunked\r\n", "content-encoding: gzip\r\n",
    "ratelimit: \"r\";r=0;t=55\r\n", "\r\n\r\n", "\n====\n", "{", "}", "[", "]", "\"", "\"siblings\"", "\"sha\"",
    "\"rfilename\"", "\"../../x\"", "\"model.gguf\"", "\"config.json\"", "\"model.safetensors\"",
    "\"adapter_config.json\"", "null", "1e999", "\u{202e}", "ffffffff\r\n",
];

fn has_header(bytes: &[u8]) -> bool {
    bytes.get(8) == Some(&b'{')
}

/// Damages the header of a safetensors file and makes its length right again.
fn damage_header(bytes: &mut Vec<u8>, rng: &mut StdRng) {
    let Some(length) = bytes
        .first_chunk::<8>()
        .map(|b| u64::from_le_bytes(*b) as usize)
    else {
        return;
    };
    let Some(header) = bytes.get(8..8usize.saturating_add(length)) else {
        return;
    };
    let (mut header, data) = (header.to_vec(), bytes[8 + length..].to_vec());
    damage_json(&mut header, rng);
    *bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
}

/// Numbers that break things.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    3,
    7,
    255,
    256,
    65_535,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 62,
    u64::MAX / 2,
    u64::MAX,
];

/// Damages bytes.
fn damage(bytes: &mut Vec<u8>, rng: &mut StdRng) {
    if bytes.is_empty() {
        bytes.push(rng.random());
        return;
    }
    let at = rng.random_range(0..bytes.len());
    let length = rng.random_range(1..=16.min(bytes.len() - at));
    match rng.random_range(0..8) {
        0 => bytes[at] ^= 1 << rng.random_range(0..8),
        1 => bytes[at] = rng.random(),
        2 => bytes.truncate(at),
        3 => {
            bytes.drain(at..at + length);
        }
        4 => {
            let copy = bytes[at..at + length].to_vec();
            let to = rng.random_range(0..=bytes.len());
            bytes.splice(to..to, copy);
        }
        5 => {
            let number = NUMBERS[rng.random_range(0..NUMBERS.len())].to_le_bytes();
            let width = length.min(if rng.random_bool(0.5) { 4 } else { 8 });
            bytes[at..at + width].copy_from_slice(&number[..width]);
        }
        6 => bytes.insert(at, rng.random()),
        _ => bytes.swap(at, at / 2),
    }
}

/// Damages one place of a JSON text.
fn damage_json(bytes: &mut Vec<u8>, rng: &mut StdRng) {
    let Ok(mut json) = serde_json::from_slice::<Value>(bytes) else {
        damage(bytes, rng);
        return;
    };
    // Down to a place: more often than not a leaf.
    let mut place = &mut json;
    while rng.random_bool(0.85) && !leaf(place) {
        place = match place {
            Value::Object(map) => {
                let at = rng.random_range(0..map.len());
                map.values_mut().nth(at).unwrap()
            }
            Value::Array(list) => {
                let at = rng.random_range(0..list.len());
                &mut list[at]
            }
            _ => unreachable!(),
        };
    }
    match (rng.random_range(0..6), &mut *place) {
        (0, Value::Object(map)) if !map.is_empty() => {
            let key = map
                .keys()
                .nth(rng.random_range(0..map.len()))
                .unwrap()
                .clone();
            map.remove(&key);
        }
        (1, Value::Object(map)) => {
            let values: Vec<Value> = map.values().cloned().collect();
            if let (Some(value), Some(key)) = (values.first(), map.keys().next_back().cloned()) {
                map.insert(key, value.clone());
            }
        }
        (0, Value::Array(list)) if !list.is_empty() => {
            let at = rng.random_range(0..list.len());
            list.remove(at);
        }
        (1 | 2, Value::Array(list)) if !list.is_empty() => {
            let copy = list[rng.random_range(0..list.len())].clone();
            let to = rng.random_range(0..=list.len());
            list.insert(to, copy);
        }
        (1 | 2, Value::String(text)) => {
            let mut bytes = std::mem::take(text).into_bytes();
            damage(&mut bytes, rng);
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
        (_, place) => *place = odd(rng),
    }
    *bytes = json.to_string().into_bytes();
}

fn leaf(place: &Value) -> bool {
    place.as_object().is_none_or(serde_json::Map::is_empty)
        && place.as_array().is_none_or(Vec::is_empty)
}

/// A value that nobody expects.
fn odd(rng: &mut StdRng) -> Value {
    const WORDS: [&str; 24] = [
        "",
        " ",
        "▁",
        "\u{0}",
        "a",
        "é",
        "👍",
        "BPE",
        "Unigram",
        "WordPiece",
        "WordLevel",
        "ByteLevel",
        "Metaspace",
        "Split",
        "Replace",
        "Sequence",
        "TemplateProcessing",
        "Isolated",
        "F64",
        "I8",
        "llama",
        "(a+)+$",
        "[",
        "<unk>",
    ];
    match rng.random_range(0..10) {
        0 => Value::Null,
        1 => Value::Bool(rng.random()),
        2 | 3 => json!(NUMBERS[rng.random_range(0..NUMBERS.len())]),
        4 => json!(-(rng.random_range(0..1000i64))),
        5 => json!([1e308, -0.0, 1e-300, 0.5, 1e30][rng.random_range(0..5)]),
        6 | 7 => json!(WORDS[rng.random_range(0..WORDS.len())]),
        8 => json!([odd(rng), odd(rng)]),
        _ => json!({WORDS[rng.random_range(0..WORDS.len())]: odd(rng)}),
    }
}

/// A template of random pieces.
fn pieces(rng: &mut StdRng) -> String {
    const PIECES: [&str; 64] = [
        "{% for m in messages %}",
        "{% endfor %}",
        "{% if m.role == 'user' %}",
        "{% else %}",
        "{% endif %}",
        "{% set x = [x, x] %}",
        "{% set ns = namespace(x=[1]) %}",
        "{% set ns.x = [ns.x, ns.x] %}",
        "{% set ns.x = ns.x + ns.x %}",
        "{% set s = 'ab' %}",
        "{% set s = s ~ s %}",
        "{{ s * 1000 }}",
        "{% for i in range(1000) %}",
        "{% for i in range(100000000) %}",
        "{% break %}",
        "{% continue %}",
        "{% macro f(n) %}",
        "{% endmacro %}",
        "{{ f(f) }}",
        "{{ f(1) }}",
        "{% call f(1) %}",
        "{% endcall %}",
        "{% raw %}",
        "{% endraw %}",
        "{# ",
        " #}",
        "{% generation %}",
        "{% endgeneration %}",
        "{{",
        "}}",
        "{%",
        "%}",
        "'",
        "\"",
        "\\",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "|",
        "%",
        "{{ ns.x }}",
        "{{ x | tojson(indent=2) }}",
        "{{ messages | tojson }}",
        "{{ messages[::-1] }}",
        "{{ messages[-9223372036854775808:] }}",
        "{{ messages[::0] }}",
        "{{ 'é'[1:] }}",
        "{{ '%99999d' % 1 }}",
        "{{ '{:>9999999}'.format(1) }}",
        "{{ 'a'.center(4000) }}",
        "{{ m.content.split('\\n')[0].strip() }}",
        "{{ 9223372036854775807 + 1 }}",
        "{{ -9223372036854775808 // -1 }}",
        "{{ 1 % 0 }}",
        "{{ 2 ** 1000 }}",
        "{{ raise_exception('no') }}",
        "{{ strftime_now('%Y %') }}",
        "{{ m | dictsort }}",
        "{{ 'x' | replace('', 'yy') }}",
        "\r\n  ",
        "日本 ",
    ];
    let count = rng.random_range(1..24);
    (0..count)
        .map(|_| PIECES[rng.random_range(0..PIECES.len())])
        .collect()
}
