//! Reads addresses: our own names and those of TransformerLens, at one layer, a range of layers or all layers. Text that is
//! neither gets an error that says what is wrong.
//!
//! Invariant: printing and parsing an [`Address`] are inverse; a TransformerLens name whose meaning depends on the architecture
//! is read only where the architecture is known ([`resolve`], [`expand`]). The meaning of each such name is in
//! [`super::names`]. To add a way to write layers, add it to [`Layers`].

use std::fmt;
use std::str::FromStr;

use strsim::levenshtein;

use super::blueprint::{Blueprint, MlpKind};
use super::names::{NameMeaning, NameRule, SPELLINGS, Spelling};
use super::site::{Address, SITES, Site, SiteSpec, check_layer};
use crate::error::{Error, Result};

/// The layers of an address or pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layers {
    /// `3`. Sites that exist once, such as `logits`, have layer 0.
    One(u16),
    /// `3-5`, both included.
    Range(u16, u16),
    /// `*`.
    Every,
}

impl Layers {
    fn read(text: &str) -> Option<Self> {
        // Refuses `+3` and `03`, which would not print as they were written.
        let number = |t: &str| t.parse::<u16>().ok().filter(|n| n.to_string() == t);
        if text == "*" {
            return Some(Self::Every);
        }
        match text.split_once('-') {
            Some((a, b)) => {
                let (a, b) = (number(a)?, number(b)?);
                (a <= b).then_some(Self::Range(a, b))
            }
            None => number(text).map(Self::One),
        }
    }

    fn each(self, count: usize) -> Vec<usize> {
        match self {
            Self::One(layer) => vec![usize::from(layer)],
            Self::Range(a, b) => (a.into()..=b.into()).collect(),
            Self::Every => (0..count).collect(),
        }
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(layer) => write!(f, "{layer}"),
            Self::Range(a, b) => write!(f, "{a}-{b}"),
            Self::Every => f.write_str("*"),
        }
    }
}

/// A TransformerLens name at some layers. Its meaning may depend on the architecture.
#[derive(Clone, Copy, Debug)]
pub struct ForeignName {
    pub spelling: &'static Spelling,
    pub layers: Layers,
}

impl PartialEq for ForeignName {
    fn eq(&self, other: &Self) -> bool {
        self.spelling.name == other.spelling.name && self.layers == other.layers
    }
}

impl Eq for ForeignName {}

impl fmt::Display for ForeignName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spelling.name.replace("{}", &self.layers.to_string()))
    }
}

impl ForeignName {
    /// The site that the name means on every architecture; an error if its meaning depends on the architecture, or if no site
    /// has that tensor.
    pub fn anywhere(&self) -> Result<Site> {
        let near = self.spelling.near;
        match &self.spelling.rule {
            NameRule::Always => Ok(near),
            NameRule::Never(has, _) => Err(self.holds(has, &self.near(near, None))),
            NameRule::Depends(place, _) => Err(self.refused(format!(
                "which tensor this name of TransformerLens means depends on the architecture ({} {place}), and none is known here. Write the site itself.",
                written(near, self.layers)
            ))),
        }
    }

    /// The site that the name means on an architecture, at its layers.
    pub fn on(&self, blueprint: &Blueprint) -> Result<Site> {
        let count = blueprint.layers.len();
        let mut found: Option<Site> = None;
        for layer in self.layers.each(count) {
            let site = self.at(blueprint, layer)?;
            if let Some(other) = found
                && other != site
            {
                return Err(self.refused(format!(
                    "it means {} at some of these layers and {} at others. Name them apart.",
                    site.spec().name,
                    other.spec().name
                )));
            }
            found = Some(site);
        }
        found.ok_or_else(|| self.refused("the model has no such layer.".into()))
    }

    fn at(&self, blueprint: &Blueprint, layer: usize) -> Result<Site> {
        check_layer(self.spelling.near.at(layer), blueprint.layers.len())?;
        let nearest = |site| self.near(site, Some((blueprint, layer)));
        match self.spelling.meaning(blueprint, layer) {
            NameMeaning::Is(site) => Ok(site),
            NameMeaning::Holds(has, near) => Err(self.holds(has, &nearest(near))),
            NameMeaning::Absent => Err(self.refused(format!(
                "TransformerLens has nothing of this name on this {}. {}",
                blueprint.family,
                nearest(self.spelling.near)
            ))),
            NameMeaning::Unmeasured => Err(self.refused(format!(
                "TransformerLens cannot run this {}, so nobody can say what it has there. {}",
                blueprint.family,
                nearest(self.spelling.near)
            ))),
        }
    }

