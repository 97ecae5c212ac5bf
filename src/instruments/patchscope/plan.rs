//! The plan of a Patchscope: the parameters resolved for this model, with sources, target, layers and map, before anything is
//! computed.
//!
//! Invariant: all parameters are checked here, so that a sweep cannot fail on them after its first passes.

use std::ops::Range;
use std::sync::Arc;

use super::Patchscope;
use super::parameters::{
    ControlSources, LayerOrEmbedding, LayerPair, MapChoice, PatchscopeParams, PatchscopeView,
    SourceTexts,
};
use crate::error::{Error, Result};
use crate::figure::Entry;
use crate::instruments::lines;
use crate::instruments::params::ParameterValue;
use crate::instruments::patchscope::attributes;
use crate::instruments::patchscope::attributes::SubjectFact;
use crate::instruments::patchscope::fit::fit;
use crate::instruments::patchscope::map::{AffineMaps, Map};
use crate::instruments::patchscope::placeholders::{
    PlaceholderChoice, PromptWithPlaceholders, last_of,
};
use crate::instruments::patchscope::templates::PatchscopeTemplate;
use crate::lab::Lab;
use crate::lab::capture::Capture;
use crate::lab::draws::DRAWS;
use crate::lab::run::Run;
use crate::lab::target::first_tokens;
use crate::model::network::site::{Address, Site};
use crate::text;

/// A text from which states are taken.
#[derive(Clone, Debug)]
pub(super) struct StateSource {
    pub(super) run: Run,
    /// The positions of the states, ascending and consecutive.
    pub(super) positions: Vec<usize>,
    /// The source's name in titles.
    pub(super) label: String,
    /// The states under noise on embeddings of the text, for a control.
    pub(super) noised: Option<NoisedStates>,
    /// Whether it is the user's run, so that figures can be anchored to its positions.
    pub(super) own: bool,
}

/// What the layers hold in one draw of noise on embeddings.
#[derive(Clone, Debug)]
pub(super) struct NoisedStates {
    /// The first position that has noise, at which the capture begins.
    pub(super) first: usize,
    pub(super) draw: usize,
    pub(super) states: Arc<Capture>,
}

/// The whole plan.
pub(super) struct PatchscopePlan<'a> {
    pub(super) params: &'a PatchscopeParams,
    pub(super) template: PatchscopeTemplate,
    /// Source layers.
    pub(super) layers: Vec<LayerOrEmbedding>,
    /// The pairs of source and target layers, ordered by source layer.
    pub(super) pairs: Vec<LayerPair>,
    pub(super) sources: Vec<StateSource>,
    /// The subjects of an attribute list, one for each source; empty without a list.
    pub(super) subjects: Vec<SubjectFact>,
    pub(super) map: Map,
    pub(super) count: usize,
    pub(super) watched: Vec<u32>,
    /// The word that gets noise for the matched control where the state stands at the end of the run, is about an earlier word, and
    /// no entity is named.
    pub(super) key_word: Option<Range<usize>>,
    /// The seed of the control.
    pub(super) seed: u64,
    dropped: usize,
}

/// The address of a site at a layer; the embedding for layer -1.
pub(super) fn address(site: Site, layer: LayerOrEmbedding) -> Address {
    usize::try_from(layer).map_or(Site::Embed.at(0), |l| site.at(l))
}

/// The text for a layer.
pub(super) fn spelled(layer: LayerOrEmbedding) -> String {
    if layer < 0 {
        "embed".into()
    } else {
        layer.to_string()
    }
}

/// The same as an entry of a table.
pub(super) fn layer_entry(layer: LayerOrEmbedding) -> Entry {
    match usize::try_from(layer) {
        Ok(layer) => layer.into(),
        Err(_) => spelled(layer).into(),
    }
}

