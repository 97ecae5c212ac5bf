//! Dictionaries on a model: what a name stands for, where each dictionary reads and writes there, and those that are open.
//!
//! Invariant: a dictionary is on a model only at places that the model has, with activations of its width; what its file says of
//! another model or place is said; the same dictionary is opened once, under whatever names. To keep something else of a
//! dictionary, add a field to [`PlacedDictionary`].

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::dictionary::Dictionary;
use super::embedded::{EMBEDDED, EmbeddedDictionary, embedded};
use super::labels::FeatureLabels;
use super::model_name::same_model;
use super::norms::InputNorm;
use super::place::DictionaryPlace;
use super::{Report, formats};
use crate::config::{NamedDictionary, UserConfig};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::model::hub::{DownloadWatch, Progress, RepositoryPart};
use crate::model::network::address::resolve;
use crate::model::network::blueprint::NormKind;
use crate::model::network::site::Address;
use crate::model::{Card, Model};
use crate::text;

/// A dictionary with its places on a model.
#[derive(Debug)]
pub struct PlacedDictionary {
    pub dictionary: Dictionary,
    /// By input.
    pub reads: Vec<Address>,
    /// By target.
    pub writes: Vec<Address>,
    /// What is otherwise than the file says, in a sentence.
    pub moved: Option<String>,
}

/// The dictionaries of a file or folder: one, or a set of several layers.
#[derive(Debug)]
pub struct DictionarySet {
    /// What it is called: its name in the user's config.toml, an embedded name, or the path that was given.
    pub name: String,
    /// The file or folder, in one spelling.
    source: String,
    /// The file of labels that goes with the name.
    pub labels: Option<PathBuf>,
    pub dictionaries: Vec<PlacedDictionary>,
}

/// The addresses after a path: where it reads, and what it reconstructs if that is said.
type GivenPlaces = (Address, Option<Address>);

/// What a name or path stands for.
enum Meaning {
    Embedded(&'static EmbeddedDictionary),
    Path(PathBuf),
    /// Of a repository on the hub, at this path of the cache.
    Hub(String, PathBuf),
}

/// What was given, taken apart.
struct Given {
    name: String,
    meaning: Meaning,
    places: Option<GivenPlaces>,
    labels: Option<PathBuf>,
}

impl Given {
    /// What makes it the same dictionary as another one.
    fn key(&self) -> String {
        let places = self.places.map_or(String::new(), |(from, to)| {
            format!("@{from}>{}", to.unwrap_or(from))
        });
        format!("{}{places}", self.source())
    }

    /// The file or folder, in one spelling.
    fn source(&self) -> String {
        match &self.meaning {
            Meaning::Embedded(of) => format!("embedded {}", of.name),
            Meaning::Path(path) | Meaning::Hub(_, path) => {
                let whole = path.canonicalize();
                whole.as_ref().unwrap_or(path).display().to_string()
            }
        }
    }

