//! Prepares an edit for one address: looks up and checks the vectors, units and target values that the edit needs.
//!
//! Invariant: whatever does not fit the model is refused here, with the edit and the reason; nothing is truncated or padded.
//! What has to be looked up follows from the argument of the operation; to let arguments mention something else, look it up in
//! [`prepare`].

use super::control_units::near_in_size;
use super::formulas::{Change, Numbers, Pointed, PreparedEdit};
use super::knockout::KnockoutRule;
use super::named_vectors::{NamedVectors, unit_size};
use crate::edit::Edit;
use crate::edit::direction::{random_like, unit};
use crate::edit::op::{CutEdges, Op, SetValue, UnitChoice};
use crate::error::{Error, Result};
use crate::model::host::ToHost;
use crate::model::network::site::{Address, Site};

/// A prepared edit: the change, the address where it is made, and a note for the receipt.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) at: Address,
    /// The addresses whose values of the same pass it needs, other than its own.
    pub(crate) reads: Vec<Address>,
    pub(crate) change: Change,
    pub(crate) note: String,
    /// What the control of a receipt is, where that is chosen here; empty otherwise.
    pub(crate) control: String,
}

/// Prepares an edit for one of its addresses: looks up what its argument mentions. None if its unit set has no unit at that
/// layer.
pub(crate) fn prepare(
    edit: &Edit,
    at: Address,
    named: &mut NamedVectors,
    control: Option<u64>,
) -> Result<Option<Placed>> {
    let device = &named.lab.model.transformer.placement.device_at(at).clone();
    let width = named.lab.model.width(at.site);
    let refused = |why: String| Error::BadEdit {
        edit: edit.to_string(),
        why,
    };
    let mentioned = edit.op.argument().mentions();
    let units = match mentioned.units {
        None => EditedUnits::default(),
        Some(which) => match units(edit, which, at, named, control)? {
            Some(units) => units,
            None => return Ok(None),
        },
    };
    let strength = f64::from(edit.strength);
    if let Op::Cut(CutEdges(_, sources)) = &edit.op {
        if edit.strength > 1.0 {
            return Err(refused(
                "a cut removes at most all of the attention: use a strength up to 1".into(),
            ));
        }
        let layer = &named.lab.model.transformer.blueprint.layers[usize::from(at.layer)];
        let change = Change::Cut(KnockoutRule {
            heads: units.list,
            sources: vec![sources.clone()],
            strength,
            window: layer.window,
            control: control.map(|seed| seed.wrapping_add(u64::from(at.layer))),
        });
        let note = "its size is the share of attention that moved elsewhere".into();
        return Ok(Some(Placed {
            at,
            reads: Vec::new(),
            change,
            note,
            control: String::new(),
        }));
    }
    let mut remarks: Vec<String> = Vec::new();
    let mut directions = Vec::new();
    let mut drawn_from = "";
    for name in mentioned.directions.into_iter().flatten() {
        let vector = named.direction(name, at)?;
        if vector.len() != width {
            return Err(refused(format!(
                "direction `{name}` has {} numbers and {at} has {width}: it was made for another model or site",
                vector.len()
            )));
        }
        remarks.push(named.elsewhere(name, at)?);
        let vector = match control {
            Some(seed) => match named.shuffled(name, at, seed)? {
                Some((shuffled, is)) => {
                    drawn_from = is;
                    shuffled
                }
                // The same random vector at all addresses, because the direction is the same at all of them.
                None => random_like(&vector, seed),
            },
            None => vector,
        };
        directions.push(Pointed {
            unit: Numbers::new(unit(&vector), width, device)?,
            vector: Numbers::new(vector, width, device)?,
        });
    }
    let mut relation_note = String::new();
    if let Some(turn) = mentioned.relation {
        let (vector, note) = named.relation(turn)?;
        relation_note = note;
        let vector = match control {
            Some(seed) => random_like(&vector, seed),
            None => vector,
        };
        directions.push(Pointed {
            unit: Numbers::new(unit(&vector), width, device)?,
            vector: Numbers::new(vector, width, device)?,
        });
    }
    let capped = matches!(edit.op, Op::AddUnitNorm(_)) && strength.abs() > 1.0;
    let mut note = if capped {
        "the strength is capped at once the local norm".to_string()
    } else {
        relation_note
    };
    // Checks looked-up values: they may be several rows, but each must have the address's width.
    let mut measured = |source: &str, (values, from): (Vec<f32>, String)| {
        note = from;
        if values.is_empty() || !values.len().is_multiple_of(width) {
            return Err(refused(format!(
                "`{source}` has {} numbers for {at}, which has {width}",
                values.len()
            )));
        }
        Ok(values)
    };
    let (mut place, mut wide) = (at, width);
    let target = if let Op::Rewrite(turn) = &edit.op {
        let layer = usize::from(at.layer);
        (place, wide) = (Site::MlpOut.at(layer), named.lab.model.card.d_model);
        let deltas = named.turned(layer, &units.list, turn, edit.strength)?;
        deltas.flatten_all()?.host_vec1()?
    } else if let Some(file) = mentioned.statistics {
        measured(file, named.statistic(file, at)?)?
    } else if let Some(text) = mentioned.text {
        measured(text, named.other_text(text, at)?)?
    } else if mentioned.prompt_mean {
        measured("the prompt", named.mean(at)?)?
    } else {
        match mentioned.value {
            Some(SetValue::Is(value)) => vec![value; width],
            Some(SetValue::Times(_)) | None => vec![0.0; width],
        }
    };
    let change = Change::Values(Box::new(PreparedEdit {
        op: edit.op.clone(),
        strength,
        directions,
        mask: Numbers::new(units.mask(width), width, device)?,
        units: units.list,
        target: Numbers::new(target, wide, device)?,
    }));
    remarks.insert(0, note);
    remarks.retain(|remark| !remark.is_empty());
    Ok(Some(Placed {
        reads: if place == at { Vec::new() } else { vec![at] },
        at: place,
        change,
        note: remarks.join("; "),
        control: drawn_from.into(),
    }))
}

