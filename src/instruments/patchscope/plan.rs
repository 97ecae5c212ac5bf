//! What was asked for: sources, target, layers and the map between, read from the arguments before anything is computed.
//!
//! Invariant: every argument is checked here, so that a sweep never stops on one after its first passes.

use std::path::Path;

use super::super::Arguments;
use super::Patchscope;
use crate::edit::positions::Positions;
use crate::error::{Error, Result};
use crate::instruments::patchscope::attributes;
use crate::instruments::patchscope::attributes::Subject;
use crate::instruments::patchscope::fit::fit;
use crate::instruments::patchscope::map::{Map, Maps};
use crate::instruments::patchscope::placeholders::{Slots, Slotted, last_of};
use crate::instruments::patchscope::templates;
use crate::instruments::patchscope::templates::Template;
use crate::lab::batch::{first_tokens, read_prompts};
use crate::lab::bench::Bench;
use crate::lab::run::Run;
use crate::model::network::site::{Address, SITES, Site};
use crate::text;

/// A layer, or -1 for the embedding.
pub(super) type Layer = i32;

/// What the figure shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    Table,
    Grid,
    Curves,
    Items,
}

impl Show {
    pub(super) const NAMES: [&'static str; 4] = ["table", "grid", "curves", "items"];

    fn named(name: &str) -> Self {
        match name {
            "grid" => Self::Grid,
            "curves" => Self::Curves,
            "items" => Self::Items,
            _ => Self::Table,
        }
    }
}

/// Where states come from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) run: Run,
    /// Whose states are taken, rising and consecutive.
    pub(super) positions: Vec<usize>,
    /// For titles.
    pub(super) label: String,
    /// Whether it is the user's run, so that its places can be pointed at.
    pub(super) own: bool,
}

/// The whole plan.
pub(super) struct Plan {
    pub(super) template: Template,
    pub(super) rule: Slots,
    pub(super) from: Site,
    pub(super) into: Site,
    /// Source layers.
    pub(super) layers: Vec<Layer>,
    /// Source and target layer of every reading, by source layer.
    pub(super) pairs: Vec<(Layer, Layer)>,
    pub(super) sources: Vec<Source>,
    /// Of an attribute list, one a source.
    pub(super) subjects: Vec<Subject>,
    pub(super) map: Map,
    pub(super) count: usize,
    pub(super) watched: Vec<u32>,
    pub(super) show: Show,
    pub(super) null: bool,
    /// Of the null.
    pub(super) seed: u64,
    /// As the figure will say them.
    pub(super) parameters: Vec<(String, String)>,
    dropped: usize,
}

/// The address of a layer's site; the embedding for -1.
pub(super) fn address(site: Site, layer: Layer) -> Address {
    usize::try_from(layer).map_or(Site::Embed.at(0), |l| site.at(l))
}

/// How a layer is written.
pub(super) fn spelled(layer: Layer) -> String {
    if layer < 0 {
        "embed".into()
    } else {
        layer.to_string()
    }
}

impl Plan {
    pub(super) fn new(
        of: &Patchscope,
        run: &Run,
        arguments: &Arguments,
        bench: &mut Bench,
    ) -> Result<Self> {
        let text = |name: &str| arguments.text(of, name);
        let count = bench.model.card.layers;
        let rule = Slots::named(text("slots"))?;
        let show = Show::named(text("show"));
        let layers = layers("layer", text("layer"), count)?;
        let wanted = if show == Show::Grid && text("target") == "same" {
            "all"
        } else {
            text("target")
        };
        let (pairs, dropped) = pairs(&layers, wanted, count)?;
        let template = template(of, arguments)?;
        let mut parameters = arguments.provenance(of);
        parameters.push(("target prompt".into(), template.prompt.clone()));
        let mut plan = Self {
            template,
            rule,
            from: site(text("site"))?,
            into: site(text("into"))?,
            layers,
            pairs,
            sources: Vec::new(),
            subjects: Vec::new(),
            map: Map::Identity,
            count: if [Show::Grid, Show::Curves].contains(&show) && text("attributes").is_empty() {
                1
            } else {
                arguments.count(of, "tokens")?
            },
            watched: if text("answers").is_empty() {
                Vec::new()
            } else {
                first_tokens(bench, "answers", text("answers"))?
            },
            show,
            null: text("null") == "beside",
            seed: run.seed,
            parameters,
            dropped,
        };
        for (from, to) in &plan.pairs {
            bench.model.offers(address(plan.from, *from))?;
            bench.model.offers(address(plan.into, *to))?;
        }
        plan.gather(of, run, arguments, bench)?;
        for source in &plan.sources {
            plan.slotted(bench, source.positions.len())?;
        }
        plan.map = plan.mapped(of, arguments, bench)?;
        Ok(plan)
    }

