//! What the world does to the screen: windows are dragged, signals come, terminals stop reading and vanish, shells
//! stop and continue, bytes get lost. The real program in a real pseudo-terminal.
//!
//! Promised is a second; the machines that test are busy, so the bound here is [`BOUND`], and the time is printed.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::pty::{self, Terminal, wait_for_end};

const BOUND: Duration = Duration::from_secs(3);
/// The codes of a shell for a process that a signal ended.
const ENDINGS: [(Signal, u32); 4] = [
    (Signal::TERM, 143),
    (Signal::HUP, 129),
    (Signal::INT, 130),
    (Signal::QUIT, 131),
];

/// The text of every session that was kept.
fn sessions(home: &Path) -> Vec<String> {
    let folder = home.join("lmscope").join("sessions");
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|e| std::fs::read_to_string(e.path()).unwrap())
        .collect()
}

fn assert_kept(home: &Path) {
    let kept = sessions(home);
    assert!(
        kept.len() == 1 && kept[0].contains("\"generate\""),
        "one session: {kept:?}"
    );
}

/// A screen that has written a text; it goes on writing where that is asked for.
fn written(writing: bool) -> Terminal {
    let mut terminal = pty::open(40, 120, &[("COLORTERM", "truecolor")], &[]);
    terminal.write_first();
    if writing {
        terminal.press("iOnce upon a time there was a fox named Ben. It was a\r");
        terminal.wait("the text", |t| t.contains("Once upon a time"));
    }
    terminal
}

#[test]
fn a_signal_ends_it_with_its_own_code_and_keeps_the_session() {
    for (signal, code) in ENDINGS {
        let mut terminal = written(signal == Signal::TERM);
        terminal.signal(signal);
        let sent = Instant::now();
        assert_eq!(terminal.ended(), code, "{signal:?}");
        println!("{signal:?}: {:?}, of which 0.2 s are ours", sent.elapsed());
        assert!(sent.elapsed() < BOUND);
        assert_kept(terminal.home());
    }
}

#[test]
fn a_signal_before_the_model_is_loaded_ends_it_too() {
    let mut terminal = pty::open(24, 80, &[], &[]);
    terminal.wait("the first frame", |t| t.contains("ready prompts"));
    terminal.signal(Signal::TERM);
    assert_eq!(terminal.ended(), 143);
}

#[test]
fn a_terminal_that_stops_reading_does_not_hold_it() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)] {
        let mut terminal = written(signal == Signal::TERM);
        terminal.stall();
        assert!(terminal.runs());
        terminal.signal(signal);
        let (child, home) = terminal.parts();
        let (found, took) = wait_for_end(child, BOUND);
        println!("{signal:?} while nobody reads: {took:?}");
        assert_eq!(found, code, "{signal:?}");
        assert_kept(home);
        assert!(terminal.is_as_found(), "the modes, which need no reader");
    }
}

#[test]
fn a_terminal_that_reads_again_is_drawn_on_again() {
    let mut terminal = written(false);
    terminal.stall();
    terminal.stalled(false);
    // What was cut by the stall is whole again.
    terminal.press("?");
    terminal.wait("help", |t| t.contains("filter:"));
    terminal.press("\x1b");
    terminal.wait("it closed", |t| !t.contains("filter:"));
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn a_user_who_leaves_a_terminal_that_does_not_read_is_not_held() {
    let mut terminal = written(false);
    terminal.stall();
    terminal.press("q");
    let (child, home) = terminal.parts();
    let (code, took) = wait_for_end(child, BOUND + Duration::from_secs(2));
    println!("q while nobody reads: {took:?}");
    assert_eq!(code, 0);
    assert_kept(home);
}

#[test]
fn a_terminal_that_vanishes_ends_it() {
    // At rest, while it writes, and after nobody read for a while.
    for (writing, stalled) in [(false, false), (true, false), (true, true)] {
        let mut terminal = written(writing);
        if stalled {
            terminal.stall();
        }
        let (mut child, home) = terminal.hang_up();
        let (code, took) = wait_for_end(&mut child, BOUND);
        println!("vanished (writing {writing}, stalled {stalled}): {took:?}");
        assert_eq!(code, 129);
        assert_kept(home.path());
    }
}

#[test]
fn a_screen_that_fails_keeps_the_session_and_says_so() {
    let mut terminal = written(false);
    terminal.press(":panic screen\r");
    assert_eq!(terminal.ended(), 101);
    let said = terminal.text();
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        said.contains("The screen failed: a test asked for this panic")
            && said.contains("The session so far is kept")
            && !said.contains("panicked at"),
        "{said}"
    );
    assert_kept(terminal.home());
}

