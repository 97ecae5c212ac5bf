//! Linear probes: from activations with labels to a direction and a bias; of more than two classes, one for each against all others.
//!
//! *Mass-mean*: `w = μ₊ − μ₋`, with the bias that puts the border half way between the means (Marks & Tegmark 2023, section 5.1). *Logistic*:
//! the `w` and `b` that minimise the mean of `ln(1 + e^(−y (w·x + b)))` plus `λ/2 ‖w‖²`, where `x` is centred and scaled so that its mean
//! square length is 1 (so that `λ` means the same at every layer). It is solved in the rows' own coordinates, `w = Σ αᵢ xᵢ`, because there are
//! as a rule fewer prompts than dimensions.
//!
//! Invariant: a probe is made of the rows it is given and of nothing else; sums are in f64. To add a kind of probe, add a variant of
//! [`ProbeMethod`].

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::labels;

/// The weight of `‖w‖²`.
const PENALTY: f64 = 1e-2;

/// When the descent stops: the largest slope, and the most steps.
const SLOPE: f64 = 1e-7;
const STEPS: usize = 5000;

/// How a probe is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeMethod {
    Logistic,
    MassMean,
}

/// A probe: a row `x` is of the first class where `w·x + b > 0`.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearProbe {
    pub weights: Vec<f32>,
    pub bias: f32,
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
    products.sum()
}

/// The mean of some rows.
fn mean<'a>(rows: impl Iterator<Item = &'a Vec<f32>>, width: usize) -> Vec<f64> {
    let (mut sums, mut count) = (vec![0f64; width], 0f64);
    for row in rows {
        count += 1.0;
        sums.iter_mut()
            .zip(row)
            .for_each(|(sum, v)| *sum += f64::from(*v));
    }
    sums.iter_mut().for_each(|sum| *sum /= count);
    sums
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Rows of one layer that probes are made from, with what all of them share.
pub struct ProbeRows<'a> {
    rows: &'a [Vec<f32>],
    width: usize,
    centre: Vec<f64>,
    /// By which centred rows are multiplied.
    scale: f64,
    /// The inner products of centred, scaled rows, `[rows, rows]`.
    products: Vec<f64>,
}

impl<'a> ProbeRows<'a> {
    /// Rows of one width; at least one.
    pub fn of(rows: &'a [Vec<f32>]) -> Self {
        let width = rows.first().map_or(0, Vec::len);
        let centre = mean(rows.iter(), width);
        let off = |row: &Vec<f32>| -> Vec<f64> {
            row.iter()
                .zip(&centre)
                .map(|(v, c)| f64::from(*v) - c)
                .collect()
        };
        let centred: Vec<Vec<f64>> = rows.iter().map(off).collect();
        let n = rows.len();
        let mut products = vec![0f64; n * n];
        for i in 0..n {
            for j in 0..=i {
                let both = centred[i].iter().zip(&centred[j]);
                let product: f64 = both.map(|(a, b)| a * b).sum();
                (products[i * n + j], products[j * n + i]) = (product, product);
            }
        }
        let square = (0..n).map(|i| products[i * n + i]).sum::<f64>() / n.max(1) as f64;
        let scale = if square > 0.0 {
            square.sqrt().recip()
        } else {
            1.0
        };
        products
            .iter_mut()
            .for_each(|product| *product *= scale * scale);
        Self {
            rows,
            width,
            centre,
            scale,
            products,
        }
    }

    /// The probe of these rows under labels; each label must occur.
    pub fn fit(&self, method: ProbeMethod, labels: &[bool]) -> LinearProbe {
        match method {
            ProbeMethod::MassMean => self.mass_mean(labels),
            ProbeMethod::Logistic => self.logistic(labels),
        }
    }

    fn mass_mean(&self, labels: &[bool]) -> LinearProbe {
        let of = |class: bool| {
            let own = self
                .rows
                .iter()
                .zip(labels)
                .filter(move |(_, label)| **label == class);
            mean(own.map(|(row, _)| row), self.width)
        };
        let (plus, minus) = (of(true), of(false));
        let weights: Vec<f64> = plus.iter().zip(&minus).map(|(p, m)| p - m).collect();
        let middle = plus.iter().zip(&minus).map(|(p, m)| f64::midpoint(*p, *m));
        let bias: f64 = -weights.iter().zip(middle).map(|(w, m)| w * m).sum::<f64>();
        LinearProbe {
            weights: weights.into_iter().map(|w| w as f32).collect(),
            bias: bias as f32,
        }
    }