impl<'a> PatchscopePlan<'a> {
    pub(super) fn new(params: &'a PatchscopeParams, run: &Run, lab: &mut Lab) -> Result<Self> {
        let (layers, pairs, dropped) = params.pairs(lab.model.card.layers)?;
        let watched = match &params.answers {
            None => Vec::new(),
            Some(texts) => first_tokens("answers", texts, &lab.model)?,
        };
        let mut plan = Self {
            params,
            template: params.template()?,
            layers,
            pairs,
            sources: Vec::new(),
            subjects: Vec::new(),
            map: Map::Identity,
            count: params.written(),
            watched,
            key_word: None,
            seed: run.seed,
            dropped,
        };
        for pair in &plan.pairs {
            let (from, to) = plan.addresses(*pair);
            lab.model.offers(from)?;
            lab.model.offers(to)?;
        }
        plan.gather(run, lab)?;
        for source in &plan.sources {
            plan.with_placeholders(lab, source.positions.len())?;
        }
        plan.map = plan.mapped(lab)?;
        Ok(plan)
    }

    /// The target prompt, as an entry of the provenance.
    pub(super) fn target_prompt(&self) -> (String, String) {
        ("target prompt".into(), self.template.prompt.clone())
    }

    /// The parameters that a sweep's results depend on.
    pub(super) fn parameters(&self) -> Vec<(String, String)> {
        let mut parameters = lines::<Patchscope>(self.params);
        parameters.push(self.target_prompt());
        parameters
    }

    /// The target prompt with placeholders for `count` source tokens.
    pub(super) fn with_placeholders(
        &self,
        lab: &Lab,
        count: usize,
    ) -> Result<PromptWithPlaceholders> {
        let tokens = lab.model.encode(&self.template.prompt, false)?;
        let pieces = lab.model.pieces(&tokens);
        let rule = self.params.placeholders;
        rule.place(&tokens, &pieces, &self.template.placeholder, count)
    }

    pub(super) fn addresses(&self, pair: LayerPair) -> (Address, Address) {
        let (from, into) = (self.params.site.site(), self.params.into.site());
        (address(from, pair.0), address(into, pair.1))
    }