    /// The target prompt with its slots for so many source tokens.
    pub(super) fn slotted(&self, bench: &Bench, count: usize) -> Result<Slotted> {
        let tokens = bench.model.encode(&self.template.prompt, false)?;
        let pieces: Vec<Vec<u8>> = tokens.iter().map(|t| bench.model.bytes(*t)).collect();
        self.rule
            .place(&tokens, &pieces, &self.template.slot, count)
    }

    /// The addresses of a pair of layers.
    pub(super) fn addresses(&self, pair: (Layer, Layer)) -> (Address, Address) {
        (address(self.from, pair.0), address(self.into, pair.1))
    }

    fn gather(
        &mut self,
        of: &Patchscope,
        run: &Run,
        arguments: &Arguments,
        bench: &Bench,
    ) -> Result<()> {
        let (from, list) = (arguments.text(of, "from"), arguments.text(of, "attributes"));
        let chat = arguments.text(of, "chat") == "yes";
        if !list.is_empty() {
            if !from.is_empty() {
                let expected =
                    "no other source beside a list of subjects; its third column holds the prompts";
                return Err(Error::argument("from", from, expected));
            }
            let answers = arguments.text(of, "answers");
            if !answers.is_empty() {
                let expected =
                    "nothing beside a list of subjects; its second column holds the answers";
                return Err(Error::argument("answers", answers, expected));
            }
            self.subjects = attributes::read(Path::new(list))?;
            for subject in &self.subjects {
                self.sources.push(self.subject(subject, chat, bench)?);
            }
            return Ok(());
        }
        if self.show == Show::Items {
            let expected =
                "table, grid or curves; items are those of a list of subjects (`attributes`)";
            return Err(Error::argument("show", "items", expected));
        }
        let texts = match from.strip_prefix('@') {
            _ if from.is_empty() => Vec::new(),
            Some(path) => read_prompts(Path::new(path))?,
            None => vec![from.to_string()],
        };
        let given = arguments.text(of, "position");
        if texts.is_empty() {
            let source = self.source(run.clone(), given, true, bench)?;
            self.sources.push(source);
        }
        for text in texts {
            let run = Run::plain(bench.model.encode(&text, chat)?);
            let source = self.source(run, given, false, bench)?;
            self.sources.push(source);
        }
        if self.show == Show::Grid && self.sources.len() > 1 {
            let expected = "one source for a grid, or a list of subjects (`attributes`)";
            return Err(Error::argument("from", from, expected));
        }
        Ok(())
    }

    fn source(&self, run: Run, given: &str, own: bool, bench: &Bench) -> Result<Source> {
        let length = run.tokens.len();
        let pieces: Vec<Vec<u8>> = run.tokens.iter().map(|t| bench.model.bytes(*t)).collect();
        let bad = |expected: String| Error::argument("position", given, expected);
        let rule: Positions = given.parse()?;
        let rule = rule.resolve(&pieces)?;
        let positions: Vec<usize> = (0..length).filter(|p| rule.covers(*p, length)).collect();
        if positions.is_empty() {
            let last = length.saturating_sub(1);
            return Err(bad(format!(
                "a position from 0 to {last}, or -1 for the last"
            )));
        }
        if positions.len() > 1 && self.rule != Slots::Each {
            let n = positions.len();
            return Err(bad(format!(
                "one position; with slots=each the {n} of them fill a slot each"
            )));
        }
        let words: Vec<String> = positions
            .iter()
            .map(|p| bench.visible(run.tokens[*p]))
            .collect();
        let place = match positions.as_slice() {
            [one] => one.to_string(),
            many => format!("{}..{}", many[0], many[many.len() - 1] + 1),
        };
        let mut label = format!("{} at {place}", words.concat());
        if !own {
            let whole: Vec<u8> = pieces.concat();
            label = format!("{label} of {}", text::plain(&whole).replace('\n', "⏎"));
        }
        Ok(Source {
            run,
            positions,
            label,
            own,
        })
    }

    /// The tokens of a subject: all of them for `each`, else the last.
    fn subject(&self, subject: &Subject, chat: bool, bench: &Bench) -> Result<Source> {
        let tokens = bench.model.encode(subject.text(), chat)?;
        let pieces: Vec<Vec<u8>> = tokens.iter().map(|t| bench.model.bytes(*t)).collect();
        let place = last_of(&pieces, &subject.subject).ok_or_else(|| {
            let expected =
                "subjects whose letters the tokenizer keeps, so that their tokens can be found";
            Error::argument("attributes", &subject.subject, expected)
        })?;
        let last = *place.end();
        Ok(Source {
            run: Run::plain(tokens),
            positions: if self.rule == Slots::Each {
                place.collect()
            } else {
                vec![last]
            },
            label: text::plain(subject.subject.as_bytes()),
            own: false,
        })
    }

