//! Arithmetic on directions: sums, differences and multiples of loaded or saved ones, for example the composition of function
//! vectors `v_BD = v_AD + v_BC − v_AC` (Todd et al. 2024, 2310.15213).
//!
//! Invariant: only vectors of the same model and the same addresses are summed; sums are in f64, in the order written.
//! To add an operation, extend [`parse`].

use crate::edit::direction::{Direction, DirectionOrigin};
use crate::error::{Error, Result};
use crate::lab::Lab;

/// One term of a sum: a factor, and the name or file of a direction.
pub type LinearTerm = (f64, String);

/// Parses `a + 2*b - c.safetensors`. Signs must have spaces around them, because names may contain signs.
pub fn parse(text: &str) -> Result<Vec<LinearTerm>> {
    let bad = || {
        let expected = "names or files with + or - between them and spaces around the signs, such as `a + 2*b - c`";
        Error::argument("combine", text, expected)
    };
    let mut terms = Vec::new();
    let mut sign = Some(1.0);
    for word in text.split_whitespace() {
        match (word, sign) {
            ("+", None) => sign = Some(1.0),
            ("-" | "−", None) => sign = Some(-1.0),
            ("-" | "−", Some(_)) if terms.is_empty() => sign = Some(-1.0),
            (name, Some(factor)) if !matches!(name, "+" | "-" | "−") => {
                let multiple = name.split_once('*').and_then(|(number, rest)| {
                    Some((number.parse::<f64>().ok().filter(|n| n.is_finite())?, rest))
                });
                let (number, name) = multiple.unwrap_or((1.0, name));
                if name.is_empty() {
                    return Err(bad());
                }
                terms.push((factor * number, name.to_string()));
                sign = None;
            }
            _ => return Err(bad()),
        }
    }
    if terms.is_empty() || sign.is_some() {
        return Err(bad());
    }
    Ok(terms)
}

/// The sum of directions of this model. Directions with a single vector may have been measured at different layers of a site;
/// the sum then has the address of the first.
pub fn combine(lab: &Lab, text: &str) -> Result<Direction> {
    let terms = parse(text)?;
    let mut sum: Option<(Direction, Vec<Vec<f64>>)> = None;
    let mut notes = vec![format!("{text}, of which")];
    let mut cautions = Vec::new();
    for (factor, name) in &terms {
        let direction = lab.direction(name)?;
        let first = sum.get_or_insert_with(|| {
            let zeros = direction.rows.iter().map(|(_, v)| vec![0f64; v.len()]);
            (direction.clone(), zeros.collect())
        });
        let (frame, totals) = (&first.0, &mut first.1);
        let single = frame.rows.len() == 1
            && direction.rows.len() == 1
            && frame.rows[0].0.site == direction.rows[0].0.site;
        let places = |of: &Direction| of.rows.iter().map(|r| r.0).collect::<Vec<_>>();
        let widths = |of: &Direction| of.rows.iter().map(|r| r.1.len()).collect::<Vec<_>>();
        let same = single || places(frame) == places(&direction);
        if !same || widths(frame) != widths(&direction) {
            return Err(Error::argument(
                "combine",
                format!("{name}, measured at {}", direction.places()),
                format!(
                    "directions of the same width measured where the first one was, at {}",
                    frame.places()
                ),
            ));
        }
        for (total, (_, vector)) in totals.iter_mut().zip(&direction.rows) {
            total
                .iter_mut()
                .zip(vector)
                .for_each(|(t, v)| *t += factor * f64::from(*v));
        }
        let DirectionOrigin {
            cautions: own,
            method,
            ..
        } = &direction.origin;
        cautions.extend(own.iter().map(|c| format!("{name}: {c}")));
        notes.push(format!("{name}: {method} at {}", direction.places()));
    }
    let Some((frame, totals)) = sum else {
        return Err(Error::argument("combine", text, "at least one direction"));
    };
    let length = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let sizes = frame
        .rows
        .iter()
        .map(|(_, v)| f64::from(crate::edit::direction::norm(v)));
    let least = sizes.fold(0.0, f64::max) * 1e-6;
    if totals.iter().all(|total| length(total) <= least) {
        return Err(Error::argument(
            "combine",
            text,
            "directions that do not cancel out: this sum is zero",
        ));
    }
    let rows = frame.rows.iter().zip(totals);
    Ok(Direction {
        rows: rows
            .map(|((at, _), total)| (*at, total.into_iter().map(|v| v as f32).collect()))
            .collect(),
        origin: DirectionOrigin {
            method: format!("sum: {text}"),
            positions: frame.origin.positions.clone(),
            prompts: frame.origin.prompts,
            dtype: frame.origin.dtype.clone(),
            anywhere: frame.origin.anywhere,
            cautions,
            notes,
            ..DirectionOrigin::of(&lab.model.card)
        },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_read_as_written() {
        let terms = parse("a-b.safetensors + 2*c - 0.5*dir/d").unwrap();
        let expected = [(1.0, "a-b.safetensors"), (2.0, "c"), (-0.5, "dir/d")];
        assert_eq!(terms, expected.map(|(f, n)| (f, n.to_string())));
        assert_eq!(parse("- a").unwrap(), [(-1.0, "a".to_string())]);
        assert_eq!(parse("x*y").unwrap(), [(1.0, "x*y".to_string())]);
        for text in ["", "a +", "a b", "+ + a", "a + - b", "2*"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