    /// The addresses of one side, source or target, over all pairs: sorted, without duplicates.
    pub(super) fn wanted(&self, side: fn((Address, Address)) -> Address) -> Vec<Address> {
        let mut wanted: Vec<Address> = self
            .pairs
            .iter()
            .map(|p| side(self.addresses(*p)))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    /// The target layers, sorted, without duplicates.
    pub(super) fn targets(&self) -> Vec<LayerOrEmbedding> {
        let mut targets: Vec<LayerOrEmbedding> = self.pairs.iter().map(|p| p.1).collect();
        targets.sort_unstable();
        targets.dedup();
        targets
    }

    fn gather(&mut self, run: &Run, lab: &Lab) -> Result<()> {
        let params = self.params;
        if let Some(list) = &params.attributes {
            if params.from != SourceTexts::Run {
                let expected = "no other source when a list of subjects is given; its third column holds the prompts";
                return Err(Error::argument("from", params.from.print(), expected));
            }
            if let Some(answers) = &params.answers {
                let expected =
                    "no answers when a list of subjects is given; its second column holds them";
                return Err(Error::argument("answers", answers, expected));
            }
            self.subjects = attributes::read(list)?;
            let sources = self.subjects.iter().map(|s| self.subject(s, lab));
            self.sources = sources.collect::<Result<_>>()?;
            return Ok(());
        }
        if params.show == PatchscopeView::Items {
            let expected =
                "table, grid or curves; items shows the subjects of a list (`attributes`)";
            return Err(Error::argument("show", "items", expected));
        }
        let texts = match &params.from {
            SourceTexts::Run => {
                self.sources = vec![self.source(run.clone(), true, lab)?];
                return Ok(());
            }
            SourceTexts::One(text) => vec![text.clone()],
            SourceTexts::List(path) => crate::file::prompts(path)?,
        };
        let source = |text: &String| {
            let run = Run::plain(lab.model.encode(text, params.chat)?);
            self.source(run, false, lab)
        };
        self.sources = texts.iter().map(source).collect::<Result<_>>()?;
        if params.show == PatchscopeView::Grid && self.sources.len() > 1 {
            let expected = "one source for a grid, or a list of subjects (`attributes`)";
            return Err(Error::argument("from", params.from.print(), expected));
        }
        Ok(())
    }

    fn source(&self, run: Run, own: bool, lab: &Lab) -> Result<StateSource> {
        let pieces = lab.model.pieces(&run.tokens);
        let given = &self.params.position;
        let bad = |expected: String| Error::argument("position", given.print(), expected);
        let positions = given.0.in_prompt(&pieces)?;
        if positions.is_empty() {
            let last = run.tokens.len().saturating_sub(1);
            return Err(bad(format!(
                "a position from 0 to {last}, or -1 for the last"
            )));
        }
        if positions.len() > 1 && self.params.placeholders != PlaceholderChoice::Each {
            let n = positions.len();
            return Err(bad(format!(
                "one position; with placeholders=each these {n} fill one placeholder each"
            )));
        }
        let words: String = positions
            .iter()
            .map(|p| lab.visible(run.tokens[*p]))
            .collect();
        let mut label = match positions.as_slice() {
            [one] => format!("{words} at {one}"),
            many => format!("{words} at {}..{}", many[0], many[many.len() - 1] + 1),
        };
        if !own {
            let whole: Vec<u8> = pieces.concat();
            label = format!("{label} of {}", text::plain(&whole).replace('\n', "⏎"));
        }
        Ok(StateSource {
            run,
            positions,
            label,
            noised: None,
            own,
        })
    }

    /// The source of a subject: all its tokens for `each`, else the last.
    fn subject(&self, subject: &SubjectFact, lab: &Lab) -> Result<StateSource> {
        let tokens = lab.model.encode(subject.text(), self.params.chat)?;
        let pieces = lab.model.pieces(&tokens);
        let place = last_of(&pieces, &subject.subject).ok_or_else(|| {
            let expected =
                "subjects whose letters the tokenizer keeps, so that their tokens can be found";
            Error::argument("attributes", &subject.subject, expected)
        })?;
        let last = *place.end();
        Ok(StateSource {
            run: Run::plain(tokens),
            positions: match self.params.placeholders {
                PlaceholderChoice::Each => place.collect(),
                PlaceholderChoice::Last | PlaceholderChoice::All => vec![last],
            },
            label: text::plain(subject.subject.as_bytes()),
            noised: None,
            own: false,
        })
    }

    fn mapped(&self, lab: &mut Lab) -> Result<Map> {
        let save = self.params.save.as_deref();
        let mut pairs = self.pairs.iter().map(|p| self.addresses(*p));
        let path = match (&self.params.map, save) {
            (MapChoice::Fitted(path), _) => path,
            (MapChoice::Identity | MapChoice::Norm | MapChoice::Kept(_), Some(save)) => {
                let expected = "no file, because there is nothing to save: only maps that are fitted on a text file (`map`) are saved";
                return Err(Error::argument("save", save.display(), expected));
            }
            (MapChoice::Identity, None) => return Ok(Map::Identity),
            (MapChoice::Norm, None) => return Ok(Map::Norm),
            (MapChoice::Kept(path), None) => {
                let maps = AffineMaps::load(path, &lab.model.card)?;
                pairs.try_for_each(|pair| maps.get(pair).map(|_| ()))?;
                return Ok(Map::Affine(maps));
            }
        };
        if !path.exists() {
            let expected = "identity, norm, a .safetensors file of maps, or a text file with one prompt a line to fit them on";
            return Err(Error::argument("map", self.params.map.print(), expected));
        }
        if let Some(save) = save {
            crate::file::check(save, lab.overwrite)?;
        }
        let maps = fit(lab, path, &pairs.collect::<Vec<_>>(), self.params.ridge.0)?;
        if let Some(save) = save {
            maps.save(save, lab.overwrite)?;
        }
        Ok(Map::Affine(maps))
    }

    /// The watched tokens, as text.
    pub(super) fn answers(&self, lab: &Lab) -> String {
        let words: Vec<String> = self.watched.iter().map(|t| lab.visible(*t)).collect();
        words.join(" or ")
    }

    /// A description of [`super::sweep::DecodedText::probability`].
    pub(super) fn value(&self) -> &'static str {
        if self.watched.is_empty() {
            "probability of the first token"
        } else {
            "probability of the answers"
        }
    }

