//! The grammar of edits: `OP[:WHAT]@ADDRESS[:POSITIONS][/PHASE][*STRENGTH][ when|once PROBE>NUMBER]`.
//!
//! For example `zero:17,52@mlp_act.3`, `add:refusal@resid_pre.3:prompt*1.5` or `add:calm@resid_post.4 when
//! anger@resid_pre.4>1.5`. Every text and name can be put in quotation marks ([`super::quotes`]). Invariant: printing and
//! parsing are inverse; if the printed edit differs from the typed line, [`understood`] shows it.
//! To add a part, add it to both directions and to the examples of the test below.

use std::fmt;
use std::str::FromStr;

use super::condition::Condition;
use super::intervention::{EDGES, Edit, EditId, EditPlace};
use super::op::{ArgumentText, OPS};
use super::positions::Positions;
use super::quotes::{LinePiece, QuotedLine};
use crate::error::{Error, Result};
use crate::model::network::address::Pattern;
use crate::model::network::names::NameRule;
use crate::model::network::tap::PassPhase;

/// A sentence that shows the edit as it was parsed, if it prints differently from what was typed.
pub fn understood(typed: &str, edit: &Edit) -> Option<String> {
    let own = edit.to_string();
    let typed = typed.trim();
    // A default that is written out makes no difference.
    let usual = own == typed || own == typed.replacen(":all", "", 1);
    (!usual).then(|| format!("`{typed}` is understood as `{own}`"))
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.op.spec().name)?;
        let argument = self.op.argument().to_string();
        if !argument.is_empty() {
            write!(f, ":{argument}")?;
        }
        match &self.place {
            EditPlace::At(address) => write!(f, "@{address}")?,
            EditPlace::Layers(site, a, b) => write!(f, "@{}.{a}-{b}", site.spec().name)?,
            EditPlace::Every(site) => write!(f, "@{}.*", site.spec().name)?,
            EditPlace::Borrowed(name) => write!(f, "@{name}")?,
            EditPlace::Writes => f.write_str("@writes")?,
            EditPlace::Edges => write!(f, "@{EDGES}")?,
        }
        if self.positions != Positions::All {
            write!(f, ":{}", self.positions)?;
        }
        match self.phase {
            Some(PassPhase::Prefill) => f.write_str("/prefill")?,
            Some(PassPhase::Decode) => f.write_str("/decode")?,
            None => {}
        }
        #[allow(clippy::float_cmp)] // 1 is what is left out
        if self.strength != 1.0 {
            write!(f, "*{}", self.strength)?;
        }
        if let Some(when) = &self.when {
            write!(f, " {when}")?;
        }
        Ok(())
    }
}

impl FromStr for Edit {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let bad = |why: String| Error::BadEdit {
            edit: s.to_string(),
            why,
        };
        let line = QuotedLine::new(s).map_err(&bad)?;
        let (text, when) = split_condition(line.whole()).map_err(&bad)?;
        let (head, tail) = text
            .rsplit_once('@')
            .ok_or_else(|| bad("there is no `@ADDRESS`".into()))?;
        let (name, what) = head.split_once(':').unwrap_or((head, head.part(0, 0)));
        let name = name.text.trim();
        let spec = OPS.iter().find(|o| o.name == name).ok_or_else(|| {
            bad(format!(
                "`{name}` is not an operation; the operations are {}",
                OPS.iter().map(|o| o.name).collect::<Vec<_>>().join(", ")
            ))
        })?;
        let (tail, strength) = strength(tail).map_err(&bad)?;
        let phases = [
            ("prefill", PassPhase::Prefill),
            ("decode", PassPhase::Decode),
        ];
        let (tail, phase) = match tail.rsplit_once('/') {
            Some((rest, word)) => {
                let found = phases.iter().find(|(name, _)| *name == word.text.trim());
                found.map_or((tail, None), |(_, phase)| (rest, Some(*phase)))
            }
            None => (tail, None),
        };
        let (address, positions) = match tail.split_once(':') {
            Some((address, positions)) => (address.text.trim(), positions.text.trim()),
            None => (tail.text.trim(), "all"),
        };
        let place = place(address)?;
        let positions: Positions = positions.parse().map_err(|e: Error| bad(e.to_string()))?;
        let typed = ArgumentText {
            op: spec.name,
            what,
            address,
        };
        let edit = Self {
            id: EditId::default(),
            op: (spec.read)(typed).map_err(&bad)?,
            place,
            positions,
            phase,
            strength,
            when,
            on: true,
        };
        edit.check_site().map_err(&bad)?;
        Ok(edit)
    }
}

