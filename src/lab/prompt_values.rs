//! Values of many prompts at some addresses, a few prompts at a time.
//!
//! Invariant: a prompt's values do not depend on those that are read beside it; the memory does not depend on how many prompts there are.
//! To take other values of a prompt, add a [`PositionRole`].

use std::ops::Range;

use candle_core::DType;

use super::Lab;
use super::capture::Capture;
use super::pass::Pass;
use super::prompt_list::{PlacedPrompt, PositionRole};
use super::run::Run;
use crate::edit::receipt::{Receipt, add_up};
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};
use crate::model::host::ToHost;
use crate::model::network::site::{Address, Axis};

/// The most bytes of values that are held at once, and the most tokens that are read: what is read when the user stops it is lost.
const AT_ONCE: usize = 256 << 20;
const TOKENS: usize = 1024;

/// The prompts from `first` on that are read together: at least one.
fn slice(lab: &Lab, prompts: &[PlacedPrompt], wanted: &[Address], first: usize) -> Range<usize> {
    let widths = wanted.iter().map(|at| lab.model.width(at.site));
    let each = (4 * widths.sum::<usize>()).max(1);
    let most = (AT_ONCE / each).min(TOKENS);
    let mut tokens = 0;
    let own = prompts[first..].iter().take_while(|prompt| {
        tokens += prompt.tokens.len();
        tokens <= most
    });
    first..first + own.count().max(1)
}

/// Refuses an address that has no vector at each position.
///
/// # Errors
///
/// Names it, and what to ask for instead.
pub fn check(lab: &Lab, at: Address) -> Result<()> {
    lab.model.offers(at)?;
    if at.site.spec().axis == Axis::Positions {
        return Err(Error::Refused {
            address: at.to_string(),
            why: "it has one row for each query, not a vector for each position. Use z, the output of each head.".into(),
        });
    }
    Ok(())
}

/// Reads prompts from `first` on under a schedule, a few at a time in their order, and hands over what was recorded; what the edits did
/// in those prompts.
///
/// # Errors
///
/// Those of `take`, of an edit that does not fit, of numbers that are not finite; [`Error::Cancelled`] where the user stops it.
pub fn each(
    lab: &mut Lab,
    prompts: &[PlacedPrompt],
    wanted: &[Address],
    schedule: &Schedule,
    first: usize,
    mut take: impl FnMut(Range<usize>, &[Capture]) -> Result<()>,
) -> Result<Vec<Receipt>> {
    let mut receipts = Vec::new();
    let mut next = first;
    while next < prompts.len() {
        lab.report((next - first) as f32 / (prompts.len() - first) as f32)?;
        let own = slice(lab, prompts, wanted, next);
        let texts = prompts[own.clone()]
            .iter()
            .map(|prompt| prompt.tokens.clone());
        let pass = Pass {
            record: wanted.to_vec(),
            only_recorded: true,
            ..Pass::texts(Run::plain(Vec::new()).under(schedule), texts)
        };
        let captures = lab.without_progress(|lab| lab.run(&pass))?;
        for capture in &captures {
            add_up(&mut receipts, &capture.receipts);
        }
        take(own.clone(), &captures)?;
        next = own.end;
    }
    Ok(receipts)
}

/// The values of a prompt at an address, as a role takes them: `[width]`, or `[tokens, width]` of all tokens.
///
/// # Errors
///
/// When the address was not recorded.
pub fn values(
    capture: &Capture,
    at: Address,
    prompt: &PlacedPrompt,
    role: PositionRole,
) -> Result<Vec<f32>> {
    let all = capture.get(at)?;
    let own = all.narrow(0, prompt.positions.start, prompt.positions.len())?;
    let own = own
        .to_dtype(DType::F32)?
        .flatten_all()?
        .host_vec1::<f32>()?;
    if role != PositionRole::ResponseMean {
        return Ok(own);
    }
    let width = own.len() / prompt.positions.len();
    let mut sums = vec![0f64; width];
    for row in own.chunks_exact(width) {
        sums.iter_mut()
            .zip(row)
            .for_each(|(sum, v)| *sum += f64::from(*v));
    }
    let count = prompt.positions.len() as f64;
    Ok(sums.into_iter().map(|sum| (sum / count) as f32).collect())
}