    /// How many draws of noise the matched control has: probabilities of given answers have a mean, texts have none.
    pub(super) fn control_draws(&self) -> usize {
        if self.watched.is_empty() { 1 } else { DRAWS }
    }

    /// The controls, in words.
    pub(super) fn control_in_words(&self, lab: &Lab) -> Vec<String> {
        let matched = match (&self.params.entity, &self.key_word) {
            (Some(entity), _) => format!("on “{}”", text::line(entity)),
            (None, Some(word)) => {
                let run = &self.sources[0].run;
                let word: String = lab.visibles(run.tokens[word.clone()].iter().copied());
                format!("on {word}, on which the prediction there depends, because the last word alone does not decode to the same; entity= names another")
            }
            (None, None) => "on the word at the source position; where the state is about another word, entity= names it, and the control is harder to beat".into(),
        };
        let matched = format!(
            "matched: the control, the same state of the same prompt with noise {matched} (3 standard deviations of its own embeddings, {}, seed {})",
            match self.control_draws() {
                1 => "one draw; with answers= several".to_string(),
                many => format!("{many} draws: mean and highest probability, text of the first"),
            },
            self.seed
        );
        let unrelated = format!(
            "unrelated: the control, the same with the last token of an unrelated text that the model generates, seed {}",
            self.seed
        );
        match self.params.control {
            ControlSources::No => Vec::new(),
            ControlSources::Matched => vec![matched],
            ControlSources::Unrelated => vec![unrelated],
            ControlSources::Both => vec![matched, unrelated],
        }
    }

    /// The notes of every figure of this plan.
    pub(super) fn notes(&self, run: &Run, lab: &Lab) -> Vec<String> {
        let what = match self.params.placeholders {
            PlaceholderChoice::Last => "the placeholder",
            PlaceholderChoice::All => "every placeholder",
            PlaceholderChoice::Each => "one placeholder for each source token",
        };
        let mut out = vec![format!(
            "patched: greedy continuation of the target prompt after {} of the source layer overwrote {what} at {} of the target layer, once, while the prompt was read; unpatched: its continuation without the patch",
            self.params.site.print(),
            self.params.into.print(),
        )];
        match &self.map {
            Map::Identity => {}
            Map::Norm => out.push(
                "states were scaled to the norm of what they replaced (not in the paper); ‖h‖ ratio is before scaling".into(),
            ),
            Map::Affine(maps) => out.extend(maps.origin.as_ref().map(|o| {
                format!(
                    "affine maps by ridge regression (penalty {}) on {} positions of {}, {} of them held out, first positions left out; left over: share of the target's variance that the map leaves unexplained on the held-out positions",
                    o.ridge,
                    o.positions,
                    text::visible(o.text.as_bytes()),
                    o.held_out
                )
            })),
        }
        if !self.watched.is_empty() && self.subjects.is_empty() {
            let answers = self.answers(lab);
            out.push(format!(
                "answers: the probability that the first token is {answers}"
            ));
        }
        if self.dropped > 0 {
            out.push(format!(
                "{} source layers have no such target layer and were left out",
                self.dropped
            ));
        }
        if !self.params.of_the_run() && !run.schedule.latest().is_empty() {
            out.push("the source prompts were read without the active edits".into());
        }
        let first = self.sources.iter().filter(|s| s.positions[0] == 0).count();
        if first > 0 {
            out.push(format!(
                "{first} of {} sources include the first token, whose state is unlike any other: give them a prompt that begins earlier",
                self.sources.len()
            ));
        }
        out
    }
}