/// Splits a condition off the end of an edit's text. Text that only looks like a condition stays in place.
fn split_condition(text: LinePiece<'_>) -> Result<(LinePiece<'_>, Option<Condition>), String> {
    let place = [" when ", " once "]
        .iter()
        .filter_map(|word| text.rfind(word).map(|at| (at, *word)))
        .max();
    let Some((at, word)) = place else {
        return Ok((text, None));
    };
    let (edit, rest) = (
        text.part(0, at),
        text.part(at + word.len(), text.text.len()),
    );
    match Condition::read(rest.trim(), word == " once ") {
        Ok(condition) => Ok((edit.trim(), Some(condition))),
        // The words may be part of a text without quotation marks, unless a complete edit comes before them.
        Err(_) if edit.text.parse::<Edit>().is_err() => Ok((text, None)),
        Err(why) => Err(why),
    }
}

/// Splits `*STRENGTH` off the end; the star of `resid_post.*` or `blocks.*.hook_z` belongs to the address.
fn strength(tail: LinePiece<'_>) -> Result<(LinePiece<'_>, f32), String> {
    let Some((rest, number)) = tail.rsplit_once('*') else {
        return Ok((tail, 1.0));
    };
    let layers = rest.text.ends_with("blocks.");
    let number = number.text.trim();
    if layers || number.is_empty() || number.starts_with(':') || number.starts_with('/') {
        return Ok((tail, 1.0));
    }
    match number.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok((rest, value)),
        Ok(_) | Err(_) => Err(format!(
            "`{number}` is not a strength; write a number after `*`, at most {:e}",
            f32::MAX
        )),
    }
}

