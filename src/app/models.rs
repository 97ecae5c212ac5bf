//! Another model from inside: the list of those that can be opened here, and the change to one of them.
//!
//! Invariant: the session of the model before is finished and kept; panes, theme, history and the last prompt stay, so that `R` runs the
//! same prompt on the new model. To keep something else, add it to [`App::open_model`].

use std::path::PathBuf;

use super::commands::{CommandResult, command};
use super::palette::{PaletteItem, PaletteList};
use super::session::lines::ScreenLine;
use super::{App, AppSettings, Effect};
use crate::engine::{PromptSource, Request};
use crate::model::known::KnownModel;
use crate::model::load::Options;
use crate::text;

impl App {
    /// Asks which models can be opened: also those beside the present one, and in the folder in which the program was started.
    pub(super) fn ask_models(&self) -> Vec<Effect> {
        let own = PathBuf::from(&self.settings.model);
        let beside = own.parent().map(PathBuf::from);
        let mut folders: Vec<PathBuf> = beside.into_iter().collect();
        folders.retain(|folder| !folder.as_os_str().is_empty());
        folders.push(PathBuf::from("."));
        folders.dedup();
        vec![Effect::Ask(Request::ListModels(folders))]
    }

    /// Opens the list of models, unless something else is open by now.
    pub(super) fn show_models(&mut self, models: Vec<KnownModel>) {
        let Some(row) = command("models").filter(|_| self.overlay.is_none() && !self.writing)
        else {
            return;
        };
        let present = &self.settings.model;
        let item = |model: KnownModel| PaletteItem {
            name: text::line(&short(&model)),
            about: text::line(&in_words(&model, model.argument == *present)),
            keys: Vec::new(),
            command: row,
            argument: model.argument,
        };
        let items = models.into_iter().map(item).collect();
        self.open_listing(PaletteList::Picker, "models", items);
    }

    /// Opens another model in place of the present one, whose session is kept.
    pub(super) fn open_model(&mut self, argument: &str) -> CommandResult {
        if argument == self.settings.model && self.model.is_some() {
            return Err("this model is loaded already".into());
        }
        let unkept = self.finish_session();
        let at_work = self.model.is_some() || self.loading.is_some();
        let options = &self.settings.options;
        let settings = AppSettings {
            model: argument.to_string(),
            // The type of the weights was chosen for another model.
            options: Options {
                dtype: None,
                ..options.clone()
            },
            prompt: None,
            presets: Vec::new(),
            edits: Vec::new(),
            dictionaries: Vec::new(),
            labels: None,
            resume: None,
            tour: false,
            sampling: self.history.sampling(),
            ..self.settings.clone()
        };
        let screen = ScreenLine {
            arguments: std::collections::BTreeMap::new(),
            marks: Vec::new(),
            examples: Vec::new(),
            selected: 0,
            difference: false,
            compare: false,
            cursor: super::Cursor::default(),
            ..self.screen_line()
        };
        let before = std::mem::replace(self, Self::at_start(settings));
        self.restore_screen(&screen);
        self.layout.size = before.layout.size;
        self.revision = before.revision + 1;
        self.now = before.now;
        self.notices = before.notices;
        // A text is one for every model; ids and spliced tokens are not.
        self.last = before.last.filter(|last| match last {
            PromptSource::Text(_) | PromptSource::Chat(_) | PromptSource::Messages(_) => true,
            PromptSource::Ids(_) | PromptSource::Spliced { .. } => false,
        });
        if let Some(unkept) = unkept {
            self.warn_loudly(unkept);
        }
        if self.last.is_some() {
            self.inform("R runs the last prompt on this model");
        }
        let mut effects = Vec::new();
        if at_work {
            effects.push(Effect::Cancel);
        }
        effects.extend(self.load());
        Ok(effects)
    }
}

/// What tells a model apart in a narrow column: the end of a path, or its id.
fn short(model: &KnownModel) -> String {
    let path = PathBuf::from(&model.argument);
    let here = model.path.as_ref() == Some(&path);
    match path.file_name().filter(|_| here) {
        Some(name) => name.to_string_lossy().into_owned(),
        None => model.argument.clone(),
    }
}

/// A model in a line: what it is, how large, whether it fits, and where it lies.
fn in_words(model: &KnownModel, present: bool) -> String {
    let mut said = Vec::new();
    if present {
        said.push("loaded now".to_string());
    }
    match (&model.missing, model.fits) {
        (Some(part), _) => said.push(format!("incomplete: {part} is missing")),
        (None, Some(false)) => said.push("DOES NOT FIT into the free memory".into()),
        (None, Some(true) | None) => {}
    }
    if !model.family.is_empty() && model.family != model.dtypes {
        said.push(model.family.clone());
    }
    said.extend(
        model
            .parameters
            .map(|n| format!("{} weights", text::count(n))),
    );
    said.push(model.dtypes.clone());
    match model.bytes {
        Some(0) => {}
        Some(bytes) => said.push(text::size(bytes)),
        None => said.push("in the program".into()),
    }
    if model
        .path
        .as_ref()
        .is_some_and(|p| model.argument == p.display().to_string())
    {
        said.push(model.argument.clone());
    }
    said.retain(|part| !part.is_empty());
    said.join(" · ")
}
