//! Contrasts: directions from two lists of prompts, by several published methods.
//!
//! Invariant: sums and means are in f64, and every method uses the same measured activations, so that two directions differ
//! only by their method. To add a method, add a variant of [`Method`] and its arm in [`Contrast::direction`].

use std::fmt;
use std::str::FromStr;

use candle_core::DType;

use super::contrast_prompt::{ContrastPositions, ContrastPrompt, count_in_both, vectors};
use super::labels::{FEWEST, auroc, exchange};
use crate::edit::direction::controls::DirectionRows;
use crate::edit::direction::{Direction, DirectionOrigin, norm};
use crate::edit::positions::Positions;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::draws::{DRAWS, draw_seed};
use crate::model::Model;
use crate::model::network::site::{Address, Site};
use crate::text;

/// How a direction is computed from two sets of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `mean(plus) − mean(minus)` (Arditi et al. 2024, 2406.11717), not normalised.
    Mean,
    /// First principal component of both sides, each pair centred on its own midpoint (repeng `pca_center`); unit norm.
    Pca,
    /// First principal component of the centred differences of pairs (repeng `pca_diff`): the axis along which differences
    /// vary, not their mean; unit norm.
    PcaDiff,
    /// Mean difference of pairs plus the first principal component over all layers at once (Liu et al. 2023, 2311.06668, as in
    /// its code): measured on the stream, applied to the MLP output by `icv`.
    Icv,
    /// `mean(plus) − mean(minus)` of `resid_post` at the answer letters of pairs of multiple-choice prompts (CAA, Panickssery
    /// et al. 2023, 2312.06681), not normalised.
    Caa,
}

/// Names and descriptions of the methods.
const METHODS: [(&str, Method, &str); 5] = [
    ("mean", Method::Mean, "difference of means"),
    (
        "pca",
        Method::Pca,
        "PCA of pairs, each centred on its midpoint (repeng pca_center)",
    ),
    (
        "pca-diff",
        Method::PcaDiff,
        "PCA of centred differences (repeng pca_diff)",
    ),
    (
        "icv",
        Method::Icv,
        "in-context vector (mean difference plus first component over all layers)",
    ),
    (
        "caa",
        Method::Caa,
        "CAA: difference of means at the answer letters (Panickssery et al. 2023)",
    ),
];

impl Method {
    /// The names of all methods, for flags.
    pub fn names() -> [&'static str; 5] {
        METHODS.map(|(name, ..)| name)
    }

    /// The site at which the method measures by default.
    pub fn site(self) -> Site {
        match self {
            Self::Icv | Self::Caa => Site::ResidPost,
            Self::Mean | Self::Pca | Self::PcaDiff => Site::ResidPre,
        }
    }

    /// Whether the method needs prompts in pairs.
    pub fn paired(self) -> bool {
        self != Self::Mean
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = METHODS.iter().find(|(_, method, _)| method == self);
        f.write_str(row.map_or("", |row| row.2))
    }
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let row = METHODS.iter().find(|(name, ..)| *name == s);
        row.map(|row| row.1)
            .ok_or_else(|| Error::argument("method", s, Self::names().join(", ")))
    }
}

/// Where and how activations are measured.
#[derive(Clone, Debug, PartialEq)]
pub struct ContrastRequest {
    /// The site, measured at each of the layers.
    pub site: Site,
    pub layers: Vec<usize>,
    /// The positions of a prompt whose activations are averaged.
    pub positions: Positions,
    /// Whether prompts are encoded by the chat template.
    pub chat: bool,
}

impl ContrastRequest {
    /// `resid_pre` of one layer at the last prompt token, as in the refusal papers.
    pub fn last(layer: usize, chat: bool) -> Self {
        Self {
            site: Site::ResidPre,
            layers: vec![layer],
            positions: Positions::Last,
            chat,
        }
    }
}

/// The activations of one side: `[layer][prompt][width]`.
type SideVectors = Vec<Vec<Vec<f64>>>;

/// The activations of two lists of prompts.
pub struct Contrast {
    site: Site,
    layers: Vec<usize>,
    /// The positions that were averaged, for users.
    averaged: String,
    /// How many prompts occur on both sides.
    shared: usize,
    plus: SideVectors,
    minus: SideVectors,
}

