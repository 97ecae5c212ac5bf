//! The form for the parameters of an instrument, derived from its declarations.
//!
//! Invariant: arguments are sent only after the instrument has parsed them; an error is shown in the form.
//! To add a kind of field, add a variant of [`ParamKind`] in `instruments/params.rs` and its arm in [`Form::press`].

use super::key::{Code, Key};
use super::line_editor::{EditorOutcome, PromptInput};
use crate::engine::PaneName;
use crate::instruments::{Arguments, Instrument, ParamKind, Parameter, instrument};

/// A parameter with the text of its value.
#[derive(Clone, Debug)]
pub struct Field {
    pub parameter: &'static Parameter,
    /// The text of the value.
    pub value: PromptInput,
}

#[derive(Clone, Debug)]
pub struct Form {
    /// The instrument's name.
    pub slot: PaneName,
    pub fields: Vec<Field>,
    /// The field that has the cursor.
    pub selected: usize,
    /// Why the arguments were refused.
    pub error: Option<String>,
    layers: usize,
}

/// The result of a key press.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormKey {
    /// The form stays open.
    Stay,
    /// The form is closed without a request.
    Close,
    /// The figure is requested with these arguments.
    Ask(Arguments),
}

impl Form {
    /// A form with these arguments; parameters not given have their defaults.
    pub fn new(instrument: &'static dyn Instrument, arguments: &Arguments, layers: usize) -> Self {
        let field = |p: &'static Parameter| Field {
            parameter: p,
            value: PromptInput::with(
                arguments
                    .given
                    .get(p.name)
                    .map_or(p.default, String::as_str),
            ),
        };
        let fields = instrument.parameters().iter().map(field).collect();
        Self {
            slot: instrument.name(),
            fields,
            selected: 0,
            error: None,
            layers,
        }
    }

    /// The values as arguments.
    pub fn arguments(&self) -> Arguments {
        let values = self
            .fields
            .iter()
            .map(|f| (f.parameter.name.to_string(), f.value.text().to_string()));
        Arguments::of(values.collect())
    }

    pub fn press(&mut self, key: Key) -> FormKey {
        let last = self.fields.len().saturating_sub(1);
        match (key.ctrl, key.shift, key.code) {
            (false, _, Code::Esc) => return FormKey::Close,
            (false, true, Code::Tab) | (false, _, Code::Up) => {
                self.selected = self.selected.saturating_sub(1);
            }
            (false, false, Code::Tab) | (false, _, Code::Down) => {
                self.selected = (self.selected + 1).min(last);
            }
            (false, _, Code::Enter) => return self.send(),
            (false, _, Code::Left) if self.is_adjustable() => self.adjust(-1),
            (false, _, Code::Right | Code::Space) if self.is_adjustable() => self.adjust(1),
            _ => {
                let choice = self
                    .fields
                    .get(self.selected)
                    .is_some_and(|f| matches!(f.parameter.kind, ParamKind::Choice(_)));
                if let Some(field) = self.fields.get_mut(self.selected).filter(|_| !choice)
                    && field.value.press(key) == EditorOutcome::Changed
                {
                    self.error = None;
                }
            }
        }
        FormKey::Stay
    }

    /// Inserts pasted text into the selected field.
    pub fn paste(&mut self, text: &str) {
        if let Some(field) = self.fields.get_mut(self.selected) {
            field.value.paste(text);
        }
    }

    /// Whether left and right change the selected field's value.
    fn is_adjustable(&self) -> bool {
        self.fields
            .get(self.selected)
            .is_some_and(|f| match f.parameter.kind {
                ParamKind::Choice(_)
                | ParamKind::Layer
                | ParamKind::Count { .. }
                | ParamKind::Position => true,
                // A text that is not one of the words is edited instead.
                ParamKind::Word(words) => words.contains(&f.value.text()),
                ParamKind::Text => false,
            })
    }

    fn adjust(&mut self, by: i64) {
        let layers = self.layers;
        let Some(field) = self.fields.get_mut(self.selected) else {
            return;
        };
        let text = field.value.text().to_string();
        let number = text.parse::<i64>().ok();
        let next = match field.parameter.kind {
            ParamKind::Choice(words) | ParamKind::Word(words) => {
                let at = words
                    .iter()
                    .position(|w| *w == text)
                    .map_or(0, |i| (i as i64 + by).rem_euclid(words.len() as i64));
                words.get(at as usize).map(ToString::to_string)
            }
            ParamKind::Count { lo, hi } => {
                number.map(|n| (n + by).clamp(lo as i64, hi as i64).to_string())
            }
            ParamKind::Position => number.map(|n| (n + by).to_string()),
            ParamKind::Layer => {
                let all = layers as i64;
                let at = (number.unwrap_or(all) + by).rem_euclid(all + 1);
                Some(if at == all {
                    "all".to_string()
                } else {
                    at.to_string()
                })
            }
            ParamKind::Text => None,
        };
        if let Some(next) = next {
            field.value.set(&next);
            self.error = None;
        }
    }

    fn send(&mut self) -> FormKey {
        let arguments = self.arguments();
        match instrument(self.slot).and_then(|of| of.read(&arguments)) {
            Ok(read) => FormKey::Ask(read),
            Err(error) => {
                self.error = Some(error.to_string());
                FormKey::Stay
            }
        }
    }
}
