//! Handles key presses: first the overlay, then the prompt, then the keymap.
//!
//! Invariant: the front-most element gets the key; ctrl-c, ctrl-z and ctrl-l work everywhere; any key other than ctrl-c disarms
//! quitting. To add an overlay, add a variant of [`Overlay`] and its arm in [`App::press_overlay`].

use std::time::Duration;

use super::commands::{Command, CommandResult, Context, Unavailable, command, commands};
use super::completion::at_home;
use super::form::{Form, FormKey};
use super::key::{Code, Key};
use super::keymap::Lookup;
use super::layout::Pane;
use super::line_editor::{EditorOutcome, PromptInput};
use super::palette::{Listing, PaletteItem, PaletteKey, PaletteList, picks, span};
use super::{App, ArgumentLine, Effect, Overlay};
use crate::instruments::{INSTRUMENTS, Instrument, instrument};
use crate::text;

/// The time within which a second ctrl-c quits.
const LEAVING: Duration = Duration::from_secs(2);

/// Commands whose hints come first in the footer, if they can run; the others follow in the order of their rows.
const FIRST: &[&str] = &[
    "run",
    "toggle-selected",
    "operation",
    "delete",
    "write",
    "continue",
    "last",
    "toggle",
    "next-figure",
    "next-pane",
    "patchscope",
    "ablate",
    "mark",
    "steer",
    "compare",
];

impl App {
    /// The part of the screen whose keys apply.
    pub fn context(&self) -> Context {
        match self.layout.focus {
            Pane::Transcript => Context::Transcript,
            Pane::Figure(_) => Context::Figure,
            Pane::Edits => Context::Edits,
            Pane::Cell => Context::Cell,
        }
    }

    pub(super) fn press(&mut self, key: Key) -> Vec<Effect> {
        if let Lookup::Command(row) = self.keymap.look_up(Context::Always, &[key])
            && row.context == Context::Always
        {
            self.pending.clear();
            if row.name != "interrupt" {
                self.leaving = None;
            }
            let outcome = (row.run)(self, "");
            return self.settle(outcome);
        }
        self.leaving = None;
        if self.overlay.is_some() {
            return self.press_overlay(key);
        }
        if self.writing {
            return self.press_prompt(key);
        }
        if self.arrangement().is_none() && !matches!(key.code, Code::Char('q' | '?' | ':')) {
            return Vec::new();
        }
        if key.code == Code::Esc && !self.pending.is_empty() {
            self.pending.clear();
            return Vec::new();
        }
        self.pending.push(key);
        match self.keymap.look_up(self.context(), &self.pending) {
            Lookup::Command(row) => {
                self.pending.clear();
                self.run_key(row, key)
            }
            Lookup::Pending => Vec::new(),
            Lookup::Nothing => {
                let keys = super::key::spell(&self.pending);
                let chord = self.pending.len() > 1;
                self.pending.clear();
                if chord || key.text().is_some() {
                    self.inform(format!("{keys} does nothing here; ? lists the keys"));
                }
                Vec::new()
            }
        }
    }

    fn run_key(&mut self, row: &'static Command, key: Key) -> Vec<Effect> {
        if let Err(Unavailable(why)) = (row.enabled)(self) {
            self.inform(why);
            return Vec::new();
        }
        let outcome = match (row.numbered, key.code) {
            (Some(run), Code::Char(c)) if c.is_ascii_digit() => {
                run(self, c as usize - '0' as usize)
            }
            _ => self.run_command(row, ""),
        };
        self.settle(outcome)
    }

    /// Runs a command; if it requires an argument and has none, asks for it.
    pub(super) fn run_command(&mut self, row: &'static Command, argument: &str) -> CommandResult {
        (row.enabled)(self)?;
        if row.wants() && argument.is_empty() {
            self.open_line(row);
            return Ok(Vec::new());
        }
        match std::env::var("HOME").ok().filter(|_| row.takes_file()) {
            Some(home) => (row.run)(self, &at_home(argument, &home)),
            None => (row.run)(self, argument),
        }
    }

