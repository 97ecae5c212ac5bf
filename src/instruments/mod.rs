//! Instruments: one file a method, each turning a question about a run into a [`Figure`].
//!
//! Invariant: an instrument knows nothing of screens or command lines; parameters, panes, palette entries,
//! subcommands and exports are derived from its row.
//!
//! To add one, write `instruments/x.rs` and add `pub mod x;` and a word to [`INSTRUMENTS`]. The file holds a unit struct that
//! implements [`Measurement`] (its name, a sentence, its source, and `measure`), and its parameters:
//!
//! ```text
//! params! {
//!     /// What `settle` is asked.
//!     pub struct SettleParams {
//!         /// how many of the last positions to read
//!         window: Count<1, 4096> = "64",
//!     }
//! }
//!
//! pub struct Settle;
//!
//! impl Measurement for Settle {
//!     type Params = SettleParams;
//!     const NAME: &'static str = "settle";
//!     const ABOUT: &'static str = "At which layer each answer settles";
//!     const SOURCE: &'static str = "Schuster et al. 2022 (2207.07061)";
//!
//!     fn measure(asked: &SettleParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
//!         let rows = ...;
//!         Ok(Draft::of(Table::of(COLUMNS, rows)).note("what a reader must know"))
//!     }
//! }
//! ```
//!
//! Its flags, form, title and provenance follow; the table in docs/reference.md is written anew as its test says. Kinds of parameters are in
//! [`params`], shapes of figures in [`crate::figure`].

pub mod answers;
pub mod attention;
pub mod attribution;
pub mod backpatch;
pub mod circuit;
pub mod feature;
pub mod features;
pub mod head_circuits;
pub mod knockout;
pub mod knowledge;
pub mod logit_lens;
pub mod neurons;
pub mod over_prompts;
pub mod pairs;
pub mod params;
pub mod patching;
pub mod patchscope;
pub mod probe;
pub mod relation;
pub mod residual;
pub mod saliency;
mod scales;
pub mod score;
pub mod steering;
pub mod surprisal;

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::figure::column::Column;
use crate::figure::{Body, Check, Figure, GivenPrompt};
use crate::lab::Lab;
use crate::lab::capture::{Capture, Needs};
use crate::lab::run::Run;
use crate::lab::spaced_answer::without_space;
use crate::lab::target::cut_to_first;
use crate::lab::trials::SweepCost;
use crate::model::Card;

use over_prompts::list::PlacedList;
use over_prompts::measure::over_prompts;
use over_prompts::numbers::OverPrompts;
use params::Params;
pub use params::{Arguments, ParamKind, Parameter};

/// Whether an instrument reads the run's own text; where it does not, the command line asks for none, and the screen shows it
/// without one.
#[derive(Clone, Copy, Debug)]
pub enum Reads<P> {
    /// Always.
    Text,
    /// Never: it reads files or weights.
    Others,
    /// Whether it reads the text depends on its parameters.
    TextWhere(fn(&P) -> bool),
}

/// What an instrument measured; who asked stamps it with the instrument's name, the parameters and the run.
#[derive(Clone, Debug)]
pub struct Draft {
    /// What the title says beside the instrument's name.
    pub title: String,
    /// The content.
    pub body: Body,
    /// What a reader must know: controls, limits, sources.
    pub notes: Vec<String>,
    /// Self-check, for figures that have one.
    pub check: Option<Check>,
    /// The run it is about, where that is not the one that was asked about.
    pub run: Option<Run>,
    /// Lines of provenance beside the parameters.
    pub resolved: Vec<(String, String)>,
    /// Tokens that it is about, beside those that its content names: the provenance has their raw texts.
    pub named: Vec<u32>,
    /// The prompts of a list that is shown prompt by prompt.
    pub prompts: Vec<GivenPrompt>,
}

impl Draft {
    /// A draft of this content, without title, notes or check.
    pub fn of(body: impl Into<Body>) -> Self {
        Self {
            title: String::new(),
            body: body.into(),
            notes: Vec::new(),
            check: None,
            run: None,
            resolved: Vec::new(),
            named: Vec::new(),
            prompts: Vec::new(),
        }
    }

