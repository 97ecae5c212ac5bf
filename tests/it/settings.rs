//! Settings that are remembered, in the real program: what `:set` writes, what the next start makes of it, and what a mistake does.

use std::path::Path;

use crate::pty;

/// Opens the program with a folder for its settings and its sessions.
fn open(home: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> pty::Terminal {
    let home = home.to_str().unwrap();
    let folders = [("XDG_CONFIG_HOME", home), ("XDG_STATE_HOME", home)];
    let all: Vec<_> = folders.iter().chain(environment).copied().collect();
    pty::open(24, 80, &all, arguments)
}

fn quit(mut terminal: pty::Terminal) {
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn what_is_set_is_remembered_and_flags_come_first() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("lmscope");
    let file = folder.join("config.toml");
    std::fs::create_dir(&folder).unwrap();
    let before = "# mine\ntemperature = 0.25 # warm\n\n[dictionaries]\na = \"/x/sae\"\n";
    std::fs::write(&file, before).unwrap();
    let mut terminal = open(home.path(), &[], &[]);
    terminal.wait("the setting", |t| {
        t.contains("f32") && t.contains("temp 0.25")
    });
    terminal.press(":set temperature 0.5\r");
    terminal.wait("that it is kept", |t| t.contains("remembered in"));
    terminal.press("\x1b:theme nord\r");
    terminal.wait("that it is kept", |t| t.contains("theme = \"nord\""));
    quit(terminal);
    let after = std::fs::read_to_string(&file).unwrap();
    assert_eq!(
        after,
        "# mine\ntemperature = 0.5 # warm\ntheme = \"nord\"\n\n[dictionaries]\na = \"/x/sae\"\n"
    );
    for (arguments, words) in [
        (vec!["--theme", "mono"], "temp 0.5"),
        (vec!["--temperature", "0.75"], "temp 0.75"),
    ] {
        let mut terminal = open(home.path(), &[], &arguments);
        terminal.wait("the setting", |t| t.contains("f32") && t.contains(words));
        let theme = if arguments[1] == "mono" {
            "mono"
        } else {
            "nord"
        };
        terminal.press(":set theme?\r");
        terminal.wait("the theme", |t| t.contains(&format!("theme = {theme}:")));
        quit(terminal);
    }
    // The tour is about the model as it comes.
    let terminal = open(home.path(), &[], &["tour"]);
    terminal.wait("the usual", |t| t.contains("f32") && t.contains("temp 0 "));
    quit(terminal);
}

#[test]
fn a_mistake_is_said_with_its_line_and_the_rest_is_read() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("lmscope");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("config.toml");
    let config = "temperature = 0.5\ncount = many\nseed = -3\n";
    std::fs::write(&file, config).unwrap();
    let mut terminal = open(home.path(), &[], &[]);
    terminal.wait("the rest", |t| t.contains("f32") && t.contains("temp 0.5"));
    terminal.press(":notices\r");
    let text = terminal.wait("both mistakes", |t| {
        t.contains("line 2") && t.contains("line 3")
    });
    assert!(text.contains("`seed` cannot be"), "{text}");
    terminal.press("\x1b");
    terminal.wait("it closed", |t| !t.contains("line 3"));
    terminal.press("\r");
    terminal.wait("the answer", |t| t.contains("Paris"));
    // Line 2 is no TOML, and could have been meant to keep nothing.
    assert!(!folder.join("sessions").exists());
    terminal.press(":set mouse true\r");
    let read = || std::fs::read_to_string(&file).unwrap();
    terminal.wait("that it is kept", |_| read().contains("mouse"));
    quit(terminal);
    let after = read();
    assert!(
        after.contains("count = many\n") && after.contains("\nmouse = true\n"),
        "{after}"
    );
    // A wrong value of a setting that is known forbids nothing.
    std::fs::write(&file, "seed = -3\n").unwrap();
    let mut terminal = open(home.path(), &[], &[]);
    terminal.wait("the model", |t| t.contains("f32"));
    terminal.press("\r");
    terminal.wait("the answer", |t| t.contains("Paris"));
    quit(terminal);
    assert_eq!(
        std::fs::read_dir(folder.join("sessions")).unwrap().count(),
        1
    );
}

/// The terminal is asked for its background, and what it answers chooses the theme.
#[test]
fn the_theme_follows_the_terminals_background() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("lmscope");
    std::fs::create_dir(&folder).unwrap();
    let config = "theme-light = \"latte\"\ntheme-dark = \"nord\"\n";
    std::fs::write(folder.join("config.toml"), config).unwrap();
    for (answer, theme) in [
        ("", "terminal"),
        ("\x1b]11;rgb:ffff/ffff/f0f0\x1b\\", "latte"),
        ("\x1b]11;rgb:1000/1000/1000\x07", "nord"),
    ] {
        let mut terminal = open(home.path(), &[], &[]);
        terminal.wait("the model", |t| t.contains("f32"));
        terminal.send(answer.as_bytes());
        terminal.press(":set theme?\r");
        terminal.wait("the theme", |t| t.contains(&format!("theme = {theme}:")));
        quit(terminal);
    }
}

/// What was done in the second before the last is there after the program was killed.
#[test]
fn a_killed_program_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    let mut terminal = open(home.path(), &[], &[]);
    terminal.write_first();
    terminal.press("iThe capital of Italy is\r");
    terminal.wait("the answer", |t| t.contains("Rome"));
    terminal.press("ia draft");
    terminal.wait("the draft", |t| t.contains("a draft"));
    std::thread::sleep(std::time::Duration::from_secs(3));
    terminal.kill();
    let mut terminal = open(home.path(), &[], &["--resume"]);
    terminal.wait("all of it", |t| t.contains("opened ") && t.contains("Rome"));
    terminal.press("i");
    terminal.wait("the draft", |t| t.contains("a draft"));
    terminal.press("\x15\x1b[A\x1b[A");
    terminal.wait("the text before", |t| {
        t.contains("The capital of France is")
    });
    terminal.press("\x1b");
    terminal.wait("it closed", |t| !t.contains("text writing"));
    quit(terminal);
}