    /// Runs a command line as it was typed.
    pub fn execute(&mut self, line: &str) -> Result<Vec<Effect>, Unavailable> {
        let line = line.trim();
        let (word, rest) = line
            .split_once(char::is_whitespace)
            .map_or((line, ""), |(w, r)| (w, r.trim()));
        let of = instrument(word);
        if let Some(row) = command(word) {
            if row.arguments.is_empty() && !rest.is_empty() {
                let other = match of {
                    Ok(_) => format!(
                        "; `show {word}` opens the instrument of that name, and o its parameters"
                    ),
                    Err(_) => String::new(),
                };
                let about = row.about;
                return Err(Unavailable(format!(
                    "`{word}` takes nothing: it {about}{other}"
                )));
            }
            return self.run_command(row, rest);
        }
        if let Ok(of) = of {
            if !rest.is_empty() {
                return Err(Unavailable(format!(
                    "`{word}` opens its figure and takes nothing; o sets the parameters there"
                )));
            }
            self.set_focus(Pane::Figure(of.name()));
            return Ok(Vec::new());
        }
        Err(Unavailable(format!(
            "there is no command `{word}`; ? lists what can be done here"
        )))
    }

    /// The effects of a command; an error becomes a notice.
    pub(super) fn settle(&mut self, outcome: CommandResult) -> Vec<Effect> {
        outcome.unwrap_or_else(|Unavailable(why)| {
            self.warn(why);
            Vec::new()
        })
    }

    pub(super) fn paste(&mut self, text: &str) {
        match &mut self.overlay {
            Some(Overlay::Listing(listing)) => listing.paste(text),
            Some(Overlay::Form(form)) => form.paste(text),
            Some(Overlay::Line(line)) => line.value.paste(text),
            Some(Overlay::Notices { .. } | Overlay::Notes { .. }) => {}
            None => {
                self.writing = true;
                self.set_focus(Pane::Transcript);
                self.prompt.paste(text);
            }
        }
    }

    fn press_prompt(&mut self, key: Key) -> Vec<Effect> {
        match (key.ctrl, key.code) {
            (false, Code::Esc) => {
                self.writing = false;
                return Vec::new();
            }
            (false, Code::Tab) => {
                if self.chat_possible() {
                    self.settings.chat = !self.settings.chat;
                } else {
                    self.inform("this model has no chat template; prompts are raw text");
                }
                return self.count_prompt();
            }
            (true, Code::Char('x')) => {
                return vec![Effect::EditText(self.prompt.text().to_string())];
            }
            _ => {}
        }
        match self.prompt.press(key) {
            EditorOutcome::Sent => {}
            EditorOutcome::Changed => return self.count_prompt(),
            EditorOutcome::Ignored => return Vec::new(),
        }
        if self.prompt.text().is_empty() {
            self.inform("the prompt is empty; write something, or leave with Esc");
            return Vec::new();
        }
        self.writing = false;
        let (text, chat) = (
            self.prompt.send(),
            self.settings.chat && self.chat_possible(),
        );
        self.start(text, chat)
    }

    fn press_overlay(&mut self, key: Key) -> Vec<Effect> {
        match self.overlay.take() {
            Some(Overlay::Listing(listing)) => self.press_listing(listing, key),
            Some(Overlay::Form(mut form)) => match form.press(key) {
                FormKey::Stay => self.keep(Overlay::Form(form)),
                FormKey::Close => Vec::new(),
                FormKey::Ask(arguments) => self.question(form.slot, arguments),
            },
            Some(Overlay::Line(line)) => self.press_line(line, key),
            Some(Overlay::Notes { scroll }) if key.code != Code::Char('N') && !leaves(key) => {
                let scroll = if up(key) {
                    scroll.saturating_sub(1)
                } else {
                    (scroll + 1).min(1000)
                };
                self.keep(Overlay::Notes { scroll })
            }
            Some(Overlay::Notices { scroll }) if !leaves(key) => {
                let scroll = if up(key) {
                    (scroll + 1).min(self.notices.all.len())
                } else {
                    scroll.saturating_sub(1)
                };
                self.keep(Overlay::Notices { scroll })
            }
            Some(Overlay::Notes { .. } | Overlay::Notices { .. }) | None => Vec::new(),
        }
    }

