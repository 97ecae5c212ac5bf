//! Unifies the two dialects of rotary positions in config.json (`rope_theta` + `rope_scaling`, or `rope_parameters`).
//!
//! Invariant: where they disagree, the precedence is that of transformers 5.24 (`convert_rope_params_to_dict` and
//! `standardize_rope_params` of each class): `rope_scaling`, unless it is empty, replaces all of `rope_parameters`, its base
//! included; keys inside the dictionary win over keys outside. [`remarks`] reports what was not used.
//! To add a family that reads its keys differently, add an arm to [`keys`].

use serde_json::{Map, Value};

use super::config_defaults::short;
use super::config_reader::compare as refusal;
use crate::error::Result;

const THETA: &str = "rope_theta";
const PART: &str = "partial_rotary_factor";
const ORIGINAL: &str = "original_max_position_embeddings";
const TYPE: &str = "rope_type";

/// Under which key outside the dictionary a class looks for the rotated part of a head.
#[derive(Clone, Copy, Debug, PartialEq)]
enum RotatedPart {
    /// None: whole heads are rotated. A part is ignored without a scaling, and refused with one.
    Whole,
    /// This key, and the default.
    Key(&'static str, f64),
}

/// Which keys a configuration class reads rope from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Keys {
    theta: &'static str,
    /// The default base.
    base: f64,
    part: RotatedPart,
    /// Whether the class supports only plain rope and LongRoPE, the latter also under older names.
    longrope_only: bool,
    /// Whether the class knows layer types, so that it reads a dictionary with their names as one dictionary for each type.
    knows_layers: bool,
}

/// The keys that the class of a family reads.
pub(crate) fn keys(family: &str) -> Keys {
    Keys {
        theta: match family {
            "gpt_neox" => "rotary_emb_base",
            _ => THETA,
        },
        base: match family {
            "mixtral" => 1_000_000.0,
            "smollm3" => 2_000_000.0,
            "cohere" => 500_000.0,
            _ => 10_000.0,
        },
        part: match family {
            "phi" => RotatedPart::Key(PART, 0.5),
            "stablelm" => RotatedPart::Key(PART, 0.25),
            "phi3" => RotatedPart::Key(PART, 1.0),
            "gpt_neox" => RotatedPart::Key("rotary_pct", 0.25),
            _ => RotatedPart::Whole,
        },
        longrope_only: family == "phi3",
        knows_layers: matches!(family, "qwen2" | "qwen3" | "gemma2" | "smollm3"),
    }
}

/// A dictionary in which everything is filled in: type, base, rotated part, original context.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StandardRope(pub Map<String, Value>);

/// The dictionary of a configuration in which all layers have the same rotation.
pub(crate) fn standard(config: &Value, keys: Keys) -> Result<StandardRope> {
    let scaling = dictionary(config, "rope_scaling")?.filter(|d| !d.is_empty());
    let parameters = dictionary(config, "rope_parameters")?;
    let chosen = scaling.or(parameters).cloned().unwrap_or_default();
    let by_layer = ["full_attention", "sliding_attention"];
    if keys.knows_layers && by_layer.iter().any(|kind| chosen.contains_key(*kind)) {
        return Err(refusal(
            "`rope_parameters` is by layer type, and all layers of this family rotate alike".into(),
        ));
    }
    standardised(chosen, config, keys)
}

fn standardised(
    mut chosen: Map<String, Value>,
    config: &Value,
    keys: Keys,
) -> Result<StandardRope> {
    or_else(&mut chosen, THETA, || {
        config.get(keys.theta).cloned().unwrap_or(keys.base.into())
    });
    match keys.part {
        RotatedPart::Key(key, part) => or_else(&mut chosen, PART, || {
            config.get(key).cloned().unwrap_or(part.into())
        }),
        RotatedPart::Whole => {
            if let Some(part) = config.get(PART).filter(|v| !v.is_null()) {
                or_else(&mut chosen, PART, || part.clone());
            }
        }
    }
    let outside = config.get(ORIGINAL);
    settle(&mut chosen, config, outside, keys)?;
    let scaled = chosen.get(TYPE).is_some_and(|kind| kind != "default");
    match chosen.get(PART) {
        Some(part) if keys.part == RotatedPart::Whole && !scaled => {
            tracing::debug!("{PART} {part} is passed over, as in transformers");
            chosen.remove(PART);
        }
        Some(part) if keys.part == RotatedPart::Whole && part.as_f64() != Some(1.0) => {
            return Err(refusal(format!(
                "`{PART}` is {}, and this model's class rotates whole heads",
                short(part)
            )));
        }
        _ => {}
    }
    Ok(StandardRope(chosen))
}

