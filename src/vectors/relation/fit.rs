//! The map of a relation: the mean of the Jacobians of a few subjects, and the choice of its layer and its scale.
//!
//! `W = mean J_i`, `b = mean (o_i − J_i s_i)` and `LRE(s) = β W s + b` (Hernandez et al. 2024, section 3), beside the maps that it
//! has to beat. Invariant: choices are made on the training subjects alone, each judged by the map of the others (leave one
//! out); sums are in f64. To compare with another map, add a variant of [`RelationMethod`].

use candle_core::Tensor;

use super::jacobian::jacobian;
use super::states::{SubjectStates, rows};
use crate::edit::relation_map::{RelationPair, RelationPrompts};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::readout::{RowRequest, Tokens};
use crate::model::host::ToHost;
use crate::model::network::finite::order;
use crate::vectors::proportion::Proportion;

/// The scales that are tried; the paper takes 2.25 for GPT-2 XL and GPT-J, and 8 for LLaMA.
pub const BETAS: [f64; 12] = [0.5, 1.0, 1.5, 2.0, 2.25, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];

/// The penalty of the fitted map, relative to the mean square of the subjects' states about their mean.
const RIDGE: f64 = 0.01;

/// The memory limit in bytes for the matrices of all layers.
const BYTES: usize = 2 << 30;

/// A way from the subject's state to the object's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationMethod {
    /// `β W s + b`.
    Lre,
    /// `s` (logit lens).
    Lens,
    /// `s + mean(o − s)`.
    Translation,
    /// A linear map fitted to the pairs of states, by ridge regression about their means.
    Fitted,
    /// `b`, whatever the subject.
    Bias,
}

impl RelationMethod {
    pub const ALL: [Self; 5] = [
        Self::Lre,
        Self::Lens,
        Self::Translation,
        Self::Fitted,
        Self::Bias,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Lre => "LRE",
            Self::Lens => "logit lens on s",
            Self::Translation => "translation",
            Self::Fitted => "fitted linear",
            Self::Bias => "b alone",
        }
    }
}

/// What a state says when it is read through the final norm and the unembedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ObjectReading {
    /// The top prediction and its probability.
    pub says: (u32, f32),
    /// Whether that is what the model says.
    pub agrees: bool,
    /// The natural log-probability of what the model says.
    pub logprob: f32,
}

/// How well a map does on some subjects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FitScore {
    /// How often it says what the model says.
    pub agree: Proportion,
    /// The mean natural log-probability of what the model says.
    pub logprob: f64,
}

impl FitScore {
    pub fn of(readings: &[ObjectReading]) -> Self {
        let sum: f64 = readings.iter().map(|r| f64::from(r.logprob)).sum();
        Self {
            agree: Proportion::count(readings.iter().map(|r| r.agrees)),
            logprob: sum / readings.len() as f64,
        }
    }

    /// Which of two is better: more agreement, then a higher log-probability.
    pub fn better(&self, other: &Self) -> std::cmp::Ordering {
        let hits = self.agree.hits.cmp(&other.agree.hits);
        hits.then(order(self.logprob as f32, other.logprob as f32))
    }
}

/// Where the first of the best of some things stands.
pub fn best<T>(of: &[T], better: impl Fn(&T, &T) -> std::cmp::Ordering) -> Option<usize> {
    let mut best: Option<usize> = None;
    for i in 0..of.len() {
        if best.is_none_or(|held| better(&of[i], &of[held]).is_gt()) {
            best = Some(i);
        }
    }
    best
}

/// Maps of every asked layer, made from training subjects.
pub struct RelationFit {
    /// The blocks after which the subject's state is read.
    pub layers: Vec<usize>,
    pub training: Vec<SubjectStates>,
    /// `W` by layer, `[d_model, d_model]`, row after row.
    pub weights: Vec<Vec<f32>>,
    /// `b` by layer, `[d_model]`.
    pub biases: Vec<Vec<f32>>,
    /// `J_j s_i` by layer, `j` and `i`.
    products: Vec<Vec<Vec<Vec<f32>>>>,
    /// `o_j − J_j s_j` by layer and `j`.
    offsets: Vec<Vec<Vec<f32>>>,
}

