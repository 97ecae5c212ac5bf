//! The real program in a real pseudo-terminal, read by a terminal emulator: what a user at a keyboard sees.

#[path = "soak.rs"]
mod soak;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

/// Longest wait for anything; generous, because machines that test are busy.
const PATIENCE: Duration = Duration::from_mins(1);

pub struct Terminal {
    master: Box<dyn MasterPty + Send>,
    child: Box<dyn Child + Send + Sync>,
    keys: Box<dyn Write + Send>,
    screen: Arc<Mutex<vt100::Parser>>,
    bytes: Arc<Mutex<usize>>,
    stop: Arc<AtomicBool>,
    reader: JoinHandle<()>,
    _home: tempfile::TempDir,
}

pub fn open(rows: u16, columns: u16, environment: &[(&str, &str)], arguments: &[&str]) -> Terminal {
    let pair = native_pty_system()
        .openpty(PtySize {
            rows,
            cols: columns,
            pixel_width: 0,
            pixel_height: 0,
        })
        .unwrap();
    let home = tempfile::tempdir().unwrap();
    let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_lmscope"));
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
    let child = pair.slave.spawn_command(command).unwrap();
    drop(pair.slave);
    let screen = Arc::new(Mutex::new(vt100::Parser::new(
        rows.try_into().unwrap(),
        columns.try_into().unwrap(),
        0,
    )));
    let bytes = Arc::new(Mutex::new(0));
    let mut reader = pair.master.try_clone_reader().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (shown, counted, stopped) = (screen.clone(), bytes.clone(), stop.clone());
    let reader = std::thread::spawn(move || {
        let mut buffer = [0u8; 8192];
        while let Ok(count) = reader.read(&mut buffer) {
            if count == 0 || stopped.load(Ordering::Relaxed) {
                break;
            }
            shown.lock().unwrap().process(&buffer[..count]);
            *counted.lock().unwrap() += count;
        }
    });
    let keys = pair.master.take_writer().unwrap();
    Terminal {
        master: pair.master,
        child,
        keys,
        screen,
        bytes,
        stop,
        reader,
        _home: home,
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

    /// Loads the demo, writes the first ready prompt, waits for its end.
    fn write_first(&mut self) {
        self.wait("the ready prompts", |t| {
            t.contains("The capital of France is")
        });
        self.wait("the model", |t| t.contains("f32"));
        self.press("\r");
        self.wait("an answer", |t| t.contains("Paris"));
        self.wait("the self-check", |t| t.contains("lens ✓"));
        self.wait("the end", |t| t.contains("the model ended"));
    }

    /// Waits for the end of the program; the terminal must be as it was found.
    pub fn ended(&mut self) -> u32 {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "the program does not end");
            std::thread::sleep(Duration::from_millis(20));
        };
        std::thread::sleep(Duration::from_millis(200));
        let parser = self.screen.lock().unwrap();
        assert!(
            !parser.screen().alternate_screen(),
            "the alternate screen is left"
        );
        assert!(!parser.screen().hide_cursor(), "the cursor is back");
        assert!(!parser.screen().bracketed_paste(), "bracketed paste is off");
        status.exit_code()
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

#[test]
fn small_and_sixteen_colours() {
    let mut terminal = open(24, 80, &[("TERM", "xterm")], &[]);
    terminal.write_first();
    terminal.press("?");
    terminal.wait("help", |t| t.contains("help"));
    terminal.press("\x1b");
    std::thread::sleep(Duration::from_millis(100));
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn a_term_signal_restores_the_terminal() {
    let mut terminal = open(24, 80, &[], &[]);
    terminal.write_first();
    let pid = rustix::process::Pid::from_raw(terminal.child.process_id().unwrap() as i32).unwrap();
    let sent = Instant::now();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    terminal.ended();
    assert!(sent.elapsed() < Duration::from_secs(10), "it ends at once");
}

#[test]
fn a_vanished_terminal_ends_the_program() {
    let mut terminal = open(24, 80, &[], &[]);
    terminal.wait("the model", |t| t.contains("f32"));
    // Every handle on our side must go, the reading thread's too: it ends at the next output.
    terminal.stop.store(true, Ordering::Relaxed);
    terminal.press("j");
    let Terminal {
        master,
        mut child,
        keys,
        reader,
        ..
    } = terminal;
    reader.join().unwrap();
    drop((master, keys));
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            panic!("the program outlived its terminal");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
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