    /// Says something beside the instrument's name.
    #[must_use]
    pub fn titled(self, title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            ..self
        }
    }

    /// Adds a note.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Adds notes.
    #[must_use]
    pub fn notes(mut self, notes: impl IntoIterator<Item = String>) -> Self {
        self.notes.extend(notes);
        self
    }

    /// Sets the check.
    #[must_use]
    pub fn checked(self, check: Option<Check>) -> Self {
        Self { check, ..self }
    }
}

/// A method, as it is written: its parameters and what it measures.
pub trait Measurement: Sync {
    type Params: Params;
    /// The instrument's name, as its pane and its subcommand are called.
    const NAME: &'static str;
    /// What the instrument shows, in a sentence.
    const ABOUT: &'static str;
    /// The source: paper and equation or section.
    const SOURCE: &'static str;
    /// Whether it is at work on every growing text; others are live only while they have a place on the screen.
    const STEADY: bool = false;
    /// Whether every row of its live figure is a layer, in order, so that layers that nobody sees may be read when writing pauses.
    const ROWS_ARE_LAYERS: bool = false;
    /// Whether it reads the run's own text.
    const READS: Reads<Self::Params> = Reads::Text;
    /// Whether it asks what follows the run's last token, so that on the screen the text it reads ends at the cursor.
    const READS_END: bool = false;
    /// Whether it reads the state under the cursor, so that the keys for that ask it.
    const READS_CELL: bool = false;
    /// Whether edits act on texts that it reads itself, where it does not read the run's.
    const EDITS_ITS_TEXTS: bool = false;
    /// Whether the rows of its live figure follow the edits, so that a change of them asks for the whole of it anew.
    const ROWS_FOLLOW_EDITS: bool = false;
    /// Parameters with which its figure is cheap enough to be made by itself wherever the cursor of the screen rests, when the
    /// model has nothing else to do; none if it is made only when it is asked for. It reads the end of a text
    /// ([`Measurement::READS_END`]).
    const FOLLOWS: &'static [(&'static str, &'static str)] = &[];
    /// How it takes lists of prompts; none if it does not.
    const OVER_PROMPTS: Option<OverPrompts<Self::Params>> = None;

    /// What it measures; by default the figure of what it needs of its positions, from one pass.
    ///
    /// # Errors
    ///
    /// Those of the passes, and parameters that do not fit the model or the text.
    fn measure(params: &Self::Params, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let positions = Self::positions(params, run)?;
        let needs = Self::needs(params, run, lab)?;
        let capture = lab.capture(run, positions, &needs)?;
        Self::figure(params, &capture, lab)
    }

    /// What that will take, for sweeps: said before they start.
    fn cost(_params: &Self::Params, _tokens: usize, _card: &Card) -> Option<SweepCost> {
        None
    }

    /// Whether its figure grows with a text: then [`Measurement::needs`] and [`Measurement::figure`] make its newest column.
    fn live(_params: &Self::Params, _card: &Card) -> bool {
        false
    }

    /// The positions of the whole figure.
    ///
    /// # Errors
    ///
    /// When the text has no such positions.
    fn positions(_params: &Self::Params, run: &Run) -> Result<Range<usize>> {
        Ok(0..run.tokens.len())
    }

    /// What it needs of every position of a run, the newest one of a growing text among them.
    ///
    /// # Errors
    ///
    /// When parameters do not fit the model.
    fn needs(_params: &Self::Params, _run: &Run, _lab: &Lab) -> Result<Needs> {
        Ok(Needs::default())
    }

    /// The figure of captured positions: of all of them, or of the newest one.
    ///
    /// # Errors
    ///
    /// When the capture lacks what [`Measurement::needs`] asked for.
    fn figure(_params: &Self::Params, _of: &Capture, _lab: &mut Lab) -> Result<Draft> {
        Err(Error::Engine(format!(
            "{} makes no figure of a capture",
            Self::NAME
        )))
    }

    /// A note about all that a figure shows, taken from itself, so that it stays right while the figure grows.
    fn summary(_body: &Body) -> Option<String> {
        None
    }
}

/// The last so many positions of a run.
pub(crate) fn last(count: usize, run: &Run) -> Range<usize> {
    let total = run.tokens.len();
    total - count.min(total)..total
}