    fn open(&self, model: &Model, report: Report) -> Result<DictionarySet> {
        let found = match &self.meaning {
            Meaning::Embedded(of) => formats::open_embedded(of, report)?,
            Meaning::Path(path) => formats::open_watched(path, report)?,
            Meaning::Hub(id, path) => {
                let mut found = formats::open_watched(path, report)?;
                for dictionary in &mut found {
                    // Instead of a path of the cache.
                    let layer = dictionary.name.rfind("/layer_");
                    let set = path.is_dir() && layer.is_some();
                    let layer = layer
                        .filter(|_| set)
                        .map_or("", |at| &dictionary.name[at..]);
                    dictionary.name = format!("{}{layer}", text::visible(id.as_bytes()));
                }
                found
            }
        };
        if self.places.is_some() && found.len() > 1 {
            return Err(Error::argument(
                "dictionary",
                text::visible(self.name.as_bytes()),
                "a set of several layers without an address; name one of its files for that",
            ));
        }
        let placed = found.into_iter().map(|mut dictionary| {
            let moved = self
                .places
                .and_then(|places| set_places(&mut dictionary, places));
            PlacedDictionary::on(dictionary, model)
                .map(|placed| PlacedDictionary { moved, ..placed })
        });
        Ok(DictionarySet {
            name: self.name.clone(),
            source: self.source(),
            labels: self.labels.clone(),
            dictionaries: placed.collect::<Result<_>>()?,
        })
    }
}

/// Replaces what a file says of its places; a sentence where it says something else.
fn set_places(dictionary: &mut Dictionary, (from, to): GivenPlaces) -> Option<String> {
    let one = dictionary.is_autoencoder();
    let mut said: Vec<String> = Vec::new();
    let mut set = |place: &mut DictionaryPlace, at: Address| {
        if *place != DictionaryPlace::Unsaid && *place != DictionaryPlace::At(at) {
            let word = place.to_string();
            if !said.contains(&word) {
                said.push(word);
            }
        }
        *place = DictionaryPlace::At(at);
    };
    dictionary
        .inputs
        .iter_mut()
        .for_each(|input| set(&mut input.place, from));
    if one || to.is_some() {
        let to = to.unwrap_or(from);
        let targets = dictionary.targets.iter_mut();
        targets.for_each(|target| set(&mut target.place, to));
    }
    let to = to.map_or(String::new(), |to| format!(" and compared with {to}"));
    (!said.is_empty()).then(|| {
        format!(
            "its file says {}; it is read at {from}{to}, as asked",
            said.join(" and ")
        )
    })
}

/// The addresses that stand behind a path.
fn places(text: &str, card: &Card) -> Option<GivenPlaces> {
    let (from, to) = text.split_once('>').unwrap_or((text, text));
    let address = |text: &str| resolve(text.trim(), &card.blueprint).ok();
    let to = address(to)?;
    Some((address(from)?, text.contains('>').then_some(to)))
}

impl DictionarySet {
    /// A set of one dictionary that was not read from a file.
    pub fn of(placed: PlacedDictionary) -> Self {
        let name = placed.dictionary.name.clone();
        Self {
            source: name.clone(),
            name,
            labels: None,
            dictionaries: vec![placed],
        }
    }

    /// Whether it is the same file at the same places as another one, however they were named.
    pub fn is_same(&self, other: &Self) -> bool {
        let places = |set: &Self| -> Vec<(Vec<Address>, Vec<Address>)> {
            let all = set.dictionaries.iter();
            all.map(|d| (d.reads.clone(), d.writes.clone())).collect()
        };
        self.source == other.source && places(self) == places(other)
    }

    /// The dictionary of a layer.
    pub fn at_layer(&self, layer: usize) -> Option<&PlacedDictionary> {
        let mut all = self.dictionaries.iter();
        all.find(|d| usize::from(d.reads[0].layer) == layer)
    }
}

impl PlacedDictionary {
    /// Where edits of its features act: `resid_post.6`, or `mlp_add.*` where it writes to one site of several layers.
    pub fn written_at(&self) -> String {
        let first = self.writes[0];
        if self.writes.len() > 1 && self.writes.iter().all(|at| at.site == first.site) {
            format!("{}.*", first.site.spec().name)
        } else {
            first.to_string()
        }
    }

    /// A dictionary on a model.
    ///
    /// # Errors
    ///
    /// When the model lacks a place, or has activations of another width there.
    pub fn on(mut dictionary: Dictionary, model: &Model) -> Result<Self> {
        let about = |error: Error| {
            if let Error::Refused { address, why } = error {
                let why = format!("(dictionary {}) {why}", dictionary.name);
                Error::Refused { address, why }
            } else {
                error
            }
        };
        let name = dictionary.name.as_str();
        let mut reads = Vec::new();
        for input in &dictionary.inputs {
            let at = input
                .place
                .on(model, input.encoder.width, name)
                .map_err(about)?;
            if reads.contains(&at) {
                return Err(Error::bad_file(
                    name,
                    format!(
                        "it is a crosscoder of {} models at {at}, and there is one model here",
                        dictionary.inputs.len()
                    ),
                    "Its features need the activations of all of them; take a dictionary of this model alone.",
                ));
            }
            reads.push(at);
        }
        let writes = dictionary.targets.iter().map(|target| {
            target
                .place
                .on(model, target.decoder.width, name)
                .map_err(about)
        });
        let writes = writes.collect::<Result<Vec<_>>>()?;
        if model.transformer.norm.kind == NormKind::Rms {
            // Its tool centres the weights of models with LayerNorm alone.
            let centred = dictionary
                .inputs
                .iter_mut()
                .filter(|i| i.norm == InputNorm::Centred);
            centred.for_each(|input| input.norm = InputNorm::Nothing);
        }
        Ok(Self {
            dictionary,
            reads,
            writes,
            moved: None,
        })
    }

    /// The model that its file names, if it is another one.
    pub fn other_model(&self, card: &Card) -> Option<&str> {
        let made_for = self.dictionary.made_for.as_deref()?;
        (!same_model(made_for, &card.name)).then_some(made_for)
    }

