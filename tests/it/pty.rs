//! The real program in a real pseudo-terminal, read by a terminal emulator: what a user at a keyboard sees.

#[path = "soak.rs"]
mod soak;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, SlavePty, native_pty_system};

/// Longest wait for anything; generous, because machines that test are busy.
const PATIENCE: Duration = Duration::from_mins(1);

pub struct Terminal {
    master: Box<dyn MasterPty + Send>,
    /// Held open, so that the terminal outlives the program and can be asked for its modes.
    slave: Option<Box<dyn SlavePty + Send>>,
    child: Box<dyn Child + Send + Sync>,
    keys: Box<dyn Write + Send>,
    screen: Arc<Mutex<vt100::Parser>>,
    bytes: Arc<Mutex<usize>>,
    stop: Arc<AtomicBool>,
    /// While this is on, nobody reads what the program writes.
    stalled: Arc<AtomicBool>,
    /// While this is on, what it writes is read and not looked at.
    unseen: Arc<AtomicBool>,
    reader: JoinHandle<()>,
    home: tempfile::TempDir,
    modes: String,
}

pub fn open(rows: u16, columns: u16, environment: &[(&str, &str)], arguments: &[&str]) -> Terminal {
    let program = env!("CARGO_BIN_EXE_lmscope");
    open_program(program, rows, columns, environment, arguments)
}