    fn holds(&self, has: &str, nearest: &str) -> Error {
        self.refused(format!(
            "under this name TransformerLens has {has}, which is not a site here. {nearest}"
        ))
    }

    /// A sentence that names the nearest site; if the architecture is known, one that it has.
    fn near(&self, site: Site, here: Option<(&Blueprint, usize)>) -> String {
        let layered = self.spelling.name.contains("{}");
        let site = here.map_or(site, |(b, layer)| nearest_site(site, layer, b));
        let spec = site.spec();
        let at = match here {
            // A name without a layer in TransformerLens whose nearest site exists in every layer: suggest the last layer.
            Some((b, _)) if !layered => written(site, Layers::One(last(b))),
            Some((_, layer)) => site.at(layer).to_string(),
            None if layered || !spec.layered => written(site, self.layers),
            None => format!("{}.L", spec.name),
        };
        format!("The nearest site is {at}: {}.", spec.about)
    }

    fn refused(&self, why: String) -> Error {
        Error::Refused {
            address: self.to_string(),
            why,
        }
    }
}

/// A site at some layers, as users write it.
pub fn written(site: Site, layers: Layers) -> String {
    let spec = site.spec();
    if spec.layered {
        format!("{}.{layers}", spec.name)
    } else {
        spec.name.to_string()
    }
}

fn last(blueprint: &Blueprint) -> u16 {
    u16::try_from(blueprint.layers.len() - 1).unwrap_or(u16::MAX)
}

/// The replacement to suggest for a site that a layer lacks.
const NEAREST: &[(Site, Site)] = &[
    (Site::Router, Site::MlpUp),
    (Site::MlpGate, Site::MlpUp),
    (Site::MlpUp, Site::MlpOut),
    (Site::MlpAct, Site::MlpOut),
    (Site::MlpNormed, Site::MlpIn),
    (Site::ResidMid, Site::ResidPre),
    (Site::FinalNorm, Site::ResidPost),
];

/// A site, or the nearest one that the layer has.
pub fn nearest_site(site: Site, layer: usize, blueprint: &Blueprint) -> Site {
    let mut near = site;
    while why_absent(near.at(layer), blueprint).is_some() {
        let Some((_, next)) = NEAREST.iter().find(|(site, _)| *site == near) else {
            break;
        };
        near = *next;
    }
    near
}

/// The reason why an architecture does not have an address, ending in what to use instead.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other site is everywhere"
)]
pub fn why_absent(at: Address, b: &Blueprint) -> Option<String> {
    let (family, layer) = (b.family, usize::from(at.layer));
    let kind = b.layers.get(layer).map(|l| l.mlp);
    let mixed = kind == Some(MlpKind::Experts);
    match at.site {
        Site::MlpGate | Site::MlpUp | Site::MlpAct if mixed => Some(format!(
            "block {layer} of {family} is a mixture of experts, whose neurons are inside the experts. Use mlp_out.{layer} or router.{layer}."
        )),
        Site::MlpGate if kind == Some(MlpKind::Plain) => Some(format!(
            "the MLP of {family} has no gate. Use mlp_up.{layer} (before the activation) or mlp_act.{layer}."
        )),
        Site::Router if !mixed => Some(format!(
            "block {layer} of {family} has one MLP and no router. Use mlp_act.{layer}."
        )),
        Site::MlpNormed if !b.arrangement.norms_mlp_input() => Some(format!(
            "blocks of {family} have no norm of their own before the MLP. Use mlp_in.{layer}."
        )),
        Site::ResidMid if b.arrangement.is_parallel() => Some(format!(
            "attention and MLP of {family} read the same stream, so nothing lies between them. Use resid_pre.{layer} or resid_post.{layer}."
        )),
        Site::FinalNorm if !b.final_norm => Some(format!(
            "this {family} has no norm before the unembedding. Use resid_post.{}.",
            b.layers.len() - 1
        )),
        _ => None,
    }
}