/// Fills in the type and the original context.
fn settle(
    chosen: &mut Map<String, Value>,
    config: &Value,
    outside: Option<&Value>,
    keys: Keys,
) -> Result<()> {
    let older = chosen.get("type").cloned();
    or_else(chosen, TYPE, || older.unwrap_or_else(|| "default".into()));
    if keys.longrope_only {
        let kind = chosen[TYPE].as_str().unwrap_or_default();
        if ["su", "yarn"].contains(&kind) {
            chosen.insert(TYPE.into(), "longrope".into());
        } else if !["default", "longrope", "frequency_factors"].contains(&kind) {
            return Err(refusal(format!(
                "rope scaling `{}` is not supported for this family, whose class takes default and longrope",
                crate::text::plain(kind.as_bytes())
            )));
        }
    }
    let kind = chosen[TYPE].as_str().unwrap_or_default();
    if ["llama3", "yarn", "longrope"].contains(&kind) {
        match outside {
            Some(outside) => {
                chosen.insert(ORIGINAL.into(), outside.clone());
            }
            None => or_else(chosen, ORIGINAL, || {
                config
                    .get("max_position_embeddings")
                    .cloned()
                    .unwrap_or(Value::Null)
            }),
        }
    }
    Ok(())
}

/// The dictionaries of Gemma 3's two layer types: full attention, and sliding.
pub(crate) fn by_layer_type(config: &Value) -> Result<[StandardRope; 2]> {
    const FULL: &str = "full_attention";
    const SLIDING: &str = "sliding_attention";
    let plain = || -> Map<String, Value> { Map::from_iter([(TYPE.into(), "default".into())]) };
    let part = |from: &Map<String, Value>, kind: &str| match from.get(kind) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(of)) => Ok(Some(of.clone())),
        Some(other) => Err(refusal(format!(
            "`rope_parameters.{kind}` is {}, and must be an object",
            short(other)
        ))),
    };
    let (mut full, mut sliding) = match dictionary(config, "rope_parameters")? {
        None => (Some(plain()), Some(plain())),
        Some(given) => (part(given, FULL)?, part(given, SLIDING)?),
    };
    if let Some(scaling) = dictionary(config, "rope_scaling")? {
        match &mut full {
            Some(full) => full.extend(scaling.clone()),
            None => {
                return Err(refusal(format!(
                    "`rope_scaling` scales `rope_parameters.{FULL}`, which is not there"
                )));
            }
        }
    }
    let settled =
        |of: &mut Option<Map<String, Value>>, key: &str, base: f64| -> Result<StandardRope> {
            let mut of = of.take().unwrap_or_else(plain);
            or_else(&mut of, THETA, || {
                config.get(key).cloned().unwrap_or(base.into())
            });
            settle(&mut of, config, None, keys("gemma3_text"))?;
            let outside = config.get(PART).filter(|part| !part.is_null());
            if of.get(TYPE).is_some_and(|kind| kind == "default") {
                of.remove(PART);
            } else if let Some(part) = of.get(PART).or(outside)
                && part.as_f64() != Some(1.0)
            {
                return Err(refusal(format!(
                    "`{PART}` is {}, and this model's class rotates whole heads",
                    short(part)
                )));
            }
            Ok(StandardRope(of))
        };
    Ok([
        settled(&mut full, THETA, 1_000_000.0)?,
        settled(&mut sliding, "rope_local_base_freq", 10_000.0)?,
    ])
}

/// The object under a key; none if it is absent or null.
fn dictionary<'a>(config: &'a Value, key: &str) -> Result<Option<&'a Map<String, Value>>> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(found)) => Ok(Some(found)),
        Some(other) => Err(refusal(format!(
            "`{key}` is {}, and must be an object",
            short(other)
        ))),
    }
}

/// Inserts a value if the key is absent; null counts as present, as in Python's `setdefault`.
fn or_else(of: &mut Map<String, Value>, key: &str, value: impl FnOnce() -> Value) {
    if !of.contains_key(key) {
        of.insert(key.into(), value());
    }
}

/// Whether two dictionaries are equivalent: numbers are compared by value, and the type may be under its older or newer key.
fn alike(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    let own = |d: &Map<String, Value>| {
        let rows = d.iter().filter(|(key, _)| *key != "type");
        let number = |v: &Value| v.as_f64().map_or_else(|| v.clone(), Value::from);
        rows.map(|(key, value)| (key.clone(), number(value)))
            .collect::<Map<_, _>>()
    };
    own(a) == own(b)
}

