//! The way of integrated gradients from a baseline to a text: at which points gradients are taken, and what they sum to.
//!
//! The integral is a sum over pieces (the trapezoid rule), with points that are laid where it does not hold yet. Completeness says what each piece of
//! the way must sum to, the difference of the scalar at its ends, and the scalar comes with every gradient: so the pieces whose
//! sums are farthest off are halved, until they fit or the points are used up. Language models need it: on the way between two
//! embeddings of a text their output jumps within a thousandth of its length, and equal steps meet the slopes there by chance.
//! Invariant: nothing is scaled to fit; what is left is the completeness error. To lay points in another way, see
//! [`GradientPath::next_points`].

/// Pieces that the way is cut into at first.
const FIRST: usize = 8;

/// The shortest piece that is halved: within it a scalar that still jumps, as where another expert is chosen, has no slope that
/// says so.
const SHORTEST: f64 = 1.0 / 32768.0;

/// How often the slope of an end may be that of its piece: more is noise that norms have magnified.
const BEYOND: f64 = 1e4;

/// How far the pieces may be off together, of the whole difference.
const ENOUGH: f64 = 0.005;

/// A point of the way.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PathPoint {
    /// How far from the baseline, 0 to 1.
    pub share: f64,
    pub scalar: f64,
    /// The slope of the scalar along the way by token, `Σ_d (x_i − b)_d ∂F/∂x_id`; none where the gradient is not finite, as
    /// where embeddings are so short that norms magnify them beyond f32.
    pub slopes: Option<Vec<f64>>,
}

/// The points so far, from the baseline to the text.
#[derive(Clone, Debug)]
pub(super) struct GradientPath(Vec<PathPoint>);

impl GradientPath {
    /// The way to a text, of which nothing else is known.
    pub(super) fn ending_in(end: PathPoint) -> Self {
        Self(vec![end])
    }

    pub(super) fn add(&mut self, point: PathPoint) {
        let at = self.0.partition_point(|own| own.share < point.share);
        self.0.insert(at, point);
    }

    /// How many gradients were taken.
    pub(super) fn gradients(&self) -> usize {
        self.0.len()
    }

    /// The scalar at the baseline.
    pub(super) fn start(&self) -> f64 {
        let first = self.0.first().filter(|point| point.share == 0.0);
        first.map_or(f64::NAN, |point| point.scalar)
    }

    /// Where gradients are to be taken next, with at most `most` altogether; nowhere where that is enough.
    pub(super) fn next_points(&self, most: usize) -> Vec<f64> {
        let room = most.saturating_sub(self.gradients());
        if self.gradients() == 1 {
            // The baseline itself is always read: what it says is what the sum is held against.
            let pieces = FIRST.min(room.max(1));
            return (0..pieces).map(|i| i as f64 / pieces as f64).collect();
        }
        let mut pieces: Vec<(f64, f64, f64)> = self
            .0
            .windows(2)
            .map(|ends| (weights(&ends[0], &ends[1]).1, ends[0].share, ends[1].share))
            .collect();
        let off: f64 = pieces.iter().map(|piece| piece.0).sum();
        let whole = self.0.last().map_or(0.0, |end| end.scalar) - self.start();
        if off <= ENOUGH * whole.abs() {
            return Vec::new();
        }
        let fair = ENOUGH * whole.abs() / pieces.len() as f64;
        pieces.retain(|(off, from, to)| *off > fair && to - from > SHORTEST);
        pieces.sort_by(|a, b| b.0.total_cmp(&a.0));
        let count = (self.gradients() / 4).max(1).min(room);
        let worst = pieces.iter().take(count);
        worst
            .map(|(_, from, to)| f64::midpoint(*from, *to))
            .collect()
    }

    /// The integral by token.
    pub(super) fn integral(&self, tokens: usize) -> Vec<f64> {
        let mut sum = vec![0f64; tokens];
        for ends in self.0.windows(2) {
            let (weights, _) = weights(&ends[0], &ends[1]);
            for (point, weight) in ends.iter().zip(weights) {
                if weight > 0.0 {
                    let slopes = point.slopes.iter().flatten();
                    let terms = sum.iter_mut().zip(slopes);
                    terms.for_each(|(sum, slope)| *sum += weight * slope);
                }
            }
        }
        sum
    }
}