/// What a text in address syntax names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// One of our sites.
    Own(Site, Layers),
    /// A TransformerLens name.
    Foreign(ForeignName),
}

impl FromStr for Pattern {
    type Err = Error;

    /// Parses `resid_post.10`, `resid_post.4-9`, `resid_post.*`, `logits`, and the same of TransformerLens:
    /// `blocks.10.hook_resid_post`, `blocks.4-9.hook_resid_post`, `blocks.*.hook_resid_post`.
    fn from_str(s: &str) -> Result<Self> {
        let text = s.trim();
        known(text).ok_or_else(|| unknown(text))
    }
}

fn known(text: &str) -> Option<Pattern> {
    let own = |spec: &SiteSpec| {
        if spec.layered {
            let layers = text.strip_prefix(spec.name)?.strip_prefix('.')?;
            return Layers::read(layers);
        }
        (text == spec.name).then_some(Layers::One(0))
    };
    let foreign = |spelling: &Spelling| match spelling.name.split_once("{}") {
        Some((before, after)) => Layers::read(text.strip_prefix(before)?.strip_suffix(after)?),
        None => (text == spelling.name).then_some(Layers::One(0)),
    };
    let ours = SITES.iter().find_map(|spec| {
        let layers = own(spec)?;
        Some(Pattern::Own(spec.site, layers))
    });
    ours.or_else(|| {
        SPELLINGS.iter().find_map(|spelling| {
            let layers = foreign(spelling)?;
            Some(Pattern::Foreign(ForeignName { spelling, layers }))
        })
    })
}

fn single(text: &str, site: Site, layers: Layers) -> Result<Address> {
    match layers {
        Layers::One(layer) => Ok(site.at(layer.into())),
        Layers::Range(..) | Layers::Every => Err(Error::BadAddress {
            given: text.to_string(),
            why: format!(
                "one address is wanted here, such as {}.0.",
                site.spec().name
            ),
        }),
    }
}

impl FromStr for Address {
    type Err = Error;

    /// Parses `resid_post.10`, and those TransformerLens names that mean the same site on every architecture.
    fn from_str(s: &str) -> Result<Self> {
        match s.parse::<Pattern>()? {
            Pattern::Own(site, layers) => single(s, site, layers),
            Pattern::Foreign(name) => single(s, name.anywhere()?, name.layers),
        }
    }
}

/// Parses an address for a known architecture, which decides the meaning of some TransformerLens names.
pub fn resolve(text: &str, blueprint: &Blueprint) -> Result<Address> {
    match text.parse::<Pattern>()? {
        Pattern::Own(site, layers) => single(text, site, layers),
        Pattern::Foreign(name) => single(text, name.on(blueprint)?, name.layers),
    }
}

/// Expands patterns, comma-separated: `resid_post.*,mlp_act.2,blocks.4-9.hook_z,logits`; a name alone means every layer.
pub fn expand(patterns: &str, blueprint: &Blueprint) -> Result<Vec<Address>> {
    let count = blueprint.layers.len();
    let mut out: Vec<Address> = Vec::new();
    for text in patterns.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let bare = SITES.iter().find(|s| s.name == text && s.layered);
        let (site, layers) = match bare {
            Some(spec) => (spec.site, Layers::Every),
            None => match text.parse::<Pattern>()? {
                Pattern::Own(site, layers) => (site, layers),
                Pattern::Foreign(name) => (name.on(blueprint)?, name.layers),
            },
        };
        for layer in layers.each(count) {
            let address = site.at(layer);
            check_layer(address, count)?;
            if !out.contains(&address) {
                out.push(address);
            }
        }
    }
    if out.is_empty() {
        return Err(Error::argument(
            "sites",
            patterns,
            "at least one address such as resid_post.* or logits",
        ));
    }
    Ok(out)
}

/// Finds a site by its bare name.
pub fn site_named(name: &str) -> Result<Site> {
    let found = SITES.iter().find(|s| s.name == name);
    found.map(|s| s.site).ok_or_else(|| unknown(name))
}