impl RelationFit {
    /// Makes the maps from training pairs; `prompts` says how they are asked about.
    ///
    /// # Errors
    ///
    /// When there are no pairs, the matrices of so many layers do not fit into memory, or the work is stopped.
    pub fn measure(
        lab: &mut Lab,
        prompts: &RelationPrompts,
        pairs: &[RelationPair],
        layers: &[usize],
    ) -> Result<Self> {
        let d = lab.model.card.d_model;
        if layers.len() * d * d * 12 > BYTES {
            let expected = format!(
                "fewer layers: matrices of {d} x {d} numbers for {} of them take {} GB",
                layers.len(),
                (layers.len() * d * d * 12) >> 30
            );
            return Err(Error::argument("layer", layers.len(), expected));
        }
        let states = pairs
            .iter()
            .map(|pair| SubjectStates::measure(lab, prompts, pair, layers));
        let training: Vec<SubjectStates> = states.collect::<Result<_>>()?;
        let count = training.len();
        if count == 0 {
            return Err(Error::argument("examples", 0, "at least one"));
        }
        let mut sums = vec![vec![0f64; d * d]; layers.len()];
        let mut products = vec![Vec::with_capacity(count); layers.len()];
        let mut offsets = vec![Vec::with_capacity(count); layers.len()];
        for (j, own) in training.iter().enumerate() {
            let share = j as f32 / count as f32..(j + 1) as f32 / count as f32;
            let found = lab.part(share, |lab| jacobian(lab, &own.tokens, own.at, layers))?;
            for (layer, matrix) in found.iter().enumerate() {
                for (sum, x) in sums[layer].iter_mut().zip(matrix) {
                    *sum += f64::from(*x);
                }
                let images = training
                    .iter()
                    .map(|other| times(matrix, &other.states[layer]));
                let images: Vec<Vec<f64>> = images.collect();
                let offset = own.object.iter().zip(&images[j]);
                let offset = offset.map(|(o, x)| (f64::from(*o) - x) as f32);
                offsets[layer].push(offset.collect::<Vec<f32>>());
                products[layer].push(images.iter().map(|x| narrow(x)).collect::<Vec<_>>());
            }
        }
        let weights = sums.iter().map(|sum| {
            let mean = sum.iter().map(|x| (x / count as f64) as f32);
            mean.collect()
        });
        let biases = offsets.iter().map(|all: &Vec<Vec<f32>>| mean(all.iter()));
        Ok(Self {
            layers: layers.to_vec(),
            weights: weights.collect(),
            biases: biases.collect(),
            training,
            products,
            offsets,
        })
    }

    /// The objects' states that a method gives the subjects of training, each by what was made of the others; with one subject,
    /// by what was made of itself.
    pub fn left_out(&self, method: RelationMethod, layer: usize, beta: f64) -> Vec<Vec<f32>> {
        let count = self.training.len();
        let one = |i: usize| {
            let others = move || (0..count).filter(move |j| *j != i || count == 1);
            let state = &self.training[i].states[layer];
            match method {
                RelationMethod::Lre => {
                    let image = mean(others().map(|j| &self.products[layer][j][i]));
                    scaled_sum(
                        beta,
                        &image,
                        &mean(others().map(|j| &self.offsets[layer][j])),
                    )
                }
                RelationMethod::Bias => mean(others().map(|j| &self.offsets[layer][j])),
                RelationMethod::Lens | RelationMethod::Translation | RelationMethod::Fitted => {
                    let used: Vec<usize> = others().collect();
                    self.baseline(method, layer, &used, state)
                }
            }
        };
        (0..count).map(one).collect()
    }

    /// The objects' states that a method gives these subjects.
    ///
    /// # Errors
    ///
    /// When the product cannot be computed.
    pub fn objects(
        &self,
        lab: &Lab,
        method: RelationMethod,
        layer: usize,
        beta: f64,
        subjects: &[&[f32]],
    ) -> Result<Vec<Vec<f32>>> {
        let all: Vec<usize> = (0..self.training.len()).collect();
        match method {
            RelationMethod::Lre => {
                let states = rows(lab, subjects.iter().copied())?;
                let d = lab.model.card.d_model;
                let device = &lab.model.transformer.device;
                let weight = Tensor::from_slice(&self.weights[layer], (d, d), device)?;
                let bias = Tensor::from_slice(&self.biases[layer], (1, d), device)?;
                let out = (states.matmul(&weight.t()?)? * beta)?.broadcast_add(&bias)?;
                Ok(out.host_vec2()?)
            }
            RelationMethod::Bias => Ok(vec![self.biases[layer].clone(); subjects.len()]),
            RelationMethod::Lens | RelationMethod::Translation | RelationMethod::Fitted => {
                let own = subjects.iter();
                let own = own.map(|s| self.baseline(method, layer, &all, s));
                Ok(own.collect())
            }
        }
    }