impl Contrast {
    /// Measures both lists, with one pass for each prompt.
    pub fn measure(
        lab: &mut Lab,
        plus: &[String],
        minus: &[String],
        measure: ContrastRequest,
    ) -> Result<Self> {
        let side = |prompts: &[String]| -> Result<Vec<ContrastPrompt>> {
            let prompt = |text: &String| {
                let tokens = lab.model.encode(text, measure.chat)?;
                ContrastPrompt::by_rule(lab, tokens, &measure.positions)
            };
            prompts.iter().map(prompt).collect()
        };
        let (plus, minus) = (side(plus)?, side(minus)?);
        Self::of(
            lab,
            (&plus, &minus),
            (measure.site, measure.layers),
            &ContrastPositions::Rule(measure.positions),
        )
    }

    /// Measures prompts at the layers of a site; `positions`: what their positions are.
    ///
    /// # Errors
    ///
    /// When a side is empty, both are equal, or the model does not have the site.
    pub fn of(
        lab: &mut Lab,
        (plus, minus): (&[ContrastPrompt], &[ContrastPrompt]),
        (site, layers): (Site, Vec<usize>),
        positions: &ContrastPositions,
    ) -> Result<Self> {
        if plus.is_empty() || minus.is_empty() {
            return Err(Error::argument(
                "prompts",
                format!("{} and {}", plus.len(), minus.len()),
                "at least one prompt on each side",
            ));
        }
        let shared = count_in_both(plus, minus);
        if shared == plus.len() && shared == minus.len() {
            return Err(Error::argument(
                "prompts",
                format!("{} and {}, the same on both sides", plus.len(), minus.len()),
                "two lists that differ: equal lists have no direction between them",
            ));
        }
        let wanted: Vec<Address> = layers.iter().map(|l| site.at(*l)).collect();
        wanted.iter().try_for_each(|a| lab.model.offers(*a))?;
        let total = (plus.len() + minus.len()) as f32;
        let mut done = 0.0;
        let mut side = |lab: &mut Lab, prompts: &[ContrastPrompt]| -> Result<SideVectors> {
            let mut out = vec![Vec::with_capacity(prompts.len()); wanted.len()];
            for prompt in prompts {
                done += 1.0;
                lab.report(done / total)?;
                let rows = vectors(lab, prompt, &wanted)?;
                out.iter_mut().zip(rows).for_each(|(o, row)| o.push(row));
            }
            Ok(out)
        };
        Ok(Self {
            plus: side(lab, plus)?,
            minus: side(lab, minus)?,
            site,
            layers,
            averaged: positions.to_string(),
            shared,
        })
    }

    /// The direction by a method. Methods that need pairs require lists of equal length.
    pub fn direction(&self, method: Method, lab: &Lab) -> Result<Direction> {
        let (a, b) = (self.plus[0].len(), self.minus[0].len());
        if method.paired() && a != b {
            return Err(Error::argument(
                "prompts",
                format!("{a} and {b}"),
                "lists of equal length, because this method pairs the prompts",
            ));
        }
        let vectors = self.vectors(method);
        let site = if method == Method::Icv {
            Site::MlpOut
        } else {
            self.site
        };
        let dtype = lab.model.transformer.dtype();
        let wide = matches!(dtype, DType::F32 | DType::F64);
        let noise = if wide { 1e-6 } else { 1e-3 };
        let mut notes = Vec::new();
        if self.shared > 0 {
            notes.push(format!(
                "{} of the prompts are in both lists, and do not help to tell the lists apart",
                self.shared
            ));
        }
        let (mut rows, mut nothing) = (Vec::new(), Vec::new());
        for (i, (layer, vector)) in self.layers.iter().zip(vectors).enumerate() {
            let at = site.at(*layer);
            let long = dot(&vector, &vector).sqrt();
            if self.differs(i, method, noise) && long > 0.0 {
                rows.push((at, vector.iter().map(|x| *x as f32).collect()));
            } else {
                nothing.push(at.to_string());
            }
        }
        let nothing = nothing.join(", ");
        if rows.is_empty() {
            return Err(Error::argument(
                "prompts",
                format!("{a} and {b}, alike at {nothing}"),
                "prompts whose states differ there by more than rounding: a direction between these is zero. Measure at another layer or position, or choose other prompts",
            ));
        }
        if !nothing.is_empty() {
            notes.push(format!(
                "left out because both lists are equal there: {nothing}"
            ));
        }
        Ok(Direction {
            rows,
            origin: DirectionOrigin {
                method: method.to_string(),
                positions: self.averaged.clone(),
                prompts: (a, b),
                notes,
                ..DirectionOrigin::of(&lab.model.card)
            },
        })
    }