/// The error for a text that names no address: the specific mistake if it is recognised, else the nearest name.
pub fn unknown(given: &str) -> Error {
    if let Some(why) = mistake(given) {
        return Error::BadAddress {
            given: given.to_string(),
            why,
        };
    }
    let lower = given.to_lowercase();
    let foreign = lower.starts_with("blocks.") || lower.contains("hook_");
    let near = if foreign {
        let layer = lower.split('.').nth(1);
        let layer = layer.filter(|l| Layers::read(l).is_some()).unwrap_or("0");
        let names = SPELLINGS.iter().map(|s| s.name.replace("{}", layer));
        names.map(|n| (levenshtein(&lower, &n), n)).min()
    } else {
        let base = lower.split('.').next().unwrap_or(given);
        let names = SITES.iter().map(|s| s.name);
        names.map(|n| (levenshtein(base, n), n.to_string())).min()
    };
    let near = near.filter(|(d, n)| *d <= n.len().div_ceil(2));
    Error::UnknownSite {
        given: given.to_string(),
        near: near.map(|(_, n)| n),
    }
}

/// Recognises common mistakes and says what is wrong.
fn mistake(given: &str) -> Option<String> {
    let squeezed: String = given.chars().filter(|c| !c.is_whitespace()).collect();
    if squeezed != given && known(&squeezed).is_some() {
        return Some(format!("addresses have no spaces. Write {squeezed}."));
    }
    let lower = given.to_lowercase();
    if lower != given && known(&lower).is_some() {
        return Some(format!("addresses are in lower case. Write {lower}."));
    }
    if let Some(why) = module_path(given) {
        return Some(why);
    }
    let (name, layer) = match given.split_once('.') {
        Some(("blocks", rest)) => (given, rest.split('.').next()),
        Some((name, layer)) => (name, Some(layer)),
        None => (given, None),
    };
    let spec = SITES.iter().find(|s| s.name == name);
    match (spec, layer) {
        (Some(spec), None) if spec.layered => Some(format!(
            "it is there once a layer. Write {name}.0 for the first, {name}.2-5 for some, {name}.* for all."
        )),
        (Some(spec), Some(_)) if !spec.layered => {
            Some(format!("it is there once, not once a layer. Write {name}."))
        }
        (_, Some(layer)) if spec.is_some() || name.starts_with("blocks.") => wrong_layer(layer),
        _ => None,
    }
}

fn wrong_layer(layer: &str) -> Option<String> {
    if Layers::read(layer).is_some() {
        return None;
    }
    let number = layer.parse::<i64>().ok();
    Some(match (number, layer.split_once('-')) {
        (Some(n), _) if n < 0 => {
            "layers count from 0, at the embedding; negative layers do not exist. `lmscope sites --model MODEL` lists the sites of a model.".into()
        }
        (Some(n), _) if n > i64::from(u16::MAX) => {
            format!("no model has a layer {n}. Layers count from 0.")
        }
        (Some(n), _) => format!("the layer is written {n}."),
        (None, Some((a, b))) if a.parse::<u16>().is_ok() && b.parse::<u16>().is_ok() => {
            format!("the range runs backwards. Write {b}-{a}.")
        }
        (None, _) => format!("`{layer}` is not a layer. Write a number from 0, a range such as 2-5, or * for all."),
    })
}

