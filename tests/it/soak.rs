//! A long session in a real terminal: what the screen holds must not grow with what was done.
//!
//! A round asks for a text, edits it, takes that back, runs in lockstep, turns through every figure, reads a state with a
//! Patchscope, changes the theme and the window's size. Before and after each round /proc says how much memory, how many
//! descriptors and how many threads the process has. Without LMSCOPE_SOAK_MINUTES it is a few rounds, as a test that a
//! round works; `.ci/nightly soak` runs it for half an hour and prints the figures. LMSCOPE_SOAK_MODEL names another
//! model than the demo.
//! To put more into a round, add it to [`Terminal::round`].

use std::time::{Duration, Instant};

use super::{Terminal, open};

/// The longest wait for one step: a notice may hide what is waited for, and the next step is then as good.
const STEP: Duration = Duration::from_secs(20);
/// What is not counted: buffers, caches and kept texts fill up.
const WARM: f64 = 0.4;
/// The most that memory may grow after that, in MB an hour: kept texts and the session's lines.
const SLOPE: f64 = 12.0;

/// The state of a process.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Hours since the start.
    at: f64,
    /// Resident memory, MB.
    memory: f64,
    descriptors: usize,
    threads: usize,
}

fn sample(process: u32, began: Instant) -> Sample {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let number = |key: &str| -> f64 {
        let line = status.lines().find(|l| l.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    Sample {
        at: began.elapsed().as_secs_f64() / 3600.0,
        memory: number("VmRSS:") / 1024.0,
        descriptors: std::fs::read_dir(format!("/proc/{process}/fd"))
            .unwrap()
            .count(),
        threads: threads(process),
    }
}

/// How many threads a process has, but for the tensor library's own pool, which is made once, when a product first needs it.
fn threads(process: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let names = tasks.flatten().filter_map(|task| {
        // A thread may end while it is looked at.
        std::fs::read_to_string(task.path().join("comm")).ok()
    });
    names.filter(|name| !name.starts_with("candle-")).count()
}

/// The slope of the least-squares line through the memory of samples, MB an hour.
fn slope(samples: &[Sample]) -> f64 {
    let count = samples.len() as f64;
    let mean = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (at, memory) = (mean(&|s| s.at), mean(&|s| s.memory));
    let above: f64 = samples
        .iter()
        .map(|s| (s.at - at) * (s.memory - memory))
        .sum();
    let below: f64 = samples.iter().map(|s| (s.at - at).powi(2)).sum();
    above / below.max(f64::MIN_POSITIVE)
}

impl Terminal {
    fn reshape(&mut self, rows: u16, columns: u16) {
        let size = portable_pty::PtySize {
            rows,
            cols: columns,
            pixel_width: 0,
            pixel_height: 0,
        };
        self.master.resize(size).unwrap();
        let (rows, columns) = (rows.try_into().unwrap(), columns.try_into().unwrap());
        self.screen
            .lock()
            .unwrap()
            .screen_mut()
            .set_size(rows, columns);
    }

    /// Waits until the screen fits, for a step's time at most.
    fn settle(&self, fits: impl Fn(&str) -> bool) -> bool {
        let began = Instant::now();
        while began.elapsed() < STEP {
            if fits(&self.text()) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        false
    }

    /// Waits until the program has drawn nothing for a while.
    fn rest(&self) {
        let (began, mut last) = (Instant::now(), (0, Instant::now()));
        while began.elapsed() < STEP && last.1.elapsed() < Duration::from_millis(400) {
            let now = *self.bytes.lock().unwrap();
            if now != last.0 {
                last = (now, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn keys_then_rest(&mut self, keys: &str) {
        self.press(keys);
        self.rest();
    }

    /// One round; says whether its text was written.
    fn round(&mut self, number: usize) -> bool {
        const PROMPTS: [&str; 4] = [
            "The capital of France is",
            "Once upon a time there was a fox named Ben. It was a",
            "The capital of Italy is",
            "What is the colour of gold? It is",
        ];
        self.press("\x1b\x1b");
        self.rest();
        let prompt = PROMPTS[number % PROMPTS.len()];
        self.press(&format!("i{prompt}\r"));
        let start: String = prompt.chars().take(16).collect();
        let written = self.settle(|t| t.contains(&start) && t.contains("ended"));
        // An edit, on and off and taken back; another that is written out; lockstep.
        self.keys_then_rest("1");
        self.keys_then_rest("1");
        self.keys_then_rest("ezero:3@mlp_act.1\r");
        self.keys_then_rest("B");
        self.keys_then_rest("r");
        self.keys_then_rest("=");
        self.keys_then_rest("B");
        self.keys_then_rest("uuuu");
        // Panes, figures, a Patchscope, a difference.
        self.keys_then_rest("\tjjhh");
        for _ in 0..4 {
            self.keys_then_rest("f");
        }
        self.keys_then_rest("FFFF");
        self.keys_then_rest("P");
        self.keys_then_rest("D");
        self.keys_then_rest("D");
        self.keys_then_rest("\tkkll\tz");
        self.keys_then_rest("zz");
        // Help, palette, theme, the notices.
        self.keys_then_rest("?");
        self.keys_then_rest("\x1b");
        self.keys_then_rest(":theme\r");
        for _ in 0..=number % 4 {
            self.press("\x1b[B");
        }
        self.keys_then_rest("\r");
        self.keys_then_rest(":notices\r");
        self.keys_then_rest("\x1b");
        // The window.
        for (rows, columns) in [(24, 80), (60, 200), (12, 45), (50, 160), (40, 120)] {
            self.reshape(rows, columns);
            self.rest();
        }
        written
    }
}

#[test]
fn a_long_session_stays_as_it_is() {
    let minutes: Option<f64> = std::env::var("LMSCOPE_SOAK_MINUTES")
        .ok()
        .map(|m| m.parse().unwrap());
    let model = std::env::var("LMSCOPE_SOAK_MODEL").unwrap_or_else(|_| "demo".into());
    let mut terminal = open(40, 120, &[("COLORTERM", "truecolor")], &[&model]);
    terminal.wait("the model", |t| t.contains("f32"));
    let process = terminal.child.process_id().unwrap();
    let began = Instant::now();
    let mut samples = vec![];
    let (mut rounds, mut written) = (0, 0);
    loop {
        written += usize::from(terminal.round(rounds));
        rounds += 1;
        if let Some(ended) = terminal.child.try_wait().unwrap() {
            panic!(
                "the program ended in round {rounds} with {ended:?}; the screen shows\n{}",
                terminal.text()
            );
        }
        let now = sample(process, began);
        if minutes.is_some() {
            println!(
                "{:6.1} min, round {rounds:4}: {:6.1} MB, {} descriptors, {} threads",
                now.at * 60.0,
                now.memory,
                now.descriptors,
                now.threads
            );
        }
        samples.push(now);
        let enough = minutes.map_or(rounds >= 2, |m| now.at * 60.0 >= m);
        if enough {
            break;
        }
    }
    assert!(written * 10 >= rounds * 9, "{written} of {rounds} texts");
    let (first, last) = (samples[0], samples[samples.len() - 1]);
    let most = |of: &dyn Fn(&Sample) -> usize| samples.iter().map(of).max().unwrap();
    let (descriptors, threads) = (most(&|s| s.descriptors), most(&|s| s.threads));
    // One may be open for the moment in which it is counted.
    assert!(
        descriptors <= first.descriptors + 1 && last.descriptors <= first.descriptors,
        "descriptors: {} at first, {descriptors} at the most, {} at last",
        first.descriptors,
        last.descriptors
    );
    assert!(
        threads <= first.threads + 1 && last.threads <= first.threads,
        "threads: {} at first, {threads} at the most, {} at last",
        first.threads,
        last.threads
    );
    let warm: Vec<Sample> = samples
        .iter()
        .copied()
        .filter(|s| s.at >= last.at * WARM)
        .collect();
    let growth = slope(&warm);
    println!(
        "{rounds} rounds in {:.1} min: {:.1} MB at first, {:.1} MB at last; after the first {:.0} % {growth:+.1} MB an hour; {} to {descriptors} descriptors, {} to {threads} threads",
        last.at * 60.0,
        first.memory,
        last.memory,
        WARM * 100.0,
        first.descriptors,
        first.threads
    );
    // In the first ten minutes buffers and kept texts fill up: a slope is one only after them.
    if minutes.is_some_and(|m| m >= 20.0) {
        assert!(growth <= SLOPE, "memory grows by {growth:.1} MB an hour");
    }
    let asked = Instant::now();
    terminal.press("\x1b\x1b");
    terminal.rest();
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
    assert!(asked.elapsed() < Duration::from_secs(30), "it leaves");
}

#[test]
fn a_slope_is_that_of_a_line() {
    let at = |at: f64, memory: f64| Sample {
        at,
        memory,
        descriptors: 0,
        threads: 0,
    };
    let line: Vec<Sample> = (0..9)
        .map(|i| at(f64::from(i) / 60.0, 50.0 + f64::from(i)))
        .collect();
    assert!((slope(&line) - 60.0).abs() < 1e-6);
    assert!(slope(&[at(0.0, 5.0), at(1.0, 5.0)]).abs() < 1e-9);
}