    fn mapped(&self, of: &Patchscope, arguments: &Arguments, bench: &mut Bench) -> Result<Map> {
        let save = arguments.text(of, "save");
        let given = arguments.text(of, "map");
        let path = Path::new(given);
        let file = path.extension().is_some_and(|e| e == "safetensors");
        let fits = !file && !["identity", "norm"].contains(&given);
        if !save.is_empty() && !fits {
            let expected =
                "nothing to keep: only maps that are fitted on a text file (`map`) are saved";
            return Err(Error::argument("save", save, expected));
        }
        if !fits {
            return Ok(match given {
                "identity" => Map::Identity,
                "norm" => Map::Norm,
                _ => {
                    let maps = Maps::load(path, &bench.model.card)?;
                    for pair in &self.pairs {
                        maps.get(self.addresses(*pair))?;
                    }
                    Map::Affine(maps)
                }
            });
        }
        if !path.exists() {
            let expected = "identity, norm, a .safetensors file of maps, or a text file with a prompt a line to fit them on";
            return Err(Error::argument("map", given, expected));
        }
        let text = arguments.text(of, "ridge");
        let ridge = text
            .trim()
            .parse::<f64>()
            .ok()
            .filter(|r| r.is_finite() && *r >= 0.0)
            .ok_or_else(|| Error::argument("ridge", text, "a number, 0 or more"))?;
        let pairs: Vec<_> = self.pairs.iter().map(|p| self.addresses(*p)).collect();
        if !save.is_empty() {
            crate::file::check(Path::new(save), bench.overwrite)?;
        }
        let maps = fit(bench, path, &pairs, ridge)?;
        if !save.is_empty() {
            maps.save(Path::new(save), bench.overwrite)?;
        }
        Ok(Map::Affine(maps))
    }