    /// Gradient descent with momentum (Nesterov 1983) on `α` and the bias.
    fn logistic(&self, labels: &[bool]) -> LinearProbe {
        let n = self.rows.len();
        let target: Vec<f64> = labels
            .iter()
            .map(|label| f64::from(u8::from(*label)))
            .collect();
        // The slope changes by at most a quarter of the mean square length of [x, 1], which is 2, plus the penalty.
        let step = 1.0 / (0.5 + PENALTY);
        let (mut alpha, mut bias) = (vec![0f64; n], 0f64);
        let (mut ahead, mut bias_ahead) = (alpha.clone(), 0f64);
        let mut pace = 1f64;
        for _ in 0..STEPS {
            let slopes: Vec<f64> = (0..n)
                .map(|i| {
                    let own = &self.products[i * n..(i + 1) * n];
                    let at: f64 = own.iter().zip(&ahead).map(|(k, a)| k * a).sum();
                    (sigmoid(at + bias_ahead) - target[i]) / n as f64
                })
                .collect();
            let bias_slope: f64 = slopes.iter().sum();
            let next: Vec<f64> = ahead
                .iter()
                .zip(&slopes)
                .map(|(a, slope)| a - step * (slope + PENALTY * a))
                .collect();
            let next_bias = bias_ahead - step * bias_slope;
            let next_pace = f64::midpoint(1.0, (1.0 + 4.0 * pace * pace).sqrt());
            let push = (pace - 1.0) / next_pace;
            let still = ahead
                .iter()
                .zip(&slopes)
                .map(|(a, slope)| (slope + PENALTY * a).abs());
            let largest = still.fold(bias_slope.abs(), f64::max);
            ahead = next
                .iter()
                .zip(&alpha)
                .map(|(new, old)| new + push * (new - old))
                .collect();
            bias_ahead = next_bias + push * (next_bias - bias);
            (alpha, bias, pace) = (next, next_bias, next_pace);
            if largest < SLOPE {
                break;
            }
        }
        let mut weights = vec![0f64; self.width];
        for (row, alpha) in self.rows.iter().zip(&alpha) {
            for ((w, v), c) in weights.iter_mut().zip(row).zip(&self.centre) {
                *w += alpha * self.scale * self.scale * (f64::from(*v) - c);
            }
        }
        let shift: f64 = weights.iter().zip(&self.centre).map(|(w, c)| w * c).sum();
        LinearProbe {
            weights: weights.into_iter().map(|w| w as f32).collect(),
            bias: (bias - shift) as f32,
        }
    }
}

impl LinearProbe {
    /// `w·x + b`: the log-odds of the first class, for a logistic probe.
    pub fn score(&self, row: &[f32]) -> f64 {
        dot(&self.weights, row) + f64::from(self.bias)
    }
}

/// Probes that tell some classes apart: of two classes one, which is positive for the first; of more, one for each against all others.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassProbes {
    pub probes: Vec<LinearProbe>,
}

impl ClassProbes {
    /// The probes of rows with the numbers of their classes, of which there are `count`; each must occur.
    pub fn of(rows: &ProbeRows, method: ProbeMethod, classes: &[usize], count: usize) -> Self {
        let probes = (0..Self::count(count)).map(|class| rows.fit(method, &one_of(classes, class)));
        Self {
            probes: probes.collect(),
        }
    }

    /// How many probes tell so many classes apart.
    pub fn count(classes: usize) -> usize {
        if classes == 2 { 1 } else { classes }
    }

    /// The class of a row: that whose probe says most.
    pub fn class(&self, row: &[f32]) -> usize {
        if let [one] = self.probes.as_slice() {
            return usize::from(one.score(row) <= 0.0);
        }
        let scores = self.probes.iter().map(|probe| probe.score(row));
        let best = scores.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
        best.map_or(0, |(class, _)| class)
    }