    /// What a map made of pairs of states alone gives a subject.
    fn baseline(
        &self,
        method: RelationMethod,
        layer: usize,
        used: &[usize],
        state: &[f32],
    ) -> Vec<f32> {
        let states = || used.iter().map(|j| &self.training[*j].states[layer]);
        let objects = || used.iter().map(|j| &self.training[*j].object);
        match method {
            RelationMethod::Translation => {
                let (from, to) = (mean(states()), mean(objects()));
                let moved = state.iter().zip(from.iter().zip(&to));
                moved.map(|(s, (a, b))| s + b - a).collect()
            }
            RelationMethod::Fitted => {
                let from: Vec<&[f32]> = states().map(Vec::as_slice).collect();
                let to: Vec<&[f32]> = objects().map(Vec::as_slice).collect();
                ridge(&from, &to, state)
            }
            RelationMethod::Lre | RelationMethod::Bias | RelationMethod::Lens => state.to_vec(),
        }
    }

    /// How a method does on the subjects of training, each left out: by layer and scale. Where a method has no scale, one is tried.
    ///
    /// # Errors
    ///
    /// When numbers are not finite, or the work is stopped.
    pub fn scores(
        &self,
        lab: &mut Lab,
        method: RelationMethod,
        betas: &[f64],
    ) -> Result<Vec<Vec<FitScore>>> {
        let betas = match method {
            RelationMethod::Lre => betas,
            RelationMethod::Bias
            | RelationMethod::Lens
            | RelationMethod::Translation
            | RelationMethod::Fitted => &betas[..1],
        };
        let expected: Vec<u32> = self.training.iter().map(|own| own.says.0).collect();
        let mut out = Vec::with_capacity(self.layers.len());
        for layer in 0..self.layers.len() {
            let each = betas.iter().map(|beta| self.left_out(method, layer, *beta));
            let objects: Vec<Vec<f32>> = each.flatten().collect();
            let expected: Vec<u32> = expected.repeat(betas.len());
            let read = read_objects(lab, &objects, &expected)?;
            let scores = read.chunks(self.training.len()).map(FitScore::of);
            out.push(scores.collect());
        }
        Ok(out)
    }
}

/// Reads objects' states, `[d_model]` each, through the final norm and the unembedding; `expected` is what the model says.
///
/// # Errors
///
/// When numbers are not finite, or the work is stopped.
pub fn read_objects(
    lab: &mut Lab,
    objects: &[Vec<f32>],
    expected: &[u32],
) -> Result<Vec<ObjectReading>> {
    if objects.is_empty() {
        return Ok(Vec::new());
    }
    let rows = rows(lab, objects.iter().map(Vec::as_slice))?;
    let ask = RowRequest {
        top: 1,
        tokens: Tokens::Each(expected),
        ..RowRequest::default()
    };
    let read = lab.without_progress(|lab| lab.read(&rows, &ask))?;
    let reading = read
        .iter()
        .zip(expected)
        .map(|(stats, expected)| ObjectReading {
            says: stats.first(),
            agrees: stats.first().0 == *expected,
            logprob: stats.token(*expected).logprob,
        });
    Ok(reading.collect())
}

/// `M x` in f64.
fn times(matrix: &[f32], x: &[f32]) -> Vec<f64> {
    let rows = matrix.chunks(x.len().max(1));
    let product = |row: &[f32]| {
        let pairs = row.iter().zip(x);
        pairs.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
    };
    rows.map(product).collect()
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|x| *x as f32).collect()
}

/// The mean of vectors, summed in f64.
fn mean<'a>(vectors: impl Iterator<Item = &'a Vec<f32>>) -> Vec<f32> {
    let mut sums: Vec<f64> = Vec::new();
    let mut count = 0usize;
    for vector in vectors {
        sums.resize(vector.len(), 0.0);
        let pairs = sums.iter_mut().zip(vector);
        pairs.for_each(|(sum, x)| *sum += f64::from(*x));
        count += 1;
    }
    sums.iter()
        .map(|x| (x / count.max(1) as f64) as f32)
        .collect()
}

/// `β x + b`.
fn scaled_sum(beta: f64, x: &[f32], b: &[f32]) -> Vec<f32> {
    let pairs = x.iter().zip(b);
    pairs
        .map(|(x, b)| (beta * f64::from(*x) + f64::from(*b)) as f32)
        .collect()
}