    /// What a reader must know of it: what it is, the model that its file names beside this one, and its remarks.
    pub fn notes(&self, card: &Card) -> Vec<String> {
        let dictionary = &self.dictionary;
        let mut about = dictionary.about();
        if let (Some(made_for), None) = (&dictionary.made_for, self.other_model(card)) {
            about = format!("{about}, made for {made_for}, as this model");
        }
        let mut notes = vec![about];
        if let Some(other) = self.other_model(card) {
            notes.push(format!(
                "its file names another model: {other}; this one is {}. Unless the weights are the same, nothing here means anything",
                card.name
            ));
        }
        notes.extend(self.moved.clone());
        notes.extend(dictionary.remarks.iter().cloned());
        notes
    }
}

/// The name of a dictionary that was given, or that of the one that is embedded for the model; none if there is neither.
pub fn named(given: &str, card: &Card) -> Option<String> {
    match given.trim() {
        "" => embedded(card).next().map(|own| own.name.to_string()),
        given => Some(given.to_string()),
    }
}

/// The error where no dictionary is named and none is embedded.
pub fn none_named() -> Error {
    Error::argument(
        "dictionary",
        "",
        "the folder or file of a sparse autoencoder or transcoder: --dictionary PATH, `:dictionary PATH` on the screen, or the form (o)",
    )
}

/// The dictionaries and labels that were opened; kept by the lab.
#[derive(Debug, Default)]
pub struct OpenDictionaries {
    /// By what was given.
    kept: RefCell<BTreeMap<String, Rc<DictionarySet>>>,
    /// By what it is.
    sets: RefCell<BTreeMap<String, Rc<DictionarySet>>>,
    labels: RefCell<BTreeMap<PathBuf, Rc<FeatureLabels>>>,
    /// The names of the user's config.toml.
    named: OnceCell<BTreeMap<String, NamedDictionary>>,
}

impl OpenDictionaries {
    /// The labels of a file, read once; none where no file is named.
    ///
    /// # Errors
    ///
    /// As [`FeatureLabels::open`].
    pub fn labels(&self, path: &Path) -> Result<Rc<FeatureLabels>> {
        if let Some(held) = self.labels.borrow().get(path) {
            return Ok(held.clone());
        }
        let labels = Rc::new(if path.as_os_str().is_empty() {
            FeatureLabels::default()
        } else {
            FeatureLabels::open(path)?
        });
        let mut kept = self.labels.borrow_mut();
        kept.insert(path.to_path_buf(), labels.clone());
        Ok(labels)
    }

    /// What was opened, by what was given.
    pub fn opened(&self) -> Vec<(String, Rc<DictionarySet>)> {
        let kept = self.kept.borrow();
        kept.iter()
            .map(|(given, set)| (given.clone(), set.clone()))
            .collect()
    }

    /// The names of the user's config.toml, read once.
    ///
    /// # Errors
    ///
    /// When it cannot be parsed.
    pub fn named(&self, lab: &Lab) -> Result<&BTreeMap<String, NamedDictionary>> {
        if let Some(named) = self.named.get() {
            return Ok(named);
        }
        let config = match &lab.config {
            Some(folder) => UserConfig::read(folder)?,
            None => UserConfig::default(),
        };
        Ok(self.named.get_or_init(|| config.dictionaries))
    }

    /// The dictionaries that a name or path means, opened once: in this order a name of the user's config.toml, an embedded
    /// name, a path, a hub id; each with `@ADDRESS` or `@ADDRESS>ADDRESS` behind it, which replaces what the file says of where
    /// it reads and what it reconstructs. Nothing given means the dictionary that is embedded for the model.
    ///
    /// # Errors
    ///
    /// When there is none, it cannot be read, or does not fit the model; and [`Error::Cancelled`].
    pub fn get(&self, given: &str, lab: &Lab) -> Result<Rc<DictionarySet>> {
        let given = given.trim();
        if let Some(held) = self.kept.borrow().get(given) {
            return Ok(held.clone());
        }
        let meant = self.meaning(given, lab)?;
        let key = meant.key();
        let held = self.sets.borrow().get(&key).cloned();
        let set = match held {
            Some(held) => held,
            None => Rc::new(meant.open(&lab.model, &|done| lab.report(done))?),
        };
        self.sets.borrow_mut().insert(key, set.clone());
        self.kept
            .borrow_mut()
            .insert(given.to_string(), set.clone());
        Ok(set)
    }

