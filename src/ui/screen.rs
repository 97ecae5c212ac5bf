//! The lifetime of the screen: opening it, the loop of events and frames, and its end.
//!
//! Invariant: this thread waits for events and never for the engine or the terminal. A frame is drawn only if the app's
//! revision has changed and the terminal has taken the last frame, at most thirty times a second. Whatever ends the loop (a
//! key, a signal, a vanished terminal, an error, a panic): first the session is kept, then the terminal is given back, then the
//! engine is stopped, each in bounded time, all in [`Screen::close`].
//! To add an effect, add its arm in [`perform`].

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Receiver, UnboundedReceiver, unbounded_channel};

use super::signals::{self, OutsideEvent};
use super::terminal::{self, Terminal};
use super::{LoopControl, Memory, OnTerminal, Theme, ThemeSet, draw, editor, input, perform};
use crate::app::setting::Background;
use crate::app::{App, AppSettings, Effect, Event};
use crate::engine::{self, Handle, PaneName, Request, Update};
use crate::error::{Error, Result};
use crate::instruments::INSTRUMENTS;

/// The shortest time between two frames.
const FRAME: Duration = Duration::from_millis(33);
/// The most events handled before a frame.
const BATCH: usize = 512;
/// How long the terminal may take to read the last bytes when the user quits.
const AT_LEISURE: Duration = Duration::from_secs(2);
/// How long the terminal may take to read them when a signal ends the program, or it has panicked.
const AT_ONCE: Duration = Duration::from_millis(250);
/// How long to wait for the engine to end; it may be stuck.
const LAST_LAYER: Duration = Duration::from_millis(400);
/// The exit code of a program that panicked.
const PANICKED: i32 = 101;

/// The app on a terminal, with its engine.
struct Screen {
    app: App,
    engine: Handle,
    updates: UnboundedReceiver<Update>,
    keys: Receiver<Vec<Event>>,
    outside: UnboundedReceiver<OutsideEvent>,
    terminal: Terminal,
    themes: ThemeSet,
    theme: Theme,
    /// The background that the theme is drawn for.
    background: Option<Background>,
    memory: Memory,
    began: Instant,
    drawn: (u64, Instant),
    /// Which layers of each figure the engine was told are seen.
    views: BTreeMap<PaneName, Range<usize>>,
    /// Whether the shell, or the user's editor, has the terminal.
    away: bool,
    /// The signal that ended the program while the user's editor had the terminal.
    ended: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LoopEnd {
    /// The user quit.
    Quit,
    /// A signal with this number, or a vanished terminal.
    Signal(i32),
}

/// Opens the screen and returns when it has ended.
pub(super) fn run(settings: AppSettings, themes: ThemeSet) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::io("the event loop", e))?;
    let (mut screen, first) = Screen::open(settings, themes)?;
    let parting = catch_unwind(AssertUnwindSafe(|| runtime.block_on(screen.run(first))));
    screen.close(parting)
}

