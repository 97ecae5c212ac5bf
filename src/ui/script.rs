//! A scripted session without a terminal: loads the model, runs the first ready prompt, presses keys, and makes a picture.
//!
//! Invariant: it uses the same app, engine and drawing as the screen; only the terminal is missing. To let it do more, press
//! other keys.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use ratatui::buffer::Buffer;

use super::{
    LoopControl, Memory, OnTerminal, Shot, Theme, ThemeSet, create, grounds, paint, paint_buffer,
    perform,
};
use crate::app::key::{Code, Key, chord};
use crate::app::{App, AppSettings, Effect, Event};
use crate::engine::{self, Handle, Update};
use crate::error::{Error, Result};
use crate::export;

/// If the engine is silent for this long, nothing more is expected.
const QUIET: Duration = Duration::from_millis(250);
/// How many seconds of an animation a letter takes that is typed.
const TYPED: f32 = 0.12;
/// The longest wait for one step.
const PATIENCE: Duration = Duration::from_mins(3);

struct ScriptStage<'a> {
    app: App,
    engine: Handle,
    updates: Receiver<Update>,
    themes: &'a ThemeSet,
    memory: Memory,
}

/// Runs the session and writes its picture.
pub fn run(shot: &Shot, settings: AppSettings, themes: &ThemeSet) -> Result<()> {
    let keys: Vec<Key> = if shot.keys.trim().is_empty() {
        Vec::new()
    } else {
        chord(&shot.keys).map_err(|why| Error::argument("--keys", shot.keys.clone(), why))?
    };
    let prompted = settings.prompt.is_some() || settings.resume.is_some();
    let (sender, updates) = channel();
    let engine = engine::spawn(move |update| sender.send(update).is_ok())?;
    let (mut app, first) = App::new(settings);
    app.update(Event::Resize(shot.size.0, shot.size.1));
    let mut stage = ScriptStage {
        app,
        engine,
        updates,
        themes,
        memory: Memory::default(),
    };
    stage.perform(first);
    stage.settle()?;
    if stage.app.model.is_none() {
        let why = stage
            .app
            .notices
            .shown()
            .map_or_else(|| "no notice was shown".to_string(), |n| n.text.clone());
        return Err(Error::Engine(format!("no model was loaded: {why}")));
    }
    let theme = themes.theme(&stage.app.settings.theme);
    let mut screens = Vec::new();
    let moves = shot.seconds > 0.0;
    if moves && prompted {
        screens.push((stage.paint(&theme), shot.seconds));
    }
    let enter = (!prompted).then_some(Key::plain(Code::Enter));
    for key in enter.into_iter().chain(keys) {
        let effects = stage.app.update(Event::Key(key));
        if stage.perform(effects) == LoopControl::Over {
            break;
        }
        stage.settle()?;
        if moves {
            // Letters that are typed are not waited for.
            let typing = stage.app.overlay.is_some() || stage.app.writing;
            let seconds = if typing { TYPED } else { shot.seconds };
            screens.push((stage.paint(&theme), seconds));
        }
    }
    // Notices from earlier steps are not part of the picture.
    stage.app.update(Event::Tick(Duration::from_hours(1)));
    let theme = themes.theme(&stage.app.settings.theme);
    let done = if moves {
        screens.push((stage.paint(&theme), 2.0 * shot.seconds));
        let (back, fore) = grounds(&theme);
        let svg = export::screen::animation(&screens, back, fore, "lmscope");
        create(&shot.path, svg.as_bytes())
    } else {
        paint_buffer(&stage.app, &theme, &mut stage.memory, &shot.path)
    };
    let done = done.map(|_| ());
    stage.engine.close();
    done
}

impl ScriptStage<'_> {
    fn paint(&mut self, theme: &Theme) -> Buffer {
        paint(&self.app, theme, &mut self.memory)
    }

    fn perform(&mut self, effects: Vec<Effect>) -> LoopControl {
        for effect in effects {
            let theme = self.themes.theme(&self.app.settings.theme);
            let (app, memory) = (&mut self.app, &mut self.memory);
            match perform(effect, app, &self.engine, &theme, memory) {
                None
                | Some(
                    OnTerminal::Copy(_)
                    | OnTerminal::Edit(_)
                    | OnTerminal::Record(_)
                    | OnTerminal::Suspend
                    | OnTerminal::Redraw,
                ) => {}
                Some(OnTerminal::Quit) => return LoopControl::Over,
            }
        }
        LoopControl::On
    }

    fn busy(&self) -> bool {
        let app = &self.app;
        app.is_replaying()
            || app.loading.is_some()
            || app.transcript.busy()
            || app.baseline_asked
            || app.history.is_restoring()
            || app.shown.values().any(|s| s.working.is_some())
            || self.differing()
    }

    /// Whether the difference of the chosen figure was requested and has not arrived.
    fn differing(&self) -> bool {
        let app = &self.app;
        let shown = app.shown.get(app.layout.figure).filter(|_| app.difference);
        shown.is_some_and(|s| s.difference.is_none() && s.refused.is_none() && s.failed.is_none())
    }

    /// Handles updates until the engine is idle.
    fn settle(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            match self.updates.recv_timeout(QUIET) {
                Ok(update) => {
                    let effects = self.app.update(Event::Engine(update));
                    self.perform(effects);
                }
                Err(RecvTimeoutError::Timeout) if !self.busy() => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::Engine("its thread ended".into()));
                }
            }
            if began.elapsed() > PATIENCE {
                return Err(Error::Engine("it was not idle within three minutes".into()));
            }
        }
    }
}