    /// What was given, looked up.
    fn meaning(&self, given: &str, lab: &Lab) -> Result<Given> {
        let card = &lab.model.card;
        if given.is_empty() {
            let Some(own) = embedded(card).next() else {
                let expected = format!(
                    "a dictionary: {} has none of its own. Give the folder or file of one: --dictionary PATH[@ADDRESS]",
                    card.name
                );
                return Err(Error::argument("dictionary", "", expected));
            };
            return Ok(Given {
                name: own.name.into(),
                meaning: Meaning::Embedded(own),
                places: None,
                labels: None,
            });
        }
        let (base, said) = parts(given, card);
        if let Some(named) = self.named(lab)?.get(base) {
            let inner = plain(&named.path, lab)?;
            return Ok(Given {
                name: given.into(),
                places: said.or(inner.places),
                labels: named.labels.clone().or(inner.labels),
                meaning: inner.meaning,
            });
        }
        if let Some(own) = EMBEDDED.iter().find(|own| own.name == base) {
            if own.revision != card.revision {
                let expected = format!(
                    "a dictionary of this model; `{base}` belongs to the embedded demo model"
                );
                return Err(Error::argument("dictionary", base, expected));
            }
            return Ok(Given {
                name: given.into(),
                meaning: Meaning::Embedded(own),
                places: said,
                labels: None,
            });
        }
        plain(given, lab)
    }
}

/// What was given, and the addresses behind it.
fn parts<'a>(given: &'a str, card: &Card) -> (&'a str, Option<GivenPlaces>) {
    let behind = given.rsplit_once('@');
    match behind.and_then(|(base, text)| Some((base.trim(), places(text, card)?))) {
        // An `@` of the path itself is none of an address.
        Some((base, said)) if !Path::new(given).exists() => (base, Some(said)),
        Some(_) | None => (given, None),
    }
}

/// A path or a hub id.
fn plain(given: &str, lab: &Lab) -> Result<Given> {
    let (base, places) = parts(given, &lab.model.card);
    let behind = base.rsplit_once('@');
    if let Some((path, address)) = behind
        && !Path::new(base).exists()
        && Path::new(path.trim()).exists()
    {
        let expected = format!(
            "an address of {} behind @, such as resid_post.{} (`lmscope sites` lists them), or mlp_in.0>mlp_out.0",
            lab.model.card.name,
            lab.model.card.layers / 2,
        );
        let address = text::visible(address.as_bytes());
        return Err(Error::argument(
            "dictionary",
            format!("@{address}"),
            expected,
        ));
    }
    let on_disk = Path::new(base).exists() || base.starts_with(['/', '.', '~']);
    let meaning = if let Some(part) = RepositoryPart::parse(base).filter(|_| !on_disk) {
        Meaning::Hub(base.into(), fetched(&part, lab)?)
    } else {
        if !Path::new(base).exists() {
            return Err(missing(base, lab));
        }
        Meaning::Path(PathBuf::from(base))
    };
    Ok(Given {
        name: given.into(),
        meaning,
        places,
        labels: None,
    })
}

/// The path in the cache of a dictionary on the hub.
fn fetched(part: &RepositoryPart, lab: &Lab) -> Result<PathBuf> {
    let mut show = |progress: &Progress| {
        if let Some(share) = progress.share() {
            lab.progress.tell(share as f32);
        }
    };
    let mut watch = DownloadWatch {
        show: &mut show,
        cancelled: &|| lab.cancel.load(Ordering::Relaxed),
    };
    formats::fetch(part, &mut watch).map_err(|error| {
        if let Error::DownloadStopped(_) = error {
            Error::Cancelled
        } else {
            error
        }
    })
}

/// The error for a name that means nothing.
fn missing(given: &str, lab: &Lab) -> Error {
    let named = lab.derived::<OpenDictionaries>();
    let mut names: Vec<&str> = named.named(lab).map_or_else(
        |_| Vec::new(),
        |named| named.keys().map(String::as_str).collect(),
    );
    names.extend(embedded(&lab.model.card).map(|own| own.name));
    let known = match names.as_slice() {
        [] => String::new(),
        names => format!(" (known: {})", names.join(", ")),
    };
    let expected = format!(
        "a file or folder that exists, a name{known} or a hub id such as OWNER/NAME/FOLDER; perhaps with @ADDRESS behind it"
    );
    Error::argument("dictionary", text::visible(given.as_bytes()), expected)
}