    /// The vectors of a method, one for each layer.
    pub(super) fn vectors(&self, method: Method) -> Vec<Vec<f64>> {
        let layers = self.plus.iter().zip(&self.minus);
        match method {
            Method::Mean | Method::Caa => layers
                .map(|(plus, minus)| difference(&mean(plus), &mean(minus)))
                .collect(),
            Method::Pca => layers
                .map(|(plus, minus)| {
                    let rows = plus.iter().zip(minus).flat_map(|(p, m)| {
                        let half = scaled(&difference(p, m), 0.5);
                        [half.clone(), scaled(&half, -1.0)]
                    });
                    signed(
                        first_component(&rows.collect::<Vec<_>>(), false),
                        plus,
                        minus,
                    )
                })
                .collect(),
            Method::PcaDiff => layers
                .map(|(plus, minus)| {
                    let rows = differences(plus, minus);
                    signed(first_component(&rows, true), plus, minus)
                })
                .collect(),
            Method::Icv => self.in_context(),
        }
    }

    /// Where the prompts were measured.
    pub fn places(&self) -> Vec<Address> {
        let layers = self.layers.iter();
        layers.map(|layer| self.site.at(*layer)).collect()
    }

    /// How many prompts each list has.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.plus[0].len(), self.minus[0].len())
    }

    /// The same with every second prompt of both lists, from the first or the second on.
    pub(super) fn half(&self, half: usize) -> Self {
        self.with(|rows| rows.iter().skip(half).step_by(2).cloned().collect())
    }

    /// The same with shuffled labels, alike at all layers.
    pub(super) fn shuffled(&self, method: Method, seed: u64) -> Self {
        let layers = self.plus.iter().zip(&self.minus);
        let exchanged = layers.map(|(plus, minus)| exchange(plus, minus, method.paired(), seed));
        let (plus, minus) = exchanged.unzip();
        Self {
            plus,
            minus,
            ..self.without_vectors()
        }
    }

    /// The vectors of every draw with shuffled labels, at the lengths of a direction's rows; nothing where a list is too short to tell
    /// its direction from that of one prompt.
    pub fn shuffled_rows(
        &self,
        method: Method,
        direction: &Direction,
        seed: u64,
    ) -> Vec<DirectionRows> {
        let (plus, minus) = self.counts();
        if plus.min(minus) < FEWEST {
            return Vec::new();
        }
        let draws = (0..DRAWS).map(|draw| {
            let vectors = self.shuffled(method, draw_seed(seed, draw)).vectors(method);
            let layers = self.layers.iter().zip(vectors);
            let row = |(layer, vector): (&usize, Vec<f64>)| {
                let own = direction
                    .rows
                    .iter()
                    .find(|(at, _)| usize::from(at.layer) == *layer);
                let (at, own) = own?;
                let length = dot(&vector, &vector).sqrt();
                let factor = f64::from(norm(own)) / length.max(f64::MIN_POSITIVE);
                let vector = vector.iter().map(|x| (x * factor) as f32).collect();
                (length > 0.0).then_some((*at, vector))
            };
            layers.filter_map(row).collect()
        });
        draws.collect()
    }

    /// What was measured where, without the activations.
    fn without_vectors(&self) -> Self {
        Self {
            site: self.site,
            layers: self.layers.clone(),
            averaged: self.averaged.clone(),
            shared: self.shared,
            plus: SideVectors::new(),
            minus: SideVectors::new(),
        }
    }

    fn with(&self, choose: impl Fn(&Vec<Vec<f64>>) -> Vec<Vec<f64>>) -> Self {
        Self {
            plus: self.plus.iter().map(&choose).collect(),
            minus: self.minus.iter().map(&choose).collect(),
            ..self.without_vectors()
        }
    }

    /// How well a vector tells the lists apart at a layer.
    pub(super) fn auroc(&self, layer: usize, along: &[f64]) -> f64 {
        let places =
            |rows: &[Vec<f64>]| -> Vec<f64> { rows.iter().map(|r| dot(r, along)).collect() };
        auroc(&places(&self.plus[layer]), &places(&self.minus[layer]))
    }

    /// Whether the sides differ at a layer, in the quantity that the method uses, by more than the share `noise` of its norm: a
    /// difference that is only rounding would give a meaningless direction.
    fn differs(&self, layer: usize, method: Method, noise: f64) -> bool {
        let (plus, minus) = (&self.plus[layer], &self.minus[layer]);
        let size = |rows: &[Vec<f64>]| rows.iter().map(|r| dot(r, r).sqrt()).fold(0.0, f64::max);
        let apart = match method {
            Method::Mean | Method::Caa => size(&[difference(&mean(plus), &mean(minus))]),
            Method::Pca | Method::Icv => size(&differences(plus, minus)),
            // Centred: if all differences are equal, there is no component.
            Method::PcaDiff => {
                let rows = differences(plus, minus);
                let middle = mean(&rows);
                let rows: Vec<Vec<f64>> = rows.iter().map(|r| difference(r, &middle)).collect();
                size(&rows)
            }
        };
        apart > noise * size(plus).max(size(minus))
    }

    /// Mean of the differences plus their first principal component, over all layers concatenated.
    fn in_context(&self) -> Vec<Vec<f64>> {
        let pairs = self.plus[0].len();
        let rows: Vec<Vec<f64>> = (0..pairs)
            .map(|i| {
                let layers = self.plus.iter().zip(&self.minus);
                layers.flat_map(|(p, m)| difference(&p[i], &m[i])).collect()
            })
            .collect();
        let (mean, component) = (mean(&rows), first_component(&rows, true));
        let sum: Vec<f64> = mean.iter().zip(&component).map(|(m, c)| m + c).collect();
        let width = sum.len() / self.layers.len();
        sum.chunks_exact(width).map(<[f64]>::to_vec).collect()
    }
}