    fn keep(&mut self, overlay: Overlay) -> Vec<Effect> {
        self.overlay = Some(overlay);
        Vec::new()
    }

    fn press_listing(&mut self, mut listing: Listing, key: Key) -> Vec<Effect> {
        if key == Key::plain(Code::Tab) && self.complete_in_palette(&mut listing) {
            return self.keep(Overlay::Listing(listing));
        }
        let choice = listing.press(key);
        if listing.purpose == PaletteList::Palette {
            self.remember_command(&choice);
        }
        if listing.purpose == PaletteList::Theme {
            self.preview(&listing, &choice);
        }
        match choice {
            PaletteKey::Stay => self.keep(Overlay::Listing(listing)),
            PaletteKey::Close => Vec::new(),
            PaletteKey::Run(command, argument) => {
                let outcome = self.run_command(command, &argument);
                self.settle(outcome)
            }
            PaletteKey::Typed(line) => {
                let outcome = self.execute(&line);
                self.settle(outcome)
            }
        }
    }

    /// Keeps what was run in the palette, for Up.
    fn remember_command(&mut self, choice: &PaletteKey) {
        let line = match choice {
            PaletteKey::Stay | PaletteKey::Close => return,
            PaletteKey::Typed(line) => line.clone(),
            PaletteKey::Run(command, argument) => format!("{} {argument}", command.name)
                .trim_end()
                .to_string(),
        };
        if self.commands.last() != Some(&line) {
            self.commands.push(line);
        }
    }

    /// Shows the selected theme; closing the list restores the previous one.
    fn preview(&mut self, listing: &Listing, choice: &PaletteKey) {
        let before = self
            .theme_before
            .clone()
            .unwrap_or_else(|| self.settings.theme.clone());
        match (choice, listing.current()) {
            (PaletteKey::Stay, Some(item)) => {
                self.theme_before = Some(before);
                self.settings.theme.clone_from(&item.name);
            }
            (PaletteKey::Stay | PaletteKey::Close, _) => {
                self.settings.theme = before;
                self.theme_before = None;
            }
            (PaletteKey::Run(..) | PaletteKey::Typed(_), _) => self.theme_before = None,
        }
    }

    fn press_line(&mut self, mut line: ArgumentLine, key: Key) -> Vec<Effect> {
        if key == Key::plain(Code::Esc) {
            return Vec::new();
        }
        if key == Key::plain(Code::Tab) && self.complete_in_line(&mut line) {
            return self.keep(Overlay::Line(line));
        }
        match line.value.press(key) {
            EditorOutcome::Changed => line.error = None,
            EditorOutcome::Ignored => {}
            EditorOutcome::Sent if line.value.text().trim().is_empty() => {
                line.error = Some("write something, or leave with Esc".into());
            }
            EditorOutcome::Sent => match self.run_command(line.command, line.value.text().trim()) {
                Ok(effects) => return effects,
                Err(Unavailable(why)) => line.error = Some(why),
            },
        }
        self.keep(Overlay::Line(line))
    }

    /// Opens a line to write the argument of a command.
    pub(super) fn open_line(&mut self, row: &'static Command) {
        let now = row.now.map(|now| format!("now {}", now(self)));
        let now = now.unwrap_or_else(|| row.arguments.into());
        self.overlay = Some(Overlay::Line(ArgumentLine {
            command: row,
            label: format!("{} ({now})", row.name),
            value: PromptInput::line(),
            error: None,
        }));
    }