impl Screen {
    fn open(settings: AppSettings, themes: ThemeSet) -> Result<(Self, Vec<Effect>)> {
        let began = Instant::now();
        let terminal = Terminal::enter()?;
        let (tell, outside) = unbounded_channel();
        let way_out = terminal.way_out();
        let last: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
            way_out.leave(Duration::ZERO);
        });
        signals::watch(tell.clone(), Arc::clone(&last))?;
        let way_out = terminal.way_out();
        let gone = move || {
            let _ended = tell.send(OutsideEvent::End(signals::GONE));
            signals::end(signals::GONE, last.as_ref());
        };
        let keys = input::listen(move || way_out.is_ours(), gone)
            .map_err(|e| Error::io("the keyboard", e))?;
        let (sender, updates) = unbounded_channel();
        let engine = engine::spawn(move |update| sender.send(update).is_ok())?;
        terminal.ask_background();
        let (mut app, first) = App::new(settings);
        let (width, height) = terminal.size();
        app.update(Event::Resize(width, height));
        for warning in &themes.warnings {
            app.warn(warning.clone());
        }
        let theme = themes.theme(&app.settings.theme);
        let screen = Self {
            app,
            engine,
            updates,
            keys,
            outside,
            terminal,
            themes,
            theme,
            background: None,
            memory: Memory::default(),
            began,
            drawn: (0, began),
            views: BTreeMap::new(),
            away: false,
            ended: None,
        };
        Ok((screen, first))
    }

    async fn run(&mut self, first: Vec<Effect>) -> Result<LoopEnd> {
        // Draws a first frame before the model is loaded.
        self.frame()?;
        if self.perform(first)? == LoopControl::Over {
            return Ok(self.ended.map_or(LoopEnd::Quit, LoopEnd::Signal));
        }
        loop {
            let wait = self.wait();
            let unseen = self.has_new_frame();
            let mut queue: Vec<Event> = Vec::new();
            let mut told: Option<OutsideEvent> = None;
            tokio::select! {
                Some(events) = self.keys.recv() => queue.extend(events),
                update = self.updates.recv() => queue.extend(update.map(Event::Engine)),
                outside = self.outside.recv() => told = outside,
                () = self.terminal.ready(), if unseen && !self.terminal.is_ready() => {}
                () = pause(wait) => {}
            }
            while let Some(outside) = told.take().or_else(|| self.outside.try_recv().ok()) {
                match outside {
                    OutsideEvent::End(number) => return Ok(LoopEnd::Signal(number)),
                    OutsideEvent::Resized => self.resize(),
                    OutsideEvent::Continued => self.come_back()?,
                    OutsideEvent::Stop => self.stop(false)?,
                }
            }
            if self.terminal.is_gone() {
                return Ok(LoopEnd::Signal(signals::GONE));
            }
            while queue.len() < BATCH
                && let Ok(events) = self.keys.try_recv()
            {
                queue.extend(events);
            }
            while queue.len() < BATCH
                && let Ok(update) = self.updates.try_recv()
            {
                queue.push(Event::Engine(update));
            }
            self.app.update(Event::Tick(self.began.elapsed()));
            for mut event in queue {
                if let Event::Pointer(pointer) = &mut event {
                    pointer.what = self.memory.at(pointer.at);
                }
                let effects = self.app.update(event);
                if self.perform(effects)? == LoopControl::Over {
                    return Ok(self.ended.map_or(LoopEnd::Quit, LoopEnd::Signal));
                }
            }
            if self.has_new_frame() && self.drawn.1.elapsed() >= FRAME && self.terminal.is_ready() {
                self.frame()?;
            }
        }
    }

    /// Whether the app has changed since the last frame, and the screen has the terminal.
    fn has_new_frame(&self) -> bool {
        self.app.revision != self.drawn.0 && !self.away
    }

    /// How long the loop can wait for events; none for no limit.
    fn wait(&self) -> Option<Duration> {
        let due = self
            .app
            .deadline()
            .map(|at| at.saturating_sub(self.began.elapsed()));
        let frame = (self.has_new_frame() && self.terminal.is_ready())
            .then(|| FRAME.saturating_sub(self.drawn.1.elapsed()));
        [due, frame].into_iter().flatten().min()
    }

    fn frame(&mut self) -> Result<()> {
        let background = self.app.settings.background;
        if self.theme.name != self.app.settings.theme || self.background != background {
            self.theme = self.themes.theme(&self.app.settings.theme);
            self.background = background;
            match background {
                Some(Background::Light) => self.theme = self.theme.on_light(),
                Some(Background::Dark) | None => {}
            }
        }
        self.terminal.listen_to_mouse(self.app.settings.mouse);
        let (app, theme, memory) = (&mut self.app, &self.theme, &mut self.memory);
        self.terminal.frame(|buffer| {
            // The window may have been resized since the app was last told.
            let size = (buffer.area.width, buffer.area.height);
            if app.layout.size != size {
                app.update(Event::Resize(size.0, size.1));
            }
            draw(app, theme, memory, buffer);
        })?;
        self.drawn = (self.app.revision, Instant::now());
        if let Some(failure) = self.terminal.failed_recording() {
            self.report(Err(failure));
        }
        self.tell_views();
        Ok(())
    }

    /// Tells the engine which layers can be seen, where that is news.
    fn tell_views(&mut self) {
        for of in INSTRUMENTS.iter().filter(|of| of.rows_are_layers()) {
            let slot = of.name();
            let layers = self.memory.rows.get(slot).cloned().unwrap_or_default();
            if self.views.get(slot) != Some(&layers) {
                self.views.insert(slot, layers.clone());
                self.engine.ask(Request::View { slot, layers });
            }
        }
    }

    /// The terminal has another size, or the same again after others: terminals rearrange what they show, so everything is
    /// repainted.
    fn resize(&mut self) {
        let (width, height) = self.terminal.size();
        self.app.update(Event::Resize(width, height));
        self.terminal.repaint();
    }

    /// Hands the terminal to the shell and stops the process; `come_back` is called after a signal continues it.
    fn stop(&mut self, group: bool) -> Result<()> {
        self.terminal.leave(AT_LEISURE);
        self.away = true;
        match signals::stop(group) {
            Ok(()) => Ok(()),
            Err(e) => {
                self.come_back()?;
                self.report(Err(Error::io("the terminal", e)));
                Ok(())
            }
        }
    }

    /// Takes the terminal again, whatever its state, and repaints.
    fn come_back(&mut self) -> Result<()> {
        self.terminal.take()?;
        self.away = false;
        self.resize();
        Ok(())
    }

    fn perform(&mut self, effects: Vec<Effect>) -> Result<LoopControl> {
        for effect in effects {
            let (app, memory) = (&mut self.app, &mut self.memory);
            match perform(effect, app, &self.engine, &self.theme, memory) {
                None => {}
                Some(OnTerminal::Copy(text)) => {
                    let outcome = self
                        .terminal
                        .copy(&text)
                        .map(terminal::CopyOutcome::sentence);
                    self.report(outcome);
                }
                Some(OnTerminal::Edit(text)) => {
                    if let Some(over) = self.edit_text(&text)? {
                        self.ended = Some(over);
                        return Ok(LoopControl::Over);
                    }
                }
                Some(OnTerminal::Record(path)) => {
                    let outcome = self.terminal.record(path.as_deref());
                    self.report(outcome);
                }
                Some(OnTerminal::Suspend) if signals::has_shell() => self.stop(true)?,
                Some(OnTerminal::Suspend) => {
                    let why = "No shell can resume a suspended lmscope here; q quits.";
                    self.app.report(Err(why.into()));
                }
                Some(OnTerminal::Redraw) => self.come_back()?,
                Some(OnTerminal::Quit) => return Ok(LoopControl::Over),
            }
        }
        Ok(LoopControl::On)
    }

    /// Lends the terminal to the user's editor with a text, and makes what it leaves the prompt. Returns the signal that ended the
    /// program meanwhile.
    fn edit_text(&mut self, text: &str) -> Result<Option<i32>> {
        let Some(editor) = editor::named() else {
            let why = "No editor is named: set VISUAL or EDITOR, for example EDITOR=vi, and start lmscope again.";
            self.app.report(Err(why.into()));
            return Ok(None);
        };
        self.terminal.leave(AT_LEISURE);
        self.away = true;
        let mut over = None;
        let edited = editor::edit(&editor, text, || {
            while let Ok(outside) = self.outside.try_recv() {
                if let OutsideEvent::End(number) = outside {
                    over = Some(number);
                }
            }
            over.is_some()
        });
        self.come_back()?;
        match edited {
            Ok(text) => {
                let effects = self.app.update(Event::Edited(text));
                let _on = self.perform(effects)?;
            }
            Err(error) => self.report(Err(error)),
        }
        Ok(over)
    }

    fn report(&mut self, outcome: Result<String>) {
        self.app.report(outcome.map_err(|e| e.to_string()));
    }

    /// Ends the screen, whatever the reason. The session is kept first, because that needs neither terminal nor engine.
    fn close(mut self, parting: Result<Result<LoopEnd>, Box<dyn Any + Send>>) -> Result<()> {
        let kept = catch_unwind(AssertUnwindSafe(|| {
            let effects = self.app.update(Event::Terminate);
            let _over = self.perform(effects);
            self.app.finish_session()
        }));
        let unkept = kept.unwrap_or_else(|_| {
            tracing::error!("the session could not be kept");
            None
        });
        let kept_in = self.app.session.path().map(Path::to_path_buf);
        // An error on a vanished terminal was caused by its vanishing.
        let parting = match parting {
            Ok(Err(_)) if self.terminal.has_vanished() => Ok(Ok(LoopEnd::Signal(signals::GONE))),
            other => other,
        };
        let patience = match &parting {
            Ok(Ok(LoopEnd::Quit) | Err(_)) => AT_LEISURE,
            Ok(Ok(LoopEnd::Signal(_))) | Err(_) => AT_ONCE,
        };
        let heard = self.terminal.leave(patience);
        let failure = self.terminal.way_out().failure();
        let (done, ended) = std::sync::mpsc::channel();
        let engine = self.engine;
        let closing = std::thread::spawn(move || {
            engine.close();
            let _told = done.send(());
        });
        if ended.recv_timeout(LAST_LAYER).is_ok() {
            let _joined = closing.join();
        }
        if let Some(failure) = unkept.filter(|_| heard) {
            crate::out::note(&format!("{failure}."));
        } else if let Some(path) = kept_in.filter(|_| heard) {
            let path = shell_word(&path.display().to_string());
            crate::out::note(&format!("to come back: lmscope --resume {path}"));
        }
        let (outcome, code) = match parting {
            Ok(Ok(LoopEnd::Quit)) => (Ok(()), 0),
            Ok(Ok(LoopEnd::Signal(number))) => (Err(Error::Signal(number)), signals::code(number)),
            Ok(Err(error)) => (Err(error), 1),
            Err(_) => {
                let why = failure.unwrap_or_else(|| "no reason was given".into());
                if heard {
                    crate::out::note(&format!(
                        "The screen failed: {why}. The session so far is kept; start again, and please report this."
                    ));
                }
                std::process::exit(PANICKED);
            }
        };
        if !heard {
            // Any further write to this terminal would wait forever, so the process ends here.
            std::process::exit(code);
        }
        outcome
    }
}

/// A word as a shell reads it, in quotes where it has to be.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Waits for a time, or without limit.
async fn pause(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