    /// For each of its probes, the scores of rows, and which rows are of its class.
    pub fn scores(&self, rows: &[Vec<f32>], classes: &[usize]) -> Vec<(Vec<f64>, Vec<bool>)> {
        let of = |(class, probe): (usize, &LinearProbe)| {
            let scores = rows.iter().map(|row| probe.score(row)).collect();
            (scores, one_of(classes, class))
        };
        self.probes.iter().enumerate().map(of).collect()
    }
}

/// Which rows are of a class.
fn one_of(classes: &[usize], class: usize) -> Vec<bool> {
    classes.iter().map(|own| *own == class).collect()
}

/// The scores of one class.
fn of_class(scores: &[f64], labels: &[bool], class: bool) -> Vec<f64> {
    let own = scores.iter().zip(labels);
    let own = own.filter(|(_, label)| **label == class);
    own.map(|(score, _)| *score).collect()
}

/// The area under the ROC curve of scores with labels: every pair of the two classes, ties by half.
pub fn auroc(scores: &[f64], labels: &[bool]) -> f64 {
    let of = |class| of_class(scores, labels, class);
    labels::auroc(&of(true), &of(false))
}

/// How far apart the scores of the classes are: the difference of their means in standard deviations within a class (d′). It tells probes
/// apart that all order the rows right.
pub fn separation(scores: &[f64], labels: &[bool]) -> f64 {
    let of = |class: bool| {
        let own = of_class(scores, labels, class);
        let mean = own.iter().sum::<f64>() / own.len() as f64;
        let squares = own.iter().map(|score| (score - mean).powi(2)).sum::<f64>();
        (mean, squares, own.len())
    };
    let (plus, minus) = (of(true), of(false));
    let within = (plus.1 + minus.1) / (plus.2 + minus.2) as f64;
    (plus.0 - minus.0) / within.sqrt().max(f64::MIN_POSITIVE)
}