/// The same for another program, such as a shell.
pub fn open_program(
    program: &str,
    rows: u16,
    columns: u16,
    environment: &[(&str, &str)],
    arguments: &[&str],
) -> Terminal {
    let pair = native_pty_system()
        .openpty(PtySize {
            rows,
            cols: columns,
            pixel_width: 0,
            pixel_height: 0,
        })
        .unwrap();
    let home = tempfile::tempdir().unwrap();
    let mut command = CommandBuilder::new(program);
    command.args(arguments);
    command.env_clear();
    for folder in [
        "HOME",
        "XDG_CONFIG_HOME",
        "XDG_STATE_HOME",
        "XDG_CACHE_HOME",
    ] {
        command.env(folder, home.path());
    }
    command.env("TERM", "xterm-256color");
    command.env("LANG", "C.UTF-8");
    environment
        .iter()
        .for_each(|(name, value)| command.env(name, value));
    let modes = format!("{:?}", pair.master.get_termios());
    let child = pair.slave.spawn_command(command).unwrap();
    let screen = Arc::new(Mutex::new(vt100::Parser::new(
        rows.try_into().unwrap(),
        columns.try_into().unwrap(),
        0,
    )));
    let bytes = Arc::new(Mutex::new(0));
    let mut reader = pair.master.try_clone_reader().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (stalled, unseen) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let (shown, counted, stopped) = (screen.clone(), bytes.clone(), stop.clone());
    let (waits, blind) = (stalled.clone(), unseen.clone());
    let reader = std::thread::spawn(move || {
        let mut buffer = [0u8; 8192];
        while let Ok(count) = reader.read(&mut buffer) {
            if count == 0 || stopped.load(Ordering::Relaxed) {
                break;
            }
            if !blind.load(Ordering::Relaxed) {
                shown.lock().unwrap().process(&buffer[..count]);
            }
            *counted.lock().unwrap() += count;
            while waits.load(Ordering::Relaxed) && !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });
    let keys = pair.master.take_writer().unwrap();
    Terminal {
        master: pair.master,
        slave: Some(pair.slave),
        child,
        keys,
        screen,
        bytes,
        stop,
        stalled,
        unseen,
        reader,
        home,
        modes,
    }
}

impl Terminal {
    pub fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    pub fn wait(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let text = self.text();
            if fits(&text) {
                return text;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "waited for {what}; the screen shows\n{text}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where the program's files are.
    pub fn home(&self) -> &std::path::Path {
        self.home.path()
    }

    /// The process that was started.
    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_raw(self.child.process_id().unwrap() as i32).unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.keys.write_all(bytes).unwrap();
        self.keys.flush().unwrap();
    }

    /// The process and its files.
    pub fn parts(&mut self) -> (&mut Box<dyn Child + Send + Sync>, &std::path::Path) {
        (&mut self.child, self.home.path())
    }

    /// Stops reading, or reads again.
    pub fn stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Gives the window another size. The emulator follows, unless there is nothing to see.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        if let (Ok(rows), Ok(columns)) = (rows.try_into(), columns.try_into())
            && !self.unseen.load(Ordering::Relaxed)
        {
            let mut screen = self.screen.lock().unwrap();
            screen.screen_mut().set_size(rows, columns);
        }
        let size = PtySize {
            rows,
            cols: columns,
            pixel_width: 0,
            pixel_height: 0,
        };
        self.master.resize(size).unwrap();
    }

    /// Stops looking at what is written, or looks again.
    pub fn look_away(&self, away: bool) {
        self.unseen.store(away, Ordering::Relaxed);
    }

    /// Stops reading, and lets the program write until nothing more is taken.
    pub fn stall(&mut self) {
        self.stalled(true);
        // Each of these paints everything; more than any terminal's buffer holds.
        for _ in 0..40 {
            self.press("\x0c");
            std::thread::sleep(Duration::from_millis(40));
        }
    }

    /// Closes every handle on our side, as a terminal does whose window is closed; gives what is left.
    pub fn hang_up(mut self) -> (Box<dyn Child + Send + Sync>, tempfile::TempDir) {
        self.stop.store(true, Ordering::Relaxed);
        // The reading thread ends at the next output.
        if !self.stalled.load(Ordering::Relaxed) {
            self.press("\x0c");
        }
        let Terminal {
            master,
            slave,
            child,
            keys,
            reader,
            home,
            ..
        } = self;
        reader.join().unwrap();
        drop((slave, master, keys));
        (child, home)
    }

    /// Whether the terminal is in the modes in which it was found.
    pub fn is_as_found(&self) -> bool {
        format!("{:?}", self.master.get_termios()) == self.modes
    }

    /// Loads the demo, writes the first ready prompt, waits for its end.
    pub fn write_first(&mut self) {
        self.wait("the ready prompts", |t| {
            t.contains("The capital of France is")
        });
        self.wait("the model", |t| t.contains("f32"));
        self.press("\r");
        self.wait("an answer", |t| t.contains("Paris"));
        self.wait("the self-check", |t| t.contains("lens ✓"));
        self.wait("the end", |t| t.contains("the model ended"));
    }

    /// Ends the program at once, as nothing else can.
    pub fn kill(&mut self) {
        let pid = self.child.process_id().unwrap().cast_signed();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    /// Waits for the end of the program; the terminal must be as it was found.
    pub fn ended(&mut self) -> u32 {
        let code = wait_for_end(&mut self.child, PATIENCE).0;
        std::thread::sleep(Duration::from_millis(200));
        let parser = self.screen.lock().unwrap();
        assert!(
            !parser.screen().alternate_screen(),
            "the alternate screen is left"
        );
        assert!(!parser.screen().hide_cursor(), "the cursor is back");
        assert!(!parser.screen().bracketed_paste(), "bracketed paste is off");
        assert!(self.is_as_found(), "the modes are as they were");
        code
    }
}

/// Waits for the end of a process, at most so long: its exit code, and how long it took.
pub fn wait_for_end(
    child: &mut Box<dyn Child + Send + Sync>,
    patience: Duration,
) -> (u32, Duration) {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return (status.exit_code(), start.elapsed());
        }
        if start.elapsed() > patience {
            child.kill().unwrap();
            panic!("the program does not end within {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_session_from_prompt_to_quit() {
    let mut terminal = open(40, 120, &[("COLORTERM", "truecolor")], &[]);
    terminal.write_first();
    // Move in the lens, ablate what stands under the cursor in the neurons, read a state with a Patchscope.
    terminal.press("\t");
    terminal.press("j");
    terminal.wait("the cell in words", |t| t.contains("lens layer 6"));
    terminal.press("P");
    terminal.wait("the sweep with its control", |t| {
        t.contains("patched") && t.contains(": letter")
    });
    // One layer, through the form; then ablate the neuron under the cursor.
    terminal.press("p");
    terminal.wait("the parameters", |t| t.contains("template"));
    terminal.press("\r");
    terminal.wait("one row", |t| t.contains("‖h‖"));
    terminal.press("F");
    terminal.wait("the neurons", |t| t.contains("promotes"));
    terminal.press("x");
    terminal.wait("the ablation in the edits", |t| t.contains("zero:"));
    terminal.press("u");
    terminal.wait("it undone", |t| !t.contains("zero:"));
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn a_vector_toggled_while_the_model_writes() {
    let mut terminal = open(40, 120, &[], &[]);
    terminal.wait("the model", |t| t.contains("f32"));
    // The digit arrives while the text is being written.
    terminal.press("iOnce upon a time there was a fox named Ben. It was a\r");
    terminal.press("1");
    terminal.wait("the text", |t| t.contains("Once upon a time"));
    terminal.wait("the edit to be on", |t| t.contains("1 EDIT ON"));
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn a_token_costs_little_and_the_first_frame_comes_at_once() {
    let start = Instant::now();
    let mut terminal = open(40, 120, &[("COLORTERM", "truecolor")], &[]);
    terminal.wait("the first frame", |t| t.contains("ready prompts"));
    println!("first frame after {:?}", start.elapsed());
    terminal.wait("the model", |t| t.contains("f32"));
    terminal.press("i");
    terminal.wait("the line to write in", |t| t.contains("write"));
    std::thread::sleep(Duration::from_millis(300));
    let before = *terminal.bytes.lock().unwrap();
    terminal.press("Once upon a time there was a fox named Ben. It was a\r");
    terminal.wait("the end", |t| t.contains("the model ended"));
    std::thread::sleep(Duration::from_millis(300));
    let bytes = *terminal.bytes.lock().unwrap() - before;
    let text = terminal.text();
    let tokens: usize = text
        .split('/')
        .next()
        .and_then(|t| t.split_whitespace().last())
        .and_then(|t| t.parse().ok())
        .expect("the context use in the header");
    println!("{bytes} bytes for a text of {tokens} tokens");
    assert!(bytes / tokens <= 4096, "{bytes} bytes for {tokens} tokens");
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
}

/// The user's editor gets the terminal and the prompt, and what it leaves is run; one that fails changes nothing.
#[test]
fn a_prompt_is_written_in_an_editor() {
    let editor = "printf 'the editor has it'; sleep 1; sed -i s/France/Japan/";
    let mut terminal = open(40, 120, &[("VISUAL", editor)], &[]);
    terminal.wait("the model", |t| t.contains("f32"));
    terminal.press("i");
    terminal.press("The capital of France is");
    terminal.wait("its length", |t| t.contains("tokens of"));
    terminal.press("\x18");
    terminal.wait("the editor", |t| t.contains("the editor has it"));
    terminal.wait("the screen again", |t| {
        t.contains("The capital of Japan is")
    });
    terminal.press("\r");
    terminal.wait("the answer", |t| t.contains("Tokyo"));
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn small_and_sixteen_colours() {
    let mut terminal = open(24, 80, &[("TERM", "xterm")], &[]);
    terminal.write_first();
    terminal.press("?");
    terminal.wait("help", |t| t.contains("filter:"));
    terminal.press("\x1b");
    terminal.wait("it closed", |t| !t.contains("filter:"));
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn an_engine_panic_is_a_notice_and_the_model_goes_on() {
    let mut terminal = open(40, 120, &[], &[]);
    terminal.write_first();
    terminal.press(":panic\r");
    terminal.wait("the notice", |t| t.contains("engine failed"));
    terminal.press("\x1b");
    std::thread::sleep(Duration::from_millis(100));
    terminal.press("iThe capital of Italy is\r");
    terminal.wait("the next answer", |t| t.contains("Rome"));
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn too_small_says_so_and_still_quits() {
    let mut terminal = open(5, 20, &[], &[]);
    terminal.wait("a sentence", |t| {
        t.replace('\n', " ").contains("20") && t.contains("40")
    });
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn nothing_is_drawn_while_nothing_happens() {
    let mut terminal = open(40, 120, &[], &[]);
    terminal.write_first();
    std::thread::sleep(Duration::from_millis(1500));
    let before = *terminal.bytes.lock().unwrap();
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(
        *terminal.bytes.lock().unwrap() - before,
        0,
        "ten idle seconds cost no byte"
    );
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
}

/// What is recorded is what was seen: played back, the recording ends in the screen at its end.
#[test]
fn a_recording_shows_what_was_on_the_screen() {
    let mut terminal = open(24, 80, &[], &[]);
    let file = terminal.home.path().join("a.cast");
    terminal.write_first();
    terminal.press(&format!(":record {}\r", file.display()));
    terminal.wait("that it records", |t| t.contains("recorded in"));
    terminal.press("iThe capital of Japan is\r");
    terminal.wait("the answer", |t| t.contains("Tokyo"));
    terminal.press("?");
    terminal.wait("help", |t| t.contains("filter:"));
    let played = || {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut screen = vt100::Parser::new(24.try_into().unwrap(), 80.try_into().unwrap(), 0);
        for line in text.lines().skip(1) {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(event[1], "o");
            screen.process(event[2].as_str().unwrap().as_bytes());
        }
        screen.screen().contents()
    };
    assert!(played().contains("filter:"), "{}", played());
    terminal.press("\x1b");
    terminal.wait("it closed", |t| !t.contains("filter:"));
    let seen = terminal.screen.lock().unwrap().screen().contents();
    assert_eq!(played().lines().next(), seen.lines().next());
    assert!(played().contains("Tokyo") && !played().contains("filter:"));
    terminal.press(":record\r");
    terminal.wait("what was recorded", |t| t.contains("asciinema play"));
    let before = std::fs::metadata(&file).unwrap().len();
    terminal.press("?");
    terminal.wait("help", |t| t.contains("filter:"));
    assert_eq!(std::fs::metadata(&file).unwrap().len(), before);
    terminal.press("\x1b");
    terminal.wait("it closed", |t| !t.contains("filter:"));
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
}

/// What a step says has two lines of 80 columns, with the keys as they are.
#[test]
fn the_steps_of_the_tour_fit_the_smallest_screen() {
    let (app, _) = lmscope::app::App::new(lmscope::app::AppSettings::default());
    for step in lmscope::app::tour::STEPS {
        let words = step.words(&app);
        let lines = lmscope::ui::panes::fold(&words, 78);
        assert!(lines.len() <= 2, "{lines:?}");
    }
}

/// The tour goes on when the person has done what it says, and needs nothing but its own words.
#[test]
fn the_tour_goes_on_with_what_is_done() {
    let mut terminal = open(24, 80, &[], &["tour"]);
    terminal.wait("the first step", |t| {
        t.contains("tour 1/10") && t.contains("Enter runs")
    });
    terminal.wait("the model", |t| t.contains("f32"));
    terminal.press("\r");
    terminal.wait("the lens", |t| t.contains("tour 2/10"));
    terminal.press("\t");
    for _ in 0..6 {
        terminal.press("j");
    }
    terminal.wait("neurons", |t| t.contains("tour 3/10"));
    terminal.press("f");
    terminal.wait("to ablate one", |t| t.contains("tour 4/10"));
    terminal.press("x");
    terminal.wait("the edit", |t| {
        t.contains("tour 4/10") && t.contains("edits changed here")
    });
    terminal.press("R");
    terminal.wait("the control", |t| t.contains("tour 5/10"));
    terminal.press("\t");
    terminal.wait("its control", |t| t.contains("control"));
    terminal.press("u");
    terminal.wait("the text before", |t| t.contains("edits changed here"));
    terminal.press("u");
    terminal.wait("steering", |t| t.contains("tour 6/10"));
    terminal.press("1");
    terminal.press("n");
    terminal.wait("the ready prompts", |t| t.contains("Two hops"));
    for _ in 0..6 {
        terminal.press("j");
    }
    terminal.press("\r");
    terminal.wait("to compare", |t| t.contains("tour 7/10"));
    terminal.press("b");
    terminal.wait("the Patchscope", |t| t.contains("tour 8/10"));
    terminal.press("1n");
    terminal.wait("the ready prompts", |t| t.contains("ready prompts"));
    terminal.press("\x1b[H");
    terminal.wait("the first one", |t| t.contains("> A fact"));
    terminal.press("\r");
    terminal.wait("the answer", |t| {
        t.contains("Paris") && t.contains("model ended")
    });
    terminal.press("hP");
    terminal.wait("the dictionary", |t| {
        t.contains("tour 9/10") && t.contains("country in Europe")
    });
    terminal.press(":dictionary world\r");
    terminal.wait("the last step", |t| t.contains("tour 10/10"));
    // Ended and begun again, it is where it was.
    terminal.press(":tour off\r");
    terminal.wait("that it is off", |t| !t.contains("tour "));
    terminal.press(":tour\r");
    terminal.wait("the same step", |t| t.contains("tour 10/10"));
    terminal.press("l");
    terminal.press(":show knockout\r");
    terminal.press("o");
    terminal.wait("its parameters", |t| t.contains("sources"));
    terminal.press("\r");
    terminal.wait("the end", |t| t.contains("That was all of it"));
    terminal.press(":tour\r");
    terminal.wait("that it is off", |t| !t.contains("tour "));
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
}