/// Reads the place of an edit, without positions.
pub(crate) fn place(text: &str) -> Result<EditPlace> {
    if text == "writes" {
        return Ok(EditPlace::Writes);
    }
    if text == EDGES {
        return Ok(EditPlace::Edges);
    }
    Ok(match text.parse::<Pattern>()? {
        Pattern::Own(site, layers) => EditPlace::of(site, layers),
        Pattern::Foreign(name) => match name.spelling.rule {
            NameRule::Depends(..) => EditPlace::Borrowed(name),
            NameRule::Always | NameRule::Never(..) => EditPlace::of(name.anywhere()?, name.layers),
        },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn edits_print_and_parse_inversely() {
        for text in [
            "zero:17,52@mlp_act.3",
            "add:calm.gguf@resid_post.4-9*1.5",
            "project_out:refusal.safetensors@writes",
            "only:\"my circuit.json\"@edges:generated*0.5",
            "add_unit_norm:\"a/b@c:d\"@resid_pre.0:last*-0.5",
            "add:\"my calm, 2*.gguf\"@resid_post.4",
            "swap:\"a>b\">\"c=d\"@resid_post.1",
            "zero:{\"my set\"}@mlp_act.*",
            "add:calm@resid_post.4 when \"my anger\"@resid_pre.4>1.5",
            "zero@attn_out.*",
            "zero@attn_out.*:prompt",
            "mean:3@z.1:generated",
            "scale:1@mlp_act.0:2..5/prefill*0",
            "set:9=3.5@mlp_act.2:token:\" x\"/decode*2",
            "add_renorm:calm@resid_post.3*0.5",
            "icv:calm@mlp_out.**0.1",
            "scale_along:calm@resid_pre.2*-1",
            "clamp_along:calm=-1.5..2@resid_pre.2:last",
            "set_along:calm=3@writes",
            "swap:red>blue@resid_post.1",
            "replace:calm@resid_post.1:4*0.5",
            "resample:3,4=\"The capital of Italy: is\"@mlp_act.0",
            "resample:3=\"say when you go>1\"@mlp_act.0",
            "resample:3=\"a@b when c@resid_pre.0>1\"@mlp_act.0",
            "resample:=\" \\\"a\\\" \\n\\\\\"@mlp_act.0",
            "mean:3,4=neutral.safetensors@mlp_act.0",
            "zero:{facts}@mlp_act.*",
            "set:{facts}=2@mlp_act.1-2",
            "rewrite:17=\" Paris\">\" Rome\"@mlp_act.5*0.5",
            "add:calm@resid_post.4*-1.5 when anger@resid_pre.4>1.5",
            "zero:1@mlp_act.0:generated/decode once p(\" sorry when\")<0.25",
            "add:calm@resid_post.4:token:\"a when b\"",
            "cut@attn_scores.3",
            "cut:0,2@attn_scores.*:last*0.5",
            "cut:=0..4@attn_scores.3-5:text:\"a: b\"",
            "cut:1=text:\" New York\"@attn_scores.0:last",
            "zero:sae#17,52@resid_post.3",
            "scale:\"my sae\"#6/17@mlp_add.*:all-but-bos*2",
            "set:sae#17=3x@resid_post.3",
            "mean:sae#17@resid_post.3",
            "add:sae#17@resid_post.3*8",
            "splice:\"l3@resid_post.3\"@resid_post.3*0.5",
            "add:calm@resid_post.3 when sae#17>3",
            "zero:1@mlp_act.4 once \"my sae\"#6/17<0.5",
            "zero:1@blocks.3.attn.hook_q",
            "zero:1@blocks.*.mlp.hook_post:last*0.5",
            "zero:1@blocks.2-4.mlp.hook_pre",
            "add:calm@hook_embed*2",
        ] {
            let edit: Edit = text.parse().unwrap();
            assert_eq!(edit.to_string(), text);
            assert_eq!(edit.to_string().parse::<Edit>().unwrap(), edit);
        }
    }

    #[test]
    fn bad_edits_say_why() {
        for (text, why) in [
            ("zero:17", "@ADDRESS"),
            ("zap:1@mlp_act.0", "not an operation"),
            ("zero:x@mlp_act.0", "not the number of a unit"),
            ("add@resid_pre.0", "needs a direction"),
            ("zero@attn_probs.0", "z (the output"),
            ("zero@logits", "model's output"),
            ("cut:1@z.0", "attention scores"),
            ("cut:1@attn_probs.0", "attention scores"),
            ("cut:1=some@attn_scores.0", "positions"),
            ("zero@mlp_akt.0", "mlp_act"),
            ("zero:1@mlp_act.0*huge", "not a strength"),
            ("zero:1@blocks.*.mlp.hook_post*huge", "not a strength"),
            ("zero:1@blocks.0.attn.hook_result", "z.0"),
            ("zero@mlp_act.-1", "negative layers"),
            ("zero@MLP_ACT.1", "lower case"),
            ("set:1@mlp_act.0", "needs a value"),
            ("set_along:d@resid_pre.0", "and a value"),
            ("clamp_along:d=3..1@resid_pre.0", "wrong order"),
            ("swap:d@resid_pre.0", "two directions"),
            ("resample:1@mlp_act.0", "needs a text"),
            ("mean:1=@mlp_act.0", "statistics file"),
            ("mean:1= @mlp_act.0", "statistics file"),
            ("mean:1=\" \"@mlp_act.0", "statistics file"),
            ("zero:{}@mlp_act.0", "{NAME}"),
            ("rewrite:1=a@mlp_act.0", "two tokens"),
            ("rewrite:1=\"a\">\"b\"@z.0", "its address is mlp_act"),
            ("add:d@resid_pre.0 when d@resid_pre.0", "not a condition"),
            ("add:d@resid_pre.0 when d@resid_pot.0>1", "resid_pos"),
            ("add:d@resid_pre.0 when p()>1", "not a condition"),
        ] {
            let error = text.parse::<Edit>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
