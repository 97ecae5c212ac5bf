//! The common parameters of instruments that read through a lens: the site, the norm, and the maps.
//!
//! Invariant: these parameters have the same meaning and the same description in every instrument. To add a site that a lens
//! can read, add it to [`READABLE`].

use std::rc::Rc;

use crate::error::Result;
use crate::instruments::logit_lens::lens_file::LensFile;
use crate::instruments::params::{ParamKind, ParameterValue, choices};
use crate::lab::Lab;
use crate::lab::capture::{NormOf, Readout, StateMaps, StateStats};
use crate::model::network::site::Site;

/// The sites that a lens can read, by name.
pub const READABLE: [(&str, Site); 5] = [
    ("resid_post", Site::ResidPost),
    ("resid_mid", Site::ResidMid),
    ("resid_pre", Site::ResidPre),
    ("attn_add", Site::AttnAdd),
    ("mlp_add", Site::MlpAdd),
];

const NAMES: &[&str] = &[
    READABLE[0].0,
    READABLE[1].0,
    READABLE[2].0,
    READABLE[3].0,
    READABLE[4].0,
];

/// The site that a lens reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadSite(pub Site);

impl ParameterValue for ReadSite {
    const KIND: ParamKind = ParamKind::Choice(NAMES);
    const DEFAULT: &'static str = "resid_post";
    const ABOUT: &'static str = "what the lens reads at every layer: the residual stream, or the output of attention or MLP";

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let found = READABLE.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, site)| Self(*site))
            .ok_or_else(|| format!("one of {}", NAMES.join(", ")))
    }

    fn print(&self) -> String {
        self.0.spec().name.into()
    }
}

choices! {
    for NormOf { Own = "own", Final = "final" } = "own",
        "the statistics of the final norm: own: of each row itself; final: of the model's last state at that position"
}

/// The path of a file of maps; empty for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapsFile(pub String);

impl ParameterValue for MapsFile {
    const KIND: ParamKind = ParamKind::Text;
    const ABOUT: &'static str = "a tuned lens (its folder) or a Jacobian lens (its .pt file); the plain logit lens is shown for comparison";

    fn parse(text: &str) -> std::result::Result<Self, String> {
        Ok(Self(text.into()))
    }

    fn print(&self) -> String {
        self.0.clone()
    }
}

/// Combines the parameters and opens the file of maps.
///
/// # Errors
///
/// When the file holds no maps for this model.
pub fn view(site: ReadSite, norm: NormOf, maps: &MapsFile, lab: &Lab) -> Result<LensView> {
    Ok(LensView {
        site: site.0,
        norm,
        file: match maps.0.trim() {
            "" => None,
            file => Some(Rc::new(LensFile::open(file, &lab.model)?)),
        },
    })
}

/// The site, norm and maps of a reading.
pub struct LensView {
    pub site: Site,
    /// Whose mean and variance the final norm uses.
    pub norm: NormOf,
    /// The file of maps; none for the plain logit lens.
    pub file: Option<Rc<LensFile>>,
}

impl LensView {
    /// The plain logit lens.
    pub fn plain() -> Self {
        Self {
            site: Site::ResidPost,
            norm: NormOf::Own,
            file: None,
        }
    }

    /// A readout of the site in every layer, without any statistics requested yet.
    pub fn readout(&self, layers: usize) -> Readout {
        Readout {
            at: (0..layers).map(|l| self.site.at(l)).collect(),
            norm: self.norm,
            maps: self.file.clone().map(|file| file as Rc<dyn StateMaps>),
            ..Readout::default()
        }
    }
}

/// A sentence on the convergence layer at the first position that was read.
pub(super) fn answer_settles(seen: &StateStats, lab: &Lab) -> String {
    let answer = lab.visible(seen.finals[0].first().0);
    match seen.settles(0) {
        Some(layer) => format!(
            "the prediction {answer} converges at layer {layer} of 0-{}",
            seen.layers.len() - 1
        ),
        None => format!("{answer} is not the top prediction of this lens at the last layer"),
    }
}