/// Refuses names of modules and hidden states of `transformers`: a module has an input and an output, so its name is ambiguous.
fn module_path(given: &str) -> Option<String> {
    if given.starts_with("hidden_states") {
        return Some("hidden_states[0] of transformers is embed, hidden_states[i] is resid_post.(i-1), and the last one is final_norm. Write that.".into());
    }
    let path = given.strip_prefix("model.").unwrap_or(given);
    let inside = "layers. transformer.h. h. gpt_neox.layers. decoder.layers.";
    let rest = inside.split(' ').find_map(|p| path.strip_prefix(p))?;
    let layer = rest.split('.').next()?.parse::<u16>().ok()?;
    Some(format!(
        "it looks like the path of a module, which has an input and an output. Write the site: what enters block {layer} is resid_pre.{layer}, what leaves it is resid_post.{layer}; `lmscope sites` lists the others."
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::model::network::families::FAMILIES;

    fn blueprint(family: &str) -> Blueprint {
        let family = FAMILIES.iter().find(|f| f.name == family).unwrap();
        let model = Model::tiny(family, 1).unwrap();
        model.transformer.blueprint.clone()
    }

    #[test]
    fn addresses_print_and_parse_inversely() {
        for spec in SITES {
            let address = spec.site.at(7);
            assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
        }
        for spelling in SPELLINGS {
            let text = spelling.name.replace("{}", "7");
            let layers = Layers::One(if spelling.name.contains("{}") { 7 } else { 0 });
            let name = ForeignName { spelling, layers };
            assert_eq!(name.to_string(), text);
            assert_eq!(text.parse::<Pattern>().unwrap(), Pattern::Foreign(name));
        }
    }

    #[test]
    fn patterns_expand_and_refuse() {
        let llama = blueprint("llama");
        let count = llama.layers.len();
        let all = expand("resid_post.*,logits,resid_post", &llama).unwrap();
        assert_eq!(all.len(), count + 1);
        assert_eq!(
            expand("mlp_act.0-1", &llama).unwrap(),
            [Site::MlpAct.at(0), Site::MlpAct.at(1)]
        );
        assert_eq!(
            expand("blocks.*.mlp.hook_post", &llama).unwrap(),
            expand("mlp_act.*", &llama).unwrap()
        );
        assert_eq!(
            expand("blocks.0-1.hook_attn_out", &llama).unwrap(),
            [Site::AttnAdd.at(0), Site::AttnAdd.at(1)]
        );
        let beyond = format!("resid_post.{count}");
        for bad in [
            beyond.as_str(),
            "resid_post.1-9",
            "blocks.9.hook_z",
            "logits.1",
            ",",
        ] {
            assert!(expand(bad, &llama).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_the_architecture_decides_waits_for_it() {
        let text = "blocks.1.attn.hook_q";
        let error = text.parse::<Address>().unwrap_err().to_string();
        assert!(
            error.contains("q.1") && error.contains("architecture"),
            "{error}"
        );
        assert_eq!(resolve(text, &blueprint("llama")).unwrap(), Site::Q.at(1));
        let error = resolve(text, &blueprint("qwen3")).unwrap_err().to_string();
        assert!(
            error.contains("before their norm") && error.contains("q.1"),
            "{error}"
        );
        let error = resolve("hook_embed", &blueprint("gpt2")).unwrap_err();
        assert!(error.to_string().contains("before positions"), "{error}");
        let pre = |family| resolve("blocks.0.mlp.hook_pre", &blueprint(family));
        assert_eq!(pre("gpt2").unwrap(), Site::MlpUp.at(0));
        assert_eq!(pre("llama").unwrap(), Site::MlpGate.at(0));
        let error = pre("mixtral").unwrap_err().to_string();
        assert!(error.contains("mlp_in.0"), "{error}");
    }

    #[test]
    fn what_names_nothing_is_told_why() {
        for (text, why) in [
            ("resid_pots.3", "Did you mean `resid_post`"),
            ("resid_post", "resid_post.*"),
            ("resid_post. 3", "Write resid_post.3."),
            ("Resid_Post.3", "Write resid_post.3."),
            ("BLOCKS.3.ATTN.HOOK_Z", "lower case"),
            ("BLOCKS.3.HOOK_Z", "Did you mean `blocks.3."),
            ("resid_post.-1", "negative layers"),
            ("blocks.-1.hook_resid_post", "negative layers"),
            ("resid_post.70000", "no model has"),
            ("resid_post.03", "written 3"),
            ("resid_post.5-2", "Write 2-5"),
            ("resid_post.x", "not a layer"),
            ("resid_post.*", "one address"),
            ("blocks.*.hook_resid_post", "one address"),
            ("logits.2", "Write logits."),
            ("hidden_states[3]", "resid_post.(i-1)"),
            ("model.layers.4.mlp", "resid_post.4"),
            ("transformer.h.4", "resid_pre.4"),
            ("blocks.2.hook_resid_pst", "blocks.2.hook_resid_post"),
            ("blocks.2.attn.hook_result", "z.2"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