/// The instrument and its parameters, for provenance and to tell one sweep from another.
pub fn lines<M: Measurement>(params: &M::Params) -> Vec<(String, String)> {
    let alone = !reads_list::<M>(params);
    let rows = M::Params::ROWS.iter().zip(params.print());
    let rows = rows.filter(|(row, _)| !(alone && row.of_lists));
    std::iter::once(("instrument".to_string(), M::NAME.to_string()))
        .chain(rows.map(|(row, value)| (row.name.to_string(), value)))
        .collect()
}

/// A title with its name.
fn title<M: Measurement>(title: &str) -> String {
    match title {
        "" => M::NAME.to_string(),
        title => format!("{} · {title}", M::NAME),
    }
}

/// A draft with its name, and with what it was measured on.
fn stamp<M: Measurement>(draft: Draft, params: &M::Params, run: &Run, lab: &Lab) -> Figure {
    let mut parameters = lines::<M>(params);
    parameters.extend(draft.resolved);
    let mut notes = Vec::from_iter(M::summary(&draft.body));
    notes.extend(draft.notes);
    let mut provenance = lab.provenance(draft.run.as_ref().unwrap_or(run), parameters);
    let named = provenance.tokens.iter().copied().chain(draft.named);
    provenance.prompts = draft.prompts;
    provenance.texts = lab.raw_texts(named.chain(draft.body.token_ids()));
    Figure {
        title: if lab.unfinished.stopped {
            format!("{} · STOPPED BEFORE ITS END", title::<M>(&draft.title))
        } else {
            title::<M>(&draft.title)
        },
        body: draft.body,
        notes,
        check: draft.check,
        provenance,
    }
}

/// A method as a row of [`INSTRUMENTS`], whatever its parameters. Every [`Measurement`] is one.
pub trait Instrument: Sync {
    /// The instrument's name, as its pane and its subcommand are called.
    fn name(&self) -> &'static str;
    /// What the instrument shows, in a sentence.
    fn about(&self) -> &'static str;
    /// The source: paper and equation or section.
    fn source(&self) -> &'static str;
    fn parameters(&self) -> &'static [Parameter];
    /// Reads parameters, once, for all that is asked with them.
    fn read(&self, arguments: &Arguments) -> Result<Arguments>;
    /// Whether it is at work on every growing text; others are live only while they have a place on the screen.
    fn steady(&self) -> bool;
    /// Whether every row of its live figure is a layer, in order, so that layers that nobody sees may be read when writing pauses.
    fn rows_are_layers(&self) -> bool;
    /// Whether its figure grows with a text.
    fn live(&self, card: &Card, arguments: &Arguments) -> bool;
    /// What it needs of every new position.
    fn needs(&self, run: &Run, arguments: &Arguments, lab: &Lab) -> Result<Needs>;
    /// The newest position's part of the figure.
    fn column(&self, of: &Capture, arguments: &Arguments, lab: &mut Lab) -> Result<Column>;
    /// A note about all that a figure shows.
    fn summary(&self, body: &Body) -> Option<String>;
    /// Whether the rows of its live figure follow the edits, so that a change of them asks for the whole of it anew.
    fn rows_follow_edits(&self) -> bool;
    /// Whether it reads the run's own text under these arguments; where it does not, the command line asks for none,
    /// and the screen shows it without one.
    fn needs_prompt(&self, arguments: &Arguments) -> bool;
    /// Whether it reads the run's own text under any arguments.
    fn always_needs_prompt(&self) -> bool;
    /// Whether edits act on texts that it reads itself under these arguments.
    fn edits_its_texts(&self, arguments: &Arguments) -> bool;
    /// Whether it asks what follows the run's last token, so that on the screen the text it reads ends at the cursor.
    fn reads_end(&self) -> bool;
    /// Whether it reads the state under the cursor, so that the keys for that ask it.
    fn reads_cell(&self) -> bool;
    /// The arguments with which its figure is made by itself wherever the cursor rests, when the model has nothing else to do;
    /// none if it is made only when it is asked for.
    fn following(&self, arguments: &Arguments) -> Option<Arguments>;
    /// What [`Instrument::observe`] will take, for sweeps: said before they start.
    fn cost(&self, tokens: usize, arguments: &Arguments, card: &Card) -> Option<SweepCost>;
    /// The whole figure.
    fn observe(&self, run: &Run, arguments: &Arguments, lab: &mut Lab) -> Result<Figure>;
}

