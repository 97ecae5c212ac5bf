//! How inputs are damaged: bytes, places of a JSON text, pieces of templates.
//! To damage in another way, add an arm; numbers then stand for other inputs, and tests/lies/ keeps the old ones.

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

/// Three tensors and what else a header may hold.
pub fn safetensors() -> Vec<u8> {
    let header = json!({
        "__metadata__": {"format": "pt"},
        "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
        "c": {"dtype": "F16", "shape": [1, 2, 2], "data_offsets": [32, 40]},
    });
    let header = header.to_string();
    [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        &[7; 40],
    ]
    .concat()
}

/// Damages the header of a safetensors file and makes its length right again.
pub fn damage_header(bytes: &mut Vec<u8>, rng: &mut StdRng) {
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
pub fn damage(bytes: &mut Vec<u8>, rng: &mut StdRng) {
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
pub fn damage_json(bytes: &mut Vec<u8>, rng: &mut StdRng) {
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
pub fn pieces(rng: &mut StdRng) -> String {
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