/// With what the slopes at the ends of a piece are multiplied, and how far their sum is then from the difference of its ends:
/// half its length each, or all of it for one end where the other has no slope, or one beyond measure.
fn weights(from: &PathPoint, to: &PathPoint) -> ([f64; 2], f64) {
    let length = to.share - from.share;
    let difference = to.scalar - from.scalar;
    let slope = |point: &PathPoint| {
        let own = point.slopes.as_ref()?.iter().sum::<f64>();
        (own.abs() * length <= BEYOND * difference.abs().max(1e-3)).then_some(own)
    };
    let (left, right) = (slope(from), slope(to));
    let weights = match (left, right) {
        (Some(_), Some(_)) => [length / 2.0; 2],
        (Some(_), None) => [length, 0.0],
        (None, Some(_)) => [0.0, length],
        (None, None) => [0.0; 2],
    };
    let own = weights[0] * left.unwrap_or(0.0) + weights[1] * right.unwrap_or(0.0);
    let off = (own - difference).abs();
    (weights, if off.is_nan() { f64::INFINITY } else { off })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two tokens, of which the first does three times as much as the second.
    fn laid(most: usize, scalar: fn(f64) -> f64, slope: fn(f64) -> f64) -> GradientPath {
        let point = |share: f64| {
            let own = slope(share);
            PathPoint {
                share,
                scalar: scalar(share),
                slopes: own.is_finite().then(|| vec![0.75 * own, 0.25 * own]),
            }
        };
        let mut path = GradientPath::ending_in(point(1.0));
        loop {
            let next = path.next_points(most);
            if next.is_empty() {
                return path;
            }
            next.into_iter().for_each(|share| path.add(point(share)));
        }
    }

    fn off(path: &GradientPath, whole: f64) -> f64 {
        let sum = path.integral(2);
        assert!((sum[0] - 3.0 * sum[1]).abs() < 1e-9, "{sum:?}");
        (sum.iter().sum::<f64>() - whole).abs()
    }

    #[test]
    fn a_straight_line_needs_no_more_points_than_there_are_at_first() {
        let path = laid(64, |x| 2.0 * x + 1.0, |_| 2.0);
        assert_eq!((path.gradients(), path.start()), (FIRST + 1, 1.0));
        assert!(off(&path, 2.0) < 1e-12);
    }

    #[test]
    fn points_lie_where_the_scalar_changes() {
        // A step of a hundredth of the way.
        let step = |x: f64| ((x - 0.3) / 0.005).tanh();
        let slope = |x: f64| (1.0 - ((x - 0.3) / 0.005).tanh().powi(2)) / 0.005;
        let path = laid(64, step, slope);
        assert!(path.gradients() <= 64 && off(&path, 2.0) < 0.02, "{path:?}");
        let near = path
            .0
            .iter()
            .filter(|p| (p.share - 0.3).abs() < 0.05)
            .count();
        assert!(
            2 * near > path.gradients(),
            "{near} of {}",
            path.gradients()
        );
    }

    #[test]
    fn a_point_without_a_gradient_is_done_without() {
        // The root has no slope at 0.
        let path = laid(64, f64::sqrt, |x| 0.5 / x.sqrt());
        assert!(off(&path, 1.0) < 0.02, "{}", off(&path, 1.0));
    }

    #[test]
    fn a_jump_stays_an_error_and_takes_no_more_points_than_it_may() {
        let jump = |x: f64| f64::from(u8::from(x > 0.4));
        let path = laid(512, jump, |_| 0.0);
        assert!((off(&path, 1.0) - 1.0).abs() < 1e-12);
        assert!(path.gradients() < 32, "{}", path.gradients());
        assert_eq!(laid(3, jump, |_| 0.0).gradients(), 3);
    }
}