impl<M: Measurement> Instrument for M {
    fn name(&self) -> &'static str {
        M::NAME
    }

    fn about(&self) -> &'static str {
        M::ABOUT
    }

    fn source(&self) -> &'static str {
        M::SOURCE
    }

    fn parameters(&self) -> &'static [Parameter] {
        M::Params::ROWS
    }

    fn read(&self, arguments: &Arguments) -> Result<Arguments> {
        arguments.read::<M::Params>(M::NAME)
    }

    fn steady(&self) -> bool {
        M::STEADY
    }

    fn rows_are_layers(&self) -> bool {
        M::ROWS_ARE_LAYERS
    }

    fn live(&self, card: &Card, arguments: &Arguments) -> bool {
        params_of::<M>(arguments)
            .is_ok_and(|params| !reads_list::<M>(&params) && M::live(&params, card))
    }

    fn needs(&self, run: &Run, arguments: &Arguments, lab: &Lab) -> Result<Needs> {
        M::needs(&*params_of::<M>(arguments)?, run, lab)
    }

    fn column(&self, of: &Capture, arguments: &Arguments, lab: &mut Lab) -> Result<Column> {
        let draft = M::figure(&*params_of::<M>(arguments)?, of, lab)?;
        let tokens = of.run.tokens[of.positions.clone()].to_vec();
        let named = tokens.iter().copied().chain(draft.body.token_ids());
        Ok(Column {
            position: of.positions.start,
            texts: lab.raw_texts(named),
            tokens,
            edits: of.run.schedule.lines(),
            title: title::<M>(&draft.title),
            body: draft.body,
            notes: draft.notes,
            check: draft.check,
        })
    }

    fn summary(&self, body: &Body) -> Option<String> {
        M::summary(body)
    }

    fn rows_follow_edits(&self) -> bool {
        M::ROWS_FOLLOW_EDITS
    }

    fn needs_prompt(&self, arguments: &Arguments) -> bool {
        let params = params_of::<M>(arguments);
        if params.as_ref().is_ok_and(|params| reads_list::<M>(params)) {
            return false;
        }
        match M::READS {
            Reads::Text => true,
            Reads::Others => false,
            Reads::TextWhere(reads) => params.is_ok_and(|params| reads(&params)),
        }
    }

    fn always_needs_prompt(&self) -> bool {
        matches!(M::READS, Reads::Text) && M::OVER_PROMPTS.is_none()
    }

    fn edits_its_texts(&self, arguments: &Arguments) -> bool {
        let list = || params_of::<M>(arguments).is_ok_and(|params| reads_list::<M>(&params));
        M::EDITS_ITS_TEXTS || list()
    }

    fn reads_end(&self) -> bool {
        M::READS_END
    }

    fn reads_cell(&self) -> bool {
        M::READS_CELL
    }

    fn following(&self, arguments: &Arguments) -> Option<Arguments> {
        let cheap = M::FOLLOWS.iter();
        let arguments = cheap.fold(arguments.clone(), |all, (name, value)| {
            all.with(name, value)
        });
        (!M::FOLLOWS.is_empty())
            .then(|| self.read(&arguments).ok())
            .flatten()
    }

    fn cost(&self, tokens: usize, arguments: &Arguments, card: &Card) -> Option<SweepCost> {
        let params = params_of::<M>(arguments).ok()?;
        M::cost(&params, tokens, card).filter(|_| !reads_list::<M>(&params))
    }

    fn observe(&self, run: &Run, arguments: &Arguments, lab: &mut Lab) -> Result<Figure> {
        let params = params_of::<M>(arguments)?;
        let draft = match (&M::OVER_PROMPTS, list_of::<M>(&params, lab)?) {
            (Some(over), Some(list)) => over_prompts::<M>(over, &list, &params, run, lab)?,
            _ => M::measure(&params, run, lab)?,
        };
        Ok(stamp::<M>(draft, &params, run, lab))
    }
}

/// Whether parameters ask about a list of prompts.
fn reads_list<M: Measurement>(params: &M::Params) -> bool {
    M::OVER_PROMPTS.is_some_and(|over| (over.asked)(params).file.is_some())
}