/// Checks pairs of texts for [`Method::Caa`]: `positions` must cover a single token of a text, the answer's letter as in `(A`,
/// and it must differ between the two sides.
pub fn check_letters(
    model: &Model,
    plus: &[String],
    minus: &[String],
    positions: &Positions,
) -> Result<()> {
    let letter = |text: &String| -> Result<Vec<u32>> {
        let tokens = model.encode(text, false)?;
        let covered = positions.in_prompt(&model.pieces(&tokens))?;
        Ok(covered.into_iter().map(|p| tokens[p]).collect())
    };
    for (number, (plus, minus)) in plus.iter().zip(minus).enumerate() {
        let (a, b) = (letter(plus)?, letter(minus)?);
        if a.len() != 1 || a == b {
            let shown: Vec<String> = a.iter().map(|t| text::visible(&model.bytes(*t))).collect();
            return Err(Error::argument(
                "positions",
                positions,
                format!(
                    "one token that is the answer's letter; in pair {} it is `{}` on both sides. End the texts in the letter, or count from the end: -2 for texts that end in `(A)`",
                    number + 1,
                    shown.join("")
                ),
            ));
        }
    }
    Ok(())
}

fn mean(rows: &[Vec<f64>]) -> Vec<f64> {
    let mut sum = vec![0f64; rows[0].len()];
    for row in rows {
        sum.iter_mut().zip(row).for_each(|(s, v)| *s += v);
    }
    scaled(&sum, 1.0 / rows.len() as f64)
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn differences(plus: &[Vec<f64>], minus: &[Vec<f64>]) -> Vec<Vec<f64>> {
    plus.iter()
        .zip(minus)
        .map(|(p, m)| difference(p, m))
        .collect()
}

fn scaled(v: &[f64], factor: f64) -> Vec<f64> {
    v.iter().map(|x| x * factor).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The unit vector along which the rows vary most, computed from the small matrix of their dot products; the zero vector if
/// they do not vary. Its sign is arbitrary.
fn first_component(rows: &[Vec<f64>], centre: bool) -> Vec<f64> {
    let middle = mean(rows);
    let rows: Vec<Vec<f64>> = rows
        .iter()
        .map(|r| {
            if centre {
                difference(r, &middle)
            } else {
                r.clone()
            }
        })
        .collect();
    let products: Vec<Vec<f64>> = rows
        .iter()
        .map(|a| rows.iter().map(|b| dot(a, b)).collect())
        .collect();
    let weights = leading_eigenvector(&products);
    let mut out = vec![0f64; rows[0].len()];
    for (row, weight) in rows.iter().zip(weights) {
        out.iter_mut().zip(row).for_each(|(o, v)| *o += weight * v);
    }
    let length = dot(&out, &out).sqrt();
    if length == 0.0 {
        return out;
    }
    scaled(&out, 1.0 / length)
}

/// The eigenvector of the largest eigenvalue of a symmetric matrix, by repeated squaring: each step doubles the exponent of the
/// power iteration, so a gap of a thousandth is resolved in twenty steps. Written by hand because faer, for this and the
/// Cholesky factor of Patchscope maps, costs eighteen crates and three minutes of a clean build for thirty lines.
fn leading_eigenvector(matrix: &[Vec<f64>]) -> Vec<f64> {
    let size = matrix.len();
    let mut power = matrix.to_vec();
    for _ in 0..40 {
        let trace: f64 = (0..size).map(|i| power[i][i]).sum();
        if trace <= 0.0 {
            return vec![0.0; size];
        }
        // The matrix is symmetric, so dot products of its rows give its square.
        let scaled: Vec<Vec<f64>> = power
            .iter()
            .map(|row| crate::vectors::contrast::scaled(row, 1.0 / trace))
            .collect();
        power = scaled
            .iter()
            .map(|a| scaled.iter().map(|b| dot(a, b)).collect())
            .collect();
    }
    // Every column is now parallel to the eigenvector; the longest is the most exact.
    let column = (0..size).max_by(|a, b| power[*a][*a].total_cmp(&power[*b][*b]));
    column.map_or_else(Vec::new, |c| power[c].clone())
}

/// Chooses the sign of a component so that for most pairs the plus side has the larger projection.
fn signed(component: Vec<f64>, plus: &[Vec<f64>], minus: &[Vec<f64>]) -> Vec<f64> {
    let agree = plus
        .iter()
        .zip(minus)
        .filter(|(p, m)| dot(p, &component) > dot(m, &component))
        .count();
    if 2 * agree < plus.len() {
        scaled(&component, -1.0)
    } else {
        component
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_component_is_the_axis_of_variation() {
        // Rows along (3, 4)/5 with lengths −2, 1 and 3, and a little across it.
        let rows = [(-2.0, 0.01), (1.0, -0.02), (3.0, 0.01)].map(|(along, across)| {
            vec![
                1.0 + 0.6 * along - 0.8 * across,
                2.0 + 0.8 * along + 0.6 * across,
            ]
        });
        let component = first_component(&rows, true);
        assert!((component[0].abs() - 0.6).abs() < 1e-3, "{component:?}");
        assert!((component[1].abs() - 0.8).abs() < 1e-3);
        assert_eq!(
            first_component(&[vec![1.0, 2.0], vec![1.0, 2.0]], true),
            [0.0, 0.0]
        );
    }

    #[test]
    fn the_sign_follows_most_pairs() {
        let plus = [vec![1.0], vec![2.0], vec![-1.0]];
        let minus = [vec![0.0], vec![0.0], vec![0.0]];
        assert_eq!(signed(vec![-1.0], &plus, &minus), [1.0]);
        assert_eq!(signed(vec![1.0], &plus, &minus), [1.0]);
    }
}