    /// A preview of a form as it is filled in: the token after which the figure is measured, if that is not the last one, and
    /// the cost of the measurement.
    pub fn form_preview(&self, form: &Form) -> Option<String> {
        let after = self.end_of_text_for(form.slot).and_then(|n| {
            let token = self.transcript.tokens.get(n - 1)?;
            let text = text::visible(&token.bytes);
            Some(format!("asks for the token after {text} ({})", n - 1))
        });
        let cost = self.cost(form).map(|cost| format!("takes {cost}"));
        let parts: Vec<String> = [after, cost].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(" · "))
    }

    fn cost(&self, form: &Form) -> Option<String> {
        self.cost_in_words(instrument(form.slot).ok()?, &form.arguments())
    }

    pub(super) fn open_form(&mut self, instrument: &'static dyn Instrument) {
        let layers = self.model.as_ref().map_or(1, |m| m.card.layers);
        self.overlay = Some(Overlay::Form(Form::new(
            instrument,
            &self.prefilled(instrument),
            layers,
        )));
    }

    pub(super) fn open_listing(
        &mut self,
        purpose: PaletteList,
        title: &str,
        items: Vec<PaletteItem>,
    ) {
        self.overlay = Some(Overlay::Listing(Listing::new(purpose, title, items)));
    }

    /// Opens a list of values for a command, each with a description.
    pub(super) fn open_picker(&mut self, of: &str, title: &str, values: Vec<(String, String)>) {
        self.open_listing(PaletteList::Picker, title, picks(of, values));
    }

    /// Opens the list of themes; the selected one is applied at once.
    pub(super) fn open_themes(&mut self) {
        let items = picks("theme", self.settings.themes.clone());
        self.open_listing(PaletteList::Theme, "theme", items);
    }

    fn item(&self, row: &'static Command) -> PaletteItem {
        let name = if row.arguments.is_empty() {
            row.name.to_string()
        } else {
            format!("{} {}", row.name, row.arguments)
        };
        PaletteItem {
            name,
            about: row.about.to_string(),
            keys: self.keymap.keys_of(row),
            command: row,
            argument: String::new(),
        }
    }

    /// Opens help: the commands available here, this pane's own first.
    pub(super) fn open_help(&mut self) {
        let here = self.context();
        let works = |c: &&'static Command| (c.enabled)(self).is_ok();
        let fits =
            |c: &&'static Command| [here, Context::Anywhere, Context::Always].contains(&c.context);
        let mut rows: Vec<&'static Command> = commands().filter(works).filter(fits).collect();
        rows.sort_by_key(|c| (c.context != here, c.keys.is_empty()));
        let items = rows.into_iter().map(|c| self.item(c)).collect();
        let title = format!("help · {}", here.name());
        self.open_listing(PaletteList::Help, &title, items);
    }

    /// Opens the palette: all commands, and all instruments by name.
    pub(super) fn open_palette(&mut self) {
        let mut items: Vec<PaletteItem> = commands().map(|c| self.item(c)).collect();
        let instruments = INSTRUMENTS
            .iter()
            .map(|i| (i.name().into(), i.about().into()));
        items.extend(picks("show", instruments.collect()));
        let mut seen = std::collections::BTreeSet::new();
        items.retain(|i| seen.insert(i.name.clone()));
        let mut listing = Listing::new(PaletteList::Palette, "palette", items);
        listing.filter.remember(self.commands.clone());
        self.overlay = Some(Overlay::Listing(listing));
    }

    /// Ctrl-c: stops the work; else clears the text being written; else quits.
    pub(super) fn interrupt(&mut self) -> Vec<Effect> {
        if self.downloading() {
            return vec![Effect::Cancel];
        }
        let working = self.is_replaying()
            || self.transcript.busy()
            || self.baseline_asked
            || self.history.is_restoring()
            || self.shown.values().any(|s| s.working.is_some());
        if working {
            self.baseline_asked = false;
            self.shown.values_mut().for_each(|s| s.working = None);
            return self.stop();
        }
        if self.overlay.is_some() {
            self.overlay = None;
            if let Some(before) = self.theme_before.take() {
                self.settings.theme = before;
            }
            return Vec::new();
        }
        if self.writing {
            if self.prompt.is_empty() {
                self.writing = false;
            }
            self.prompt.clear();
            return Vec::new();
        }
        if self.leaving.is_some() {
            return self.quit();
        }
        self.leaving = Some(self.now + LEAVING);
        Vec::new()
    }

    /// Quits; the session is on the disk already. Where it is not, asks once.
    pub(super) fn quit(&mut self) -> Vec<Effect> {
        let unsaved = self.session.unsaved();
        let asked = std::mem::replace(&mut self.quit_asked, unsaved.is_some());
        if let Some(why) = unsaved.filter(|_| !asked) {
            self.warn_loudly(format!("not left: {why}. Quitting again leaves without it"));
            return Vec::new();
        }
        vec![Effect::Cancel, Effect::Quit]
    }

    /// Whether a model is being downloaded.
    fn downloading(&self) -> bool {
        self.loading.as_ref().is_some_and(|l| l.download.is_some())
    }

    /// Hints for the footer: keys and words of commands that can run now, this pane's own first.
    pub fn hints(&self) -> Vec<(String, String)> {
        let pair = |(keys, words): &(&str, &str)| (keys.to_string(), words.to_string());
        let fixed: &[(&str, &str)] = match &self.overlay {
            Some(Overlay::Listing(list)) => match list.purpose {
                PaletteList::Palette => &[
                    ("Enter", "run"),
                    ("Tab", "complete"),
                    ("Esc", "back"),
                    ("Up Down", "choose"),
                ],
                PaletteList::Theme => {
                    &[("Enter", "take it"), ("Esc", "back"), ("Up Down", "choose")]
                }
                PaletteList::Help | PaletteList::Picker => {
                    &[("Enter", "run"), ("Esc", "back"), ("Up Down", "choose")]
                }
            },
            Some(Overlay::Form(_)) => &[
                ("Enter", "run"),
                ("Tab", "next"),
                ("Left Right", "change"),
                ("Esc", "back"),
            ],
            Some(Overlay::Line(line)) if line.command.can_complete() => {
                &[("Enter", "take it"), ("Tab", "complete"), ("Esc", "back")]
            }
            Some(Overlay::Line(_)) => &[("Enter", "take it"), ("Esc", "back")],
            Some(Overlay::Notices { .. } | Overlay::Notes { .. }) => {
                &[("Up Down", "scroll"), ("Esc", "back")]
            }
            None if self.writing => &[
                ("Enter", "send"),
                (
                    "Tab",
                    if self.settings.chat {
                        "write raw text"
                    } else {
                        "write chat"
                    },
                ),
                ("ctrl-j", "new line"),
                ("ctrl-x", "editor"),
                ("Up", "earlier"),
                ("Esc", "leave"),
            ],
            None => &[],
        };
        if !fixed.is_empty() {
            return fixed.iter().map(pair).collect();
        }
        let here = self.context();
        let offered = |c: &&'static Command| !c.hint.is_empty() && (c.enabled)(self).is_ok();
        let mut rows: Vec<&'static Command> = commands()
            .filter(|c| [here, Context::Anywhere].contains(&c.context))
            .filter(offered)
            .collect();
        // In a figure, commands for its cells come before those for the text.
        let own = ["ablate", "mark", "card", "prune", "grow"];
        let acts = |c: &Command| here == Context::Figure && own.contains(&c.name);
        rows.sort_by_key(|c| {
            let place = FIRST.iter().position(|f| *f == c.name);
            (!acts(c), place.unwrap_or(FIRST.len()))
        });
        let mut out = Vec::new();
        if self.transcript.busy() || self.downloading() || self.is_replaying() {
            out.push(pair(&("ctrl-c", "stop")));
        }
        for row in rows {
            let keys = self.keymap.keys_of(row);
            let keys = if keys.len() > 3 {
                span(&keys)
            } else {
                keys.first().cloned().unwrap_or_default()
            };
            if !keys.is_empty() {
                let marks = self.history.marks();
                let hint = match row.name {
                    "ablate" if !marks.is_empty() => format!("ablate {} marked", marks.len()),
                    _ => row.hint.to_string(),
                };
                out.push((keys, hint));
            }
        }
        out
    }
}

/// Whether a key closes an overlay that is only read.
fn leaves(key: Key) -> bool {
    matches!(key.code, Code::Esc | Code::Enter | Code::Char('q'))
}

fn up(key: Key) -> bool {
    matches!(key.code, Code::Up | Code::Char('k') | Code::PageUp)
}

#[cfg(test)]
mod tests {
    #[test]
    fn first_hints_name_commands_that_have_one() {
        for name in super::FIRST {
            assert!(
                super::commands().any(|c| c.name == *name && !c.hint.is_empty()),
                "{name}"
            );
        }
    }
}