/// Labels in another order.
pub fn shuffled<T: Clone>(labels: &[T], seed: u64) -> Vec<T> {
    let mut out = labels.to_vec();
    out.shuffle(&mut StdRng::seed_from_u64(seed));
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;
    use crate::edit::direction::norm;
    use rand::Rng;

    /// Rows around two means that differ along the first axis, with more noise along the second.
    fn planted(count: usize, seed: u64) -> (Vec<Vec<f32>>, Vec<bool>) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut noise = |by: f32| by * (rng.random::<f32>() + rng.random::<f32>() - 1.0);
        let labels: Vec<bool> = (0..count).map(|i| i % 2 == 0).collect();
        let rows = labels.iter().map(|label| {
            let side = if *label { 3.0 } else { 1.0 };
            let mut row = vec![side + noise(1.0), 50.0 + noise(4.0)];
            row.extend((0..30).map(|_| noise(1.0)));
            row
        });
        (rows.collect(), labels)
    }

    #[test]
    fn a_planted_direction_is_found_and_holds_on_other_rows() {
        let (rows, labels) = planted(200, 1);
        let (others, truth) = planted(200, 2);
        let own = ProbeRows::of(&rows);
        for method in [ProbeMethod::Logistic, ProbeMethod::MassMean] {
            let probe = own.fit(method, &labels);
            let scores: Vec<f64> = others.iter().map(|row| probe.score(row)).collect();
            let area = auroc(&scores, &truth);
            assert!(area > 0.98, "{method:?} {area}");
            let one = ClassProbes {
                probes: vec![probe.clone()],
            };
            let right = others.iter().zip(&truth);
            let right = right.filter(|(row, label)| (one.class(row) == 0) == **label);
            assert!(right.count() > 180, "{method:?}");
            assert!(
                probe.weights[0] / norm(&probe.weights) > 0.8,
                "{:?}",
                &probe.weights[..2]
            );
            let none = own.fit(method, &shuffled(&labels, 3));
            let scores: Vec<f64> = others.iter().map(|row| none.score(row)).collect();
            assert!((auroc(&scores, &truth) - 0.5).abs() < 0.4);
        }
    }

    /// Three classes, each around a mean of its own along one of the first axes.
    #[test]
    fn several_classes_are_told_apart_each_from_all_others() {
        let mut rng = StdRng::seed_from_u64(9);
        let classes: Vec<usize> = (0..90).map(|i| i % 3).collect();
        let rows: Vec<Vec<f32>> = classes
            .iter()
            .map(|class| {
                let mut row: Vec<f32> = (0..20).map(|_| rng.random::<f32>() - 0.5).collect();
                row[*class] += 2.0;
                row
            })
            .collect();
        let of = ProbeRows::of(&rows);
        for method in [ProbeMethod::Logistic, ProbeMethod::MassMean] {
            let own = ClassProbes::of(&of, method, &classes, 3);
            assert_eq!(own.probes.len(), 3);
            for (row, class) in rows.iter().zip(&classes) {
                assert_eq!(own.class(row), *class);
            }
            for (scores, truth) in own.scores(&rows, &classes) {
                assert_eq!(auroc(&scores, &truth), 1.0);
                assert_eq!(truth.iter().filter(|own| **own).count(), 30);
            }
            // The probe of a class looks along the axis on which it lies.
            for (class, probe) in own.probes.iter().enumerate() {
                let most = probe.weights.iter().copied().fold(f32::MIN, f32::max);
                assert_eq!(probe.weights[class], most);
            }
            let two: Vec<usize> = classes
                .iter()
                .map(|class| usize::from(*class > 0))
                .collect();
            assert_eq!(
                ClassProbes::of(&of, method, &two, 2).probes[0],
                own.probes[0]
            );
        }
    }

    #[test]
    fn a_logistic_probe_is_where_its_loss_is_least() {
        let (rows, labels) = planted(40, 5);
        let own = ProbeRows::of(&rows);
        let probe = own.fit(ProbeMethod::Logistic, &labels);
        // The loss in scaled coordinates: weights are divided by the scale.
        let loss = |weights: &[f64], bias: f64| {
            let each = rows.iter().zip(&labels).map(|(row, label)| {
                let at: f64 = row
                    .iter()
                    .zip(weights)
                    .map(|(v, w)| f64::from(*v) * w)
                    .sum::<f64>()
                    + bias;
                let signed = if *label { at } else { -at };
                (1.0 + (-signed).exp()).ln()
            });
            let square: f64 = weights.iter().map(|w| (w / own.scale).powi(2)).sum();
            each.sum::<f64>() / rows.len() as f64 + PENALTY / 2.0 * square
        };
        let weights: Vec<f64> = probe.weights.iter().map(|w| f64::from(*w)).collect();
        let best = loss(&weights, f64::from(probe.bias));
        for axis in 0..weights.len() {
            for by in [-0.01, 0.01] {
                let mut moved = weights.clone();
                moved[axis] += by * own.scale;
                // The border stays where the centre is.
                let bias = f64::from(probe.bias) - by * own.scale * own.centre[axis];
                assert!(loss(&moved, bias) > best, "axis {axis}");
            }
        }
        assert!(loss(&weights, f64::from(probe.bias) + 0.05) > best);
        assert!(loss(&weights, f64::from(probe.bias) - 0.05) > best);
    }

    #[test]
    fn a_mass_mean_probe_is_the_difference_with_its_border_half_way() {
        let rows = vec![
            vec![2.0, 0.0],
            vec![4.0, 2.0],
            vec![0.0, 0.0],
            vec![0.0, 2.0],
        ];
        let probe = ProbeRows::of(&rows).fit(ProbeMethod::MassMean, &[true, true, false, false]);
        assert_eq!(
            probe,
            LinearProbe {
                weights: vec![3.0, 0.0],
                bias: -4.5
            }
        );
    }

    #[test]
    fn the_area_counts_pairs_and_ties_half() {
        let labels = [true, true, false, false];
        assert_eq!(auroc(&[4.0, 3.0, 2.0, 1.0], &labels), 1.0);
        assert_eq!(auroc(&[1.0, 2.0, 3.0, 4.0], &labels), 0.0);
        assert_eq!(auroc(&[4.0, 2.0, 3.0, 1.0], &labels), 0.75);
        assert_eq!(auroc(&[1.0, 1.0, 1.0, 1.0], &labels), 0.5);
        assert!(auroc(&[1.0], &[true]).is_nan());
        assert!((separation(&[4.0, 2.0, 1.0, -1.0], &labels) - 3.0).abs() < 1e-12);
    }
}