/// Sizes as a hand drags a corner: out, in, down to nothing, and back.
fn dragged(step: usize) -> (u16, u16) {
    let between = |a: i32, b: i32, at: i32, of: i32| (a + (b - a) * at / of) as u16;
    match step % 240 {
        at @ 0..60 => (
            between(160, 60, at as i32, 60),
            between(50, 15, at as i32, 60),
        ),
        at @ 60..120 => (
            between(60, 160, at as i32 - 60, 60),
            between(15, 50, at as i32 - 60, 60),
        ),
        at @ 120..170 => (
            between(160, 0, at as i32 - 120, 50),
            between(50, 0, at as i32 - 120, 50),
        ),
        at @ 170..200 => (
            between(0, 240, at as i32 - 170, 30),
            between(1, 4, at as i32 - 170, 30),
        ),
        at => (
            between(1, 160, at as i32 - 200, 40),
            between(90, 50, at as i32 - 200, 40),
        ),
    }
}

/// Ten seconds here; ten minutes where `LMSCOPE_DRAG_SECONDS=600` asks for them.
#[test]
fn a_window_dragged_while_it_writes_with_pop_ups_open() {
    let seconds = std::env::var("LMSCOPE_DRAG_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(10);
    let mut terminal = written(false);
    terminal.look_away(true);
    // No key here leaves, stops or hands over.
    let keys = [
        "?", "\x1b", ":", "\x1b", "r", "\t", "p", "\x1b", "j", "f", "z", "k", "b", "+", "e",
        "zero:17", "\x1b", "D", "l", "i", "A fox", "\r", "\x1b", "T", "\x1b", "n", "1", "u", "-",
        "F", "h", "\x1b[6~", "P", "\x1b", "t", "b", "z", "\x1b",
    ];
    let start = Instant::now();
    let mut step = 0;
    while start.elapsed() < Duration::from_secs(seconds) {
        let (columns, rows) = dragged(step);
        terminal.resize(columns, rows);
        if step % 8 == 0 {
            terminal.press(keys[step / 8 % keys.len()]);
        }
        assert!(terminal.runs(), "step {step}, {columns}x{rows}");
        step += 1;
        std::thread::sleep(Duration::from_millis(16));
    }
    println!("{step} steps in {:?}", start.elapsed());
    terminal.look_away(false);
    // Whatever is open now is closed, and the rest is as always.
    for _ in 0..4 {
        terminal.press("\x1b");
        std::thread::sleep(Duration::from_millis(150));
    }
    terminal.resize(120, 40);
    terminal.wait("the header", |t| t.contains("seed") && t.contains("lens"));
    terminal.press("?");
    terminal.wait("help", |t| t.contains("filter:"));
    terminal.press("\x1b");
    terminal.wait("it closed", |t| !t.contains("filter:"));
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
    assert_kept(terminal.home());
}

#[test]
fn a_cut_sequence_leaves_the_keyboard_alive() {
    let cut: [&[u8]; 8] = [
        b"\x1b[200~",
        b"\x1b[200~dd",
        b"\x1b[<0;1;",
        b"\x1b",
        b"\x1b[",
        b"\x1bO",
        b"\xe6\xbc",
        b"\x1b]11;rgb:",
    ];
    let mut terminal = written(false);
    for bytes in cut {
        terminal.send(bytes);
        std::thread::sleep(Duration::from_millis(600));
        // One that opened the line to write in, with what was pasted, is left.
        terminal.press("\x1b");
        std::thread::sleep(Duration::from_millis(200));
        let pressed = Instant::now();
        terminal.press("?");
        terminal.wait("help", |t| t.contains("filter:"));
        println!("{bytes:?}: an answer after {:?}", pressed.elapsed());
        terminal.press("\x1b");
        terminal.wait("it closed", |t| !t.contains("filter:"));
    }
    // At once.
    terminal.send(b"\x1b[200~q\x03");
    std::thread::sleep(Duration::from_millis(30));
    terminal.press("\x03");
    std::thread::sleep(Duration::from_millis(500));
    terminal.press("\x03\x03\x03");
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn a_paste_in_two_halves_runs_none_of_its_letters() {
    let mut terminal = written(false);
    terminal.send(b"\x1b[200~first");
    terminal.wait("the first half", |t| t.contains("first"));
    std::thread::sleep(Duration::from_millis(700));
    terminal.send(b"\x1bqqq\r:quit\r second\x1b[201~");
    std::thread::sleep(Duration::from_millis(700));
    assert!(terminal.runs());
    terminal.send(b"\x1b[200~third");
    std::thread::sleep(Duration::from_millis(700));
    terminal.send(b"qqq:quit\r fourth\x1b[201~");
    terminal.wait("the second half", |t| t.contains("fourth"));
    assert!(terminal.runs());
    // A large one is one event: a sentence about its length.
    let large = format!("\x1b[200~{}\x1b[201~", "word ".repeat(200_000));
    terminal.send(large.as_bytes());
    std::thread::sleep(Duration::from_millis(300));
    terminal.press("\r");
    terminal.wait("what became of it", |t| t.contains("the context holds"));
    terminal.signal(Signal::TERM);
    assert_eq!(terminal.ended(), 143);
}

/// The state letter of a process.
fn state(pid: Pid) -> char {
    let line = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
    let rest = line.rsplit_once(')').unwrap().1;
    rest.trim_start().chars().next().unwrap()
}

/// The process that a shell started.
fn child_of(parent: Pid) -> Pid {
    let parent = parent.as_raw_nonzero().to_string();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let rest = line.rsplit_once(')').unwrap().1;
        if rest.split_whitespace().nth(1) == Some(&parent) {
            let name = entry.file_name().into_string().unwrap();
            return Pid::from_raw(name.parse().unwrap()).unwrap();
        }
    }
    panic!("the shell has no child");
}

fn wait_for_state(pid: Pid, stopped: bool) {
    let start = Instant::now();
    while (state(pid) == 'T') != stopped {
        assert!(start.elapsed() < BOUND, "it is {}", state(pid));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A shell with job control that has started the screen.
fn in_a_shell() -> (Terminal, Pid) {
    let mut terminal = pty::open_program("/bin/sh", 30, 100, &[("PS1", "ready> ")], &["-i"]);
    terminal.wait("the shell", |t| t.contains("ready>"));
    terminal.press(&format!("{}\r", env!("CARGO_BIN_EXE_lmscope")));
    terminal.write_first();
    let pid = child_of(terminal.pid());
    (terminal, pid)
}

/// In the shell the terminal is as shells have it; `fg` brings the whole screen back, and its keys.
fn shell_and_back(terminal: &mut Terminal, clean: bool) {
    terminal.wait("the shell", |t| t.contains("ready>"));
    if clean {
        terminal.press("echo in the sh''ell; stty -a\n");
        let text = terminal.wait("its modes", |t| {
            t.contains("in the shell") && t.contains("icanon")
        });
        assert!(
            !text.contains("-icanon") && !text.contains("-echo "),
            "{text}"
        );
    }
    terminal.press("fg\n");
    terminal.wait("the screen", |t| {
        t.contains("lens ✓") && !t.contains("ready>")
    });
    terminal.press("?");
    terminal.wait("help", |t| t.contains("filter:"));
    terminal.press("\x1b");
    terminal.wait("it closed", |t| !t.contains("filter:"));
}

#[test]
fn a_stop_from_anywhere_gives_the_shell_its_terminal_and_fg_the_screen() {
    let (mut terminal, pid) = in_a_shell();
    for _ in 0..2 {
        terminal.press("\x1a");
        wait_for_state(pid, true);
        shell_and_back(&mut terminal, true);
    }
    rustix::process::kill_process(pid, Signal::TSTP).unwrap();
    wait_for_state(pid, true);
    shell_and_back(&mut terminal, true);
    // This one cannot be answered: the screen stays, and what the shell makes of its modes is the shell's.
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    wait_for_state(pid, true);
    terminal.press("\n");
    shell_and_back(&mut terminal, false);
    terminal.press("q");
    terminal.wait("the shell", |t| t.contains("ready>"));
    terminal.press("echo code $?; stty -a\n");
    let text = terminal.wait("its code", |t| t.contains("code 0") && t.contains("icanon"));
    assert!(!text.contains("-icanon"), "{text}");
    terminal.press("exit\n");
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn ctrl_z_without_a_shell_says_so_and_goes_on() {
    let mut terminal = written(false);
    terminal.press("\x1a");
    terminal.wait("why not", |t| t.contains("No shell"));
    assert_ne!(state(terminal.pid()), 'T');
    // From outside somebody asked for it, and can let it go on.
    terminal.signal(Signal::TSTP);
    wait_for_state(terminal.pid(), true);
    assert!(terminal.is_as_found(), "as the shell expects it");
    terminal.signal(Signal::CONT);
    wait_for_state(terminal.pid(), false);
    terminal.press("\x1b");
    terminal.wait("the screen", |t| t.contains("lens ✓"));
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
}
