//! Another model from inside: the list of those that can be opened here, and the change to one of them.
//!
//! Invariant: the session of the model before is finished and kept; panes, theme, history and the last prompt stay, so that `R` runs the
//! same prompt on the new model. To keep something else, add it to [`App::open_model`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::commands::{CommandResult, command};
use super::cursor::Cursor;
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

    /// The settings, without what was asked for at the start: for another session or model.
    pub(super) fn settings_of_another(&self) -> AppSettings {
        AppSettings {
            prompt: None,
            presets: Vec::new(),
            edits: Vec::new(),
            dictionaries: Vec::new(),
            labels: None,
            resume: None,
            tour: false,
            ..self.settings.clone()
        }
    }

    /// Finishes the session and begins with these settings; returns what was before. The screen's size, the time and the notices go on.
    pub(super) fn begin_another(&mut self, settings: AppSettings) -> Self {
        let unkept = self.finish_session();
        let mut before = std::mem::replace(self, Self::at_start(settings));
        self.layout.size = before.layout.size;
        self.revision = before.revision + 1;
        self.now = before.now;
        self.notices = std::mem::take(&mut before.notices);
        if let Some(unkept) = unkept {
            self.warn_loudly(unkept);
        }
        before
    }

    /// Opens another model in place of the present one, whose session is kept.
    pub(super) fn open_model(&mut self, argument: &str) -> CommandResult {
        if argument == self.settings.model && self.model.is_some() {
            return Err("this model is loaded already".into());
        }
        let at_work = self.model.is_some() || self.loading.is_some();
        let settings = AppSettings {
            model: argument.to_string(),
            // The type of the weights, and which device has which blocks, was chosen for another model.
            options: Options {
                dtype: None,
                split: Vec::new(),
                ..self.settings.options.clone()
            },
            sampling: self.history.sampling(),
            ..self.settings_of_another()
        };
        // What is about the model before, or numbers its tokens, does not stay.
        let screen = ScreenLine {
            arguments: BTreeMap::new(),
            views: BTreeMap::new(),
            marks: Vec::new(),
            examples: Vec::new(),
            selected: 0,
            difference: false,
            compare: false,
            cursor: Cursor::default(),
            reference: Vec::new(),
            reference_prompt: 0,
            ..self.screen_line()
        };
        let before = self.begin_another(settings);
        self.restore_screen(&screen);
        // A text is one for every model; ids and spliced tokens are not.
        self.last = before.last.filter(|last| match last {
            PromptSource::Text(_) | PromptSource::Chat(_) | PromptSource::Messages(_) => true,
            PromptSource::Ids(_) | PromptSource::Spliced { .. } => false,
        });
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_chosen_for_one_model_is_not_for_another() {
        let options = Options {
            dtype: Some("f16".into()),
            device: Some("cpu:0-1".into()),
            split: vec![5, 3],
            context: Some(64),
            ..Options::default()
        };
        let (mut app, _) = App::new(AppSettings {
            options,
            theme: "nord".into(),
            ..AppSettings::default()
        });
        let effects = app.open_model("/models/other.gguf").unwrap();
        let load = effects.iter().find_map(|effect| {
            if let Effect::Ask(Request::Load { model, options }) = effect {
                Some((model.as_str(), options))
            } else {
                None
            }
        });
        let (model, options) = load.unwrap();
        assert_eq!(model, "/models/other.gguf");
        assert_eq!((&options.dtype, options.split.is_empty()), (&None, true));
        assert_eq!(options.device.as_deref(), Some("cpu:0-1"));
        assert_eq!(options.context, Some(64));
        assert_eq!(app.settings.theme, "nord");
    }
}