/// What ridge regression of `to` on `from` about their means predicts for a vector, in its dual form, which needs a matrix no
/// larger than the number of pairs.
fn ridge(from: &[&[f32]], to: &[&[f32]], x: &[f32]) -> Vec<f32> {
    let centre = |rows: &[&[f32]]| -> Vec<f64> {
        let width = rows.first().map_or(0, |row| row.len());
        let sum = |i: usize| rows.iter().map(|row| f64::from(row[i])).sum::<f64>();
        (0..width).map(|i| sum(i) / rows.len() as f64).collect()
    };
    let (middle, target) = (centre(from), centre(to));
    let part = |row: &[f32]| -> Vec<f64> {
        let pairs = row.iter().zip(&middle);
        pairs.map(|(x, m)| f64::from(*x) - m).collect()
    };
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let rows: Vec<Vec<f64>> = from.iter().map(|row| part(row)).collect();
    let own = part(x);
    let n = rows.len();
    let trace: f64 = rows.iter().map(|row| dot(row, row)).sum();
    let penalty = RIDGE * trace / n.max(1) as f64;
    let mut system: Vec<Vec<f64>> = (0..n)
        .map(|i| {
            let mut row: Vec<f64> = (0..n).map(|j| dot(&rows[i], &rows[j])).collect();
            row[i] += penalty;
            row.push(dot(&rows[i], &own));
            row
        })
        .collect();
    let shares = solve(&mut system);
    let width = target.len();
    let predict = |i: usize| {
        let parts = shares.iter().zip(to);
        let moved: f64 = parts
            .map(|(a, row)| a * (f64::from(row[i]) - target[i]))
            .sum();
        (target[i] + moved) as f32
    };
    (0..width).map(predict).collect()
}

/// Solves equations whose last column is the right-hand side, by elimination; zeros where they do not determine anything.
fn solve(system: &mut [Vec<f64>]) -> Vec<f64> {
    let n = system.len();
    for i in 0..n {
        let largest = (i..n).max_by(|a, b| system[*a][i].abs().total_cmp(&system[*b][i].abs()));
        system.swap(i, largest.unwrap_or(i));
        let pivot = system[i][i];
        if pivot.abs() < f64::MIN_POSITIVE {
            continue;
        }
        let row = system[i].clone();
        for (j, other) in system.iter_mut().enumerate() {
            if j != i {
                let factor = other[i] / pivot;
                let pairs = other.iter_mut().zip(&row).skip(i);
                pairs.for_each(|(x, y)| *x -= factor * y);
            }
        }
    }
    (0..n)
        .map(|i| match system[i][i] {
            pivot if pivot.abs() < f64::MIN_POSITIVE => 0.0,
            pivot => system[i][n] / pivot,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fitted_map_finds_a_linear_relation_among_enough_pairs() {
        // y = 2x + 1 in each of three coordinates, and a little shrinkage.
        let from: Vec<Vec<f32>> = (0..6)
            .map(|i| vec![i as f32, (i * i) as f32, ((i * 3) % 5) as f32])
            .collect();
        let to: Vec<Vec<f32>> = from
            .iter()
            .map(|x| x.iter().map(|x| 2.0 * x + 1.0).collect())
            .collect();
        let a: Vec<&[f32]> = from.iter().map(Vec::as_slice).collect();
        let b: Vec<&[f32]> = to.iter().map(Vec::as_slice).collect();
        let found = ridge(&a, &b, &[3.0, 9.0, 4.0]);
        for (x, y) in found.iter().zip([7.0, 19.0, 9.0]) {
            assert!((x - y).abs() < 0.8, "{found:?}");
        }
        // About the mean it is exact, however few pairs there are.
        let found = ridge(&a[..1], &b[..1], &[5.0, 5.0, 5.0]);
        assert_eq!(found, b[0]);
    }

    #[test]
    fn the_first_of_the_best_is_chosen() {
        let score = |hits, logprob| FitScore {
            agree: Proportion { hits, of: 8 },
            logprob,
        };
        let all = [
            score(6, -0.5),
            score(7, -0.9),
            score(7, -0.2),
            score(7, -0.2),
        ];
        assert_eq!(best(&all, FitScore::better), Some(2));
        assert_eq!(best(&all[..0], FitScore::better), None);
    }
}