/// The list of prompts that parameters ask about; none where they ask about none.
fn list_of<M: Measurement>(params: &M::Params, lab: &Lab) -> Result<Option<PlacedList>> {
    match M::OVER_PROMPTS {
        Some(over) => PlacedList::read(&(over.asked)(params), lab),
        None => Ok(None),
    }
}

/// The parameters that were read from arguments.
fn params_of<M: Measurement>(arguments: &Arguments) -> Result<Arc<M::Params>> {
    arguments.params(M::NAME)
}

/// Lets a live figure grow.
pub fn grow(of: &dyn Instrument, figure: &mut Figure, column: Column) {
    figure.append(column);
    figure.notes.splice(..0, of.summary(&figure.body));
}

/// Takes the cells of columns that a live figure has already, which were measured again.
pub fn complete(of: &dyn Instrument, figure: &mut Figure, column: Column) {
    // The summary is about the figure as it is, and is made anew with it.
    let summary = of.summary(&figure.body);
    figure
        .notes
        .drain(..usize::from(summary.is_some()).min(figure.notes.len()));
    figure.complete(column);
    figure.notes.splice(..0, of.summary(&figure.body));
}

/// Makes the figure of an instrument, and says which texts were cut to their first token, and how many of its numbers are not finite.
///
/// # Errors
///
/// Those of the instrument.
pub fn observe(
    of: &dyn Instrument,
    run: &Run,
    arguments: &Arguments,
    lab: &mut Lab,
) -> Result<Figure> {
    let mut figure = of.observe(run, arguments, lab)?;
    // Parameters of these kinds may hold texts of tokens.
    let texts = of.parameters().iter();
    let texts = texts.filter(|p| matches!(p.kind, ParamKind::Text | ParamKind::Word(_)));
    for (name, text) in texts.filter_map(|p| Some((p.name, arguments.given.get(p.name)?))) {
        figure.notes.extend(cut_to_first(name, text, &lab.model));
        match without_space(name, text, run, lab) {
            Ok(asked) => figure.notes.extend(asked),
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            // The figure is there; what could be asked about its answer is not worth losing it.
            Err(error) => tracing::debug!("the answer with a space was not looked at: {error}"),
        }
    }
    figure.mark_not_finite();
    Ok(figure)
}

pub const INSTRUMENTS: &[&dyn Instrument] = &[
    &logit_lens::lens::Lens,
    &neurons::Neurons,
    &patchscope::Patchscope,
    &backpatch::Backpatch,
    &patching::Patching,
    &crate::instruments::steering::sweep::Sweep,
    &crate::instruments::attention::heads::Heads,
    &residual::Residual,
    &attention::Attention,
    &crate::instruments::head_circuits::composition::Composition,
    &crate::instruments::head_circuits::singular::HeadSvd,
    &knockout::AttentionKnockout,
    &crate::instruments::neurons::value::ValueVector,
    &crate::instruments::neurons::triggers::Triggers,
    &crate::instruments::neurons::promoters::Promoters,
    &crate::instruments::knowledge::fact::FactNeurons,
    &crate::instruments::knowledge::dose::Dose,
    &crate::instruments::steering::select::Select,
    &crate::instruments::steering::meters::Meters,
    &crate::instruments::logit_lens::track::Track,
    &crate::instruments::logit_lens::settle::Settle,
    &crate::instruments::logit_lens::trajectory::Trajectory,
    &crate::instruments::logit_lens::languages::Languages,
    &features::Features,
    &surprisal::Surprisal,
    &saliency::Saliency,
    &feature::card::FeatureCard,
    &feature::search::FeatureSearch,
    &feature::logits::FeatureLogits,
    &relation::RelationInstrument,
    &relation::attribute_lens::AttributeLens,
    &attribution::AttributionPatching,
    &circuit::Circuit,
    &score::Score,
    &probe::Probe,
    &answers::Answers,
];

/// Finds an instrument by name.
pub fn instrument(name: &str) -> Result<&'static dyn Instrument> {
    INSTRUMENTS
        .iter()
        .copied()
        .find(|i| i.name() == name)
        .ok_or_else(|| {
            let known: Vec<&str> = INSTRUMENTS.iter().map(|i| i.name()).collect();
            Error::argument("instrument", name, format!("one of {}", known.join(", ")))
        })
}