/// The units that an edit changes at an address.
#[derive(Default)]
struct EditedUnits {
    /// Unit indices; empty for all units.
    list: Vec<u32>,
    /// Coordinates of a unit: `head_dim` for a head.
    size: usize,
}

impl EditedUnits {
    /// A mask `[width]`: 1 at the coordinates of the units.
    fn mask(&self, width: usize) -> Vec<u8> {
        let mut flags = vec![u8::from(self.list.is_empty()); width];
        for unit in &self.list {
            let first = *unit as usize * self.size;
            flags[first..first + self.size].fill(1);
        }
        flags
    }
}

/// The units of an edit at one of its addresses. For a knockout the units are query heads, numbered as at `z`.
fn units(
    edit: &Edit,
    which: &UnitChoice,
    at: Address,
    named: &mut NamedVectors,
    control: Option<u64>,
) -> Result<Option<EditedUnits>> {
    let cut = matches!(edit.op, Op::Cut(_));
    let (own, word) = if cut {
        (Site::Z.at(usize::from(at.layer)), "head")
    } else {
        (at, "unit")
    };
    let size = unit_size(own.site, &named.lab.model);
    let count = named.lab.model.width(own.site) / size;
    let mut list = match which {
        UnitChoice::All if matches!(edit.op, Op::Rewrite(_)) => (0..count as u32).collect(),
        UnitChoice::All => {
            let list = Vec::new();
            return Ok(Some(EditedUnits { list, size }));
        }
        UnitChoice::List(list) => list.clone(),
        UnitChoice::Set(name) => named.units(name, own)?,
        UnitChoice::Features(_) => {
            return Err(Error::Engine("features are no units of a site".into()));
        }
    };
    if list.is_empty() {
        return Ok(None);
    }
    if let Some(bad) = list.iter().find(|u| **u as usize >= count) {
        return Err(Error::BadEdit {
            edit: edit.to_string(),
            why: format!(
                "{word} {bad} is past the end; {at} has {count}, 0 to {}",
                count - 1
            ),
        });
    }
    // A knockout keeps its heads: its control draws other edges of the same heads.
    if let Some(seed) = control
        && !cut
    {
        list = near_in_size(&named.sizes(at)?, &list, seed);
    }
    Ok(Some(EditedUnits { list, size }))
}