/// Remarks on the rope keys of a configuration that are not used.
pub(crate) fn remarks(config: &Value, family: &str) -> Vec<String> {
    let mut out = Vec::new();
    let keys = keys(family);
    let layered = family == "gemma3_text";
    let object = |key: &str| config.get(key).and_then(Value::as_object);
    let (scaling, parameters) = (
        object("rope_scaling").filter(|d| !d.is_empty()),
        object("rope_parameters").filter(|d| !d.is_empty()),
    );
    let used = if layered {
        by_layer_type(config).map(|[full, _]| full)
    } else {
        standard(config, keys)
    };
    let Ok(StandardRope(used)) = used else {
        return out;
    };
    if let (Some(_), Some(parameters)) = (scaling, parameters) {
        let alone = if layered {
            let mut without = config.clone();
            without["rope_scaling"] = Value::Null;
            by_layer_type(&without).map(|[full, _]| full)
        } else {
            standardised(parameters.clone(), config, keys)
        };
        if alone.is_ok_and(|alone| !alike(&alone.0, &used)) {
            out.push(format!(
                "config.json holds `rope_scaling` and `rope_parameters`, and they disagree: `rope_scaling` is used, as transformers does: {}.",
                words(&used)
            ));
        }
    } else if layered {
        if parameters.is_some_and(|p| !p.contains_key("full_attention")) {
            out.push(format!(
                "`rope_parameters` of config.json is not by layer type, and is not used, as in transformers: {}.",
                words(&used)
            ));
        }
    } else if let (Some(outside), Some(inside)) = (config.get(keys.theta), used.get(THETA))
        && outside.as_f64() != inside.as_f64()
    {
        out.push(format!(
            "`{}` of config.json is {}, and the one inside `{}` wins, as in transformers: theta {}.",
            keys.theta,
            short(outside),
            if scaling.is_some() { "rope_scaling" } else { "rope_parameters" },
            short(inside)
        ));
    }
    let part = match keys.part {
        RotatedPart::Key(key, _) => config.get(key),
        RotatedPart::Whole => config
            .get(PART)
            .or_else(|| scaling.or(parameters).and_then(|d| d.get(PART))),
    };
    if let Some(part) = part.filter(|p| p.is_number() && p.as_f64() != Some(1.0))
        && used.get(PART).is_none_or(|inside| inside != part)
    {
        out.push(format!(
            "`{PART}` {} of config.json is not used, as in transformers: {}.",
            short(part),
            used.get(PART).map_or_else(
                || "this family rotates whole heads".to_owned(),
                |inside| format!("the one inside the dictionary wins, {}", short(inside))
            )
        ));
    }
    if let Some(given) = scaling.or(parameters).filter(|_| !layered) {
        let kind = used.get(TYPE).and_then(Value::as_str).unwrap_or_default();
        let strange: Vec<&String> = given
            .iter()
            .filter(|(key, value)| !value.is_null() && !reads(kind, key))
            .map(|(key, _)| key)
            .collect();
        if !strange.is_empty() {
            let keys = crate::text::quoted(&strange, usize::MAX);
            out.push(format!(
                "rope scaling `{kind}` of config.json does not use {keys}, as in transformers."
            ));
        }
    }
    out
}

/// Whether a type of rope reads a key of its dictionary, or the key means nothing.
fn reads(kind: &str, key: &str) -> bool {
    let common = [TYPE, "type", THETA, PART, "finetuned", "factors"];
    let own: &[&str] = match kind {
        "linear" | "dynamic" => &["factor"],
        "yarn" => &[
            "factor",
            ORIGINAL,
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ],
        "longrope" => &[
            "factor",
            ORIGINAL,
            "attention_factor",
            "short_factor",
            "long_factor",
        ],
        "llama3" => &["factor", ORIGINAL, "low_freq_factor", "high_freq_factor"],
        _ => &[],
    };
    common.contains(&key) || own.contains(&key)
}

fn words(used: &Map<String, Value>) -> String {
    let of = |key: &str| used.get(key).map_or_else(String::new, short);
    let kind = used.get(TYPE).and_then(Value::as_str).unwrap_or("default");
    let factor = used
        .get("factor")
        .map_or_else(String::new, |f| format!(" by {}", short(f)));
    format!(
        "{}{factor}, theta {}",
        crate::text::plain(kind.as_bytes()),
        of(THETA)
    )
}