    /// What every figure of this plan must say.
    pub(super) fn notes(&self, run: &Run, bench: &Bench) -> Vec<String> {
        let what = match self.rule {
            Slots::Last => "the slot",
            Slots::All => "every slot",
            Slots::Each => "a slot for each source token",
        };
        let mut out = vec![format!(
            "patched: greedy continuation after {} of the source layer overwrote {what} at {} of the target layer, once, while the target was read; unpatched: the same target left alone",
            self.from.spec().name,
            self.into.spec().name,
        )];
        match &self.map {
            Map::Identity => {}
            Map::Norm => out.push(
                "states were scaled to the length of what they replaced (not in the paper); ‖h‖ ratio is from before".into(),
            ),
            Map::Affine(maps) => out.extend(maps.origin.as_ref().map(|o| {
                format!(
                    "affine maps by ridge regression (penalty {}) on {} positions of {}, {} held out, first positions left out; left over: share of the target's variance on the held-out ones",
                    o.ridge,
                    o.positions,
                    text::visible(o.text.as_bytes()),
                    o.held_out
                )
            })),
        }
        if !self.watched.is_empty() && self.subjects.is_empty() {
            let watched = self.watched.iter().map(|id| bench.visible(*id));
            out.push(format!(
                "answers: the probability that the first token is {}",
                watched.collect::<Vec<_>>().join(" or ")
            ));
        }
        if self.dropped > 0 {
            out.push(format!(
                "{} source layers have no such target layer and were left out",
                self.dropped
            ));
        }
        if !self.sources.iter().any(|s| s.own) && !run.schedule.latest().is_empty() {
            out.push("the source prompts were read without the edits that are on".into());
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

/// How many readings there are to make of one source, and how many tokens of a target follow its first slot, roughly.
pub(super) fn size(of: &Patchscope, arguments: &Arguments, count: usize) -> Option<(usize, usize)> {
    let text = |name: &str| arguments.text(of, name);
    let layers = layers("layer", text("layer"), count).ok()?;
    let show = Show::named(text("show"));
    let wanted = match (show, text("target")) {
        (Show::Grid, "same") => "all",
        (_, target) => target,
    };
    let (pairs, _) = pairs(&layers, wanted, count).ok()?;
    let nulls = if text("null") == "beside" { 2 } else { 1 };
    let template = template(of, arguments).ok()?;
    // Every branch reads on from the first slot that it fills.
    let rest = match Slots::named(text("slots")).ok()? {
        Slots::Last => template.prompt.rsplit(&template.slot).next(),
        Slots::All | Slots::Each => template.prompt.split_once(&template.slot).map(|s| s.1),
    }?;
    let written = match show {
        Show::Grid | Show::Curves => 1,
        Show::Table | Show::Items => arguments.count(of, "tokens").ok()?,
    };
    Some((
        pairs.len() * nulls,
        rest.split_whitespace().count() + written,
    ))
}

fn template(of: &Patchscope, arguments: &Arguments) -> Result<Template> {
    let (name, own) = (arguments.text(of, "template"), arguments.text(of, "prompt"));
    let mut found = if own.is_empty() {
        templates::find(name, arguments.text(of, "library"))?
    } else {
        Template {
            name: "own prompt".into(),
            prompt: own.into(),
            slot: "x".into(),
            about: String::new(),
        }
    };
    let slot = arguments.text(of, "slot");
    if !slot.is_empty() {
        found.slot = slot.into();
    }
    Ok(found)
}

fn site(name: &str) -> Result<Site> {
    let found = SITES.iter().find(|s| s.name == name).map(|s| s.site);
    found.ok_or_else(|| Error::argument("site", name, "a site of residual width"))
}

/// Layers by name: `all`, `3`, `-1`, `2-5`, `0,4,8`.
pub(super) fn layers(name: &str, given: &str, count: usize) -> Result<Vec<Layer>> {
    let bad = || {
        let expected = format!(
            "all, layers from 0 to {} such as 3, 2-5 or 0,4, or -1 for the embedding",
            count - 1
        );
        Error::argument(name, given, expected)
    };
    if given == "all" {
        return Ok((0..count as Layer).collect());
    }
    let known = |text: &str| {
        let layer = text.trim().parse::<Layer>().ok();
        layer
            .filter(|l| (-1..count as Layer).contains(l))
            .ok_or_else(bad)
    };
    let mut out = Vec::new();
    for part in given.split(',') {
        match part.trim().split_once('-') {
            Some((first, last)) if !first.is_empty() => {
                let (first, last) = (known(first)?, known(last)?);
                if first > last {
                    return Err(bad());
                }
                out.extend(first..=last);
            }
            _ => out.push(known(part)?),
        }
    }
    out.sort_unstable();
    out.dedup();
    Ok(out)
}

/// Source and target layers of every reading, and how many sources have none: `same`, `same+2`, or layers.
fn pairs(sources: &[Layer], given: &str, count: usize) -> Result<(Vec<(Layer, Layer)>, usize)> {
    let Some(offset) = given.strip_prefix("same") else {
        let targets = layers("target", given, count)?;
        let all = sources
            .iter()
            .flat_map(|s| targets.iter().map(|t| (*s, *t)));
        return Ok((all.collect(), 0));
    };
    let expected = "same, same+2, same-1, all, or layers such as 3, 2-5 or -1";
    let bad = || Error::argument("target", given, expected);
    let offset = match offset {
        "" => 0,
        signed if signed.starts_with(['+', '-']) => signed.parse::<Layer>().map_err(|_| bad())?,
        _ => return Err(bad()),
    };
    let all = sources
        .iter()
        .filter_map(|s| Some((*s, s.checked_add(offset)?)));
    let out: Vec<_> = all
        .filter(|(_, t)| (-1..count as Layer).contains(t))
        .collect();
    if out.is_empty() {
        let expected = format!(
            "an offset that leads from a source layer to one from -1 to {}",
            count - 1
        );
        return Err(Error::argument("target", given, expected));
    }
    let dropped = sources.len() - out.len();
    Ok((out, dropped))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_read_in_every_spelling() {
        let read = |text: &str| layers("layer", text, 6).unwrap();
        assert_eq!(read("all"), [0, 1, 2, 3, 4, 5]);
        assert_eq!(read("-1"), [-1]);
        assert_eq!(read("2-4"), [2, 3, 4]);
        assert_eq!(read("5, -1,0-1,0"), [-1, 0, 1, 5]);
        for text in ["6", "-2", "4-2", "2-9", "", "a", "1,,2"] {
            assert!(layers("layer", text, 6).is_err(), "{text}");
        }
    }

    #[test]
    fn targets_follow_their_source_or_stand_alone() {
        let read = |text: &str| pairs(&[0, 3, 5], text, 6).unwrap();
        assert_eq!(read("same"), (vec![(0, 0), (3, 3), (5, 5)], 0));
        assert_eq!(read("same+2"), (vec![(0, 2), (3, 5)], 1));
        assert_eq!(read("same-1"), (vec![(0, -1), (3, 2), (5, 4)], 0));
        assert_eq!(read("-1,4").0.len(), 6);
        assert_eq!(read("-1,4").0[1], (0, 4));
        for text in ["same2", "same+", "same+x", "same+9", "some", "6"] {
            assert!(pairs(&[0, 3, 5], text, 6).is_err(), "{text}");
        }
    }
}
