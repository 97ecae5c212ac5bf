//! Updates as an engine would send them, made by hand: the screen's tests need no model.

use std::sync::Arc;
use std::time::Duration;

use lmscope::app::key::chord;
use lmscope::app::{App, AppSettings, Effect, Event};
use lmscope::edit::EditId;
use lmscope::edit::receipt::{FiredAt, Receipt};
use lmscope::engine::{
    Ending, KnownDirection, Loaded, Mode, PaneName, PromptSource, Request, Token, Update,
};
use lmscope::figure::{
    Anchor, AxisLabel, Body, Cell, Check, Entry, FeatureHandle, Figure, GivenPrompt, GivenTurn,
    Graph, GraphEdge, GraphNode, Grid, Provenance, PruningStep, Scale, Table, TablePage, TableRow,
    Unit,
};
use lmscope::lab::writer::BaselineMode;
use lmscope::model::Card;
use lmscope::model::network::families::FAMILIES;

pub const LAYERS: usize = 8;

pub fn loaded() -> Update {
    let card = Card {
        name: "demo".into(),
        family: "llama",
        blueprint: Arc::new((FAMILIES[0].blueprint)(&(FAMILIES[0].tiny)()).unwrap()),
        revision: "00d1ce00feedbeef".into(),
        dtype: "f32",
        device: "cpu".into(),
        parameters: 3_640_000,
        layers: LAYERS,
        d_model: 192,
        d_mlp: 512,
        neuron_layers: (0..LAYERS).collect(),
        norms_writes: false,
        norms_stream: false,
        heads: 6,
        vocab: 2048,
        context: 512,
        chat: true,
    };
    let directions = [
        ("mood", "resid_pre.4"),
        ("politeness", "resid_pre.3"),
        ("refusal", "resid_pre.3"),
    ];
    let directions = directions
        .map(|(name, at)| KnownDirection {
            name: name.into(),
            addresses: vec![at.parse().unwrap()],
            anywhere: false,
            length: 1.0,
            remarks: Vec::new(),
            strength: 1.0,
        })
        .to_vec();
    Update::Loaded(Box::new(Loaded {
        card,
        seconds: 0.05,
        directions,
        circuits: vec![("gifts".into(), "66 of 1405 edges (4.7 %)".into())],
        notes: Vec::new(),
    }))
}

pub fn token(position: usize, bytes: &[u8], logprob: Option<f32>, kl: Option<f32>) -> Token {
    let special = bytes.starts_with(b"<|");
    Token {
        position,
        id: 100 + position as u32,
        bytes: bytes.to_vec(),
        special,
        logprob,
        rank: logprob.map(|l| u32::from(l < -1.0)),
        kl,
        fired: Vec::new(),
        other: None,
    }
}

pub fn began(pieces: &[&str]) -> Update {
    Update::Began(
        pieces
            .iter()
            .enumerate()
            .map(|(i, p)| token(i, p.as_bytes(), None, None))
            .collect(),
    )
}

pub fn wrote(position: usize, bytes: &[u8], kl: Option<f32>) -> Update {
    Update::Token {
        token: token(position, bytes, Some(-0.2 - (position % 3) as f32), kl),
        receipts: vec![],
    }
}

fn figure(title: &str, body: Body, notes: &[&str]) -> Figure {
    let notes = notes.iter().map(ToString::to_string).collect();
    Figure {
        title: title.into(),
        body,
        notes,
        check: None,
        provenance: Provenance::default(),
    }
}

/// A lens over positions `from..to`.
pub fn lens(from: usize, to: usize, shift: f32) -> Figure {
    let words = ["␣the", "␣city", "␣Paris", "␣a", "⏎"];
    let cell = |layer: usize, position: usize| {
        let word = words[(layer / 2 + position) % words.len()];
        let value = ((layer + 1) as f32 / LAYERS as f32 * 0.9 + shift).clamp(0.0, 1.0);
        let more = vec![
            (word.to_string(), value),
            ("␣of".to_string(), (1.0 - value) / 2.0),
            ("⟨e2 96⟩".to_string(), (1.0 - value) / 4.0),
        ];
        Cell {
            label: word.into(),
            value,
            anchor: Anchor::cell(layer, position),
            more,
            ids: vec![],
        }
    };
    let body = Body::Grid(Grid {
        opening: None,
        also: lmscope::figure::cell_details::CellDetails::default(),
        row_axis: "layer".into(),
        column_axis: "position".into(),
        value: "probability".into(),
        rows: (0..LAYERS)
            .map(|l| AxisLabel {
                label: l.to_string(),
                anchor: Anchor::layer(l),
            })
            .collect(),
        columns: (from..to)
            .map(|p| AxisLabel {
                label: format!("t{p}"),
                anchor: Anchor::position(p),
            })
            .collect(),
        cells: (from..to)
            .map(|p| (0..LAYERS).map(|l| cell(l, p)).collect())
            .collect(),
        scale: Scale::Unit,
    });
    figure("lens · norm own", body, &["rows use their own norm"])
}

/// Neurons, a page a position.
pub fn neurons(from: usize, to: usize) -> Figure {
    let columns = ["neuron", "act", "size", "effect", "promotes", "suppresses"]
        .map(String::from)
        .to_vec();
    let row = |position: usize, i: usize| {
        let (layer, neuron) = (LAYERS - 1 - i, (position * 31 + i * 17) as u32);
        let entries = vec![
            Entry::Text(format!("{layer}.{neuron}")),
            Entry::Number(3.5 - i as f32),
            Entry::Number(2.0 / (i + 1) as f32),
            Entry::Number(-0.25 * i as f32),
            Entry::Text("␣Paris ␣Rome ␣Berlin".into()),
            Entry::Text("␣the ␣a".into()),
        ];
        TableRow {
            anchor: Anchor::cell(layer, position).with(Unit::Neuron(neuron)),
            entries,
            handle: None,
            ids: std::collections::BTreeMap::new(),
        }
    };
    let page = |p: usize| TablePage {
        title: format!("after t{p}"),
        anchor: Anchor::position(p),
        rows: (0..6).map(|i| row(p, i)).collect(),
    };
    let body = Body::Table(Table {
        columns,
        pages: (from..to).map(page).collect(),
    });
    figure(
        "neurons · by size",
        body,
        &["size: |activation| times the value vector's length"],
    )
}

/// The answers of a list of prompts.
/// The text of a row is what is shown of its prompt: Norway's is the last turn of a conversation.
pub fn answers() -> Figure {
    let turn = |role: &str, content: &str| GivenTurn {
        role: role.into(),
        content: content.into(),
    };
    let given = [
        GivenPrompt::Chat("The capital of Italy\tis".into()),
        GivenPrompt::Text("The capital of France\nis".into()),
        GivenPrompt::Messages(vec![
            turn("system", "You know Norway."),
            turn("user", "The capital of Norway is"),
        ]),
    ];
    let columns = ["prompt", "p", "rank", "surprisal", "answer", "text"];
    let rows = [
        (1, 0.5, 1, 0.69, "␣Rome", "The capital of Italy⇥is"),
        (2, 0.9, 0, 0.11, "␣Paris", "The capital of France⏎is"),
        (3, 0.1, 7, 2.3, "␣Oslo", "The capital of Norway is"),
    ];
    let rows = rows.map(|(prompt, p, rank, surprisal, answer, text)| {
        let entries = vec![
            Entry::Whole(prompt),
            Entry::Number(p),
            Entry::Whole(rank),
            Entry::Number(surprisal),
            Entry::Text(answer.into()),
            Entry::Text(text.into()),
        ];
        TableRow::at(Anchor::default(), entries)
    });
    Figure {
        title: "answers · list.tsv · 3 prompts".into(),
        body: Body::Table(Table {
            columns: columns.map(String::from).to_vec(),
            pages: vec![TablePage {
                title: String::new(),
                anchor: Anchor::default(),
                rows: rows.to_vec(),
            }],
        }),
        notes: Vec::new(),
        check: None,
        provenance: Provenance {
            prompts: given.to_vec(),
            ..Provenance::default()
        },
    }
}

/// Features of a dictionary of block 5, a page a position.
pub fn features(from: usize, to: usize) -> Figure {
    let columns = ["feature", "act", "size", "share", "label"];
    let row = |position: usize, i: usize| {
        let feature = (position * 7 + i * 100) as u32;
        let act = 4.0 - i as f32;
        let handle = FeatureHandle {
            dictionary: "sae/layer_5".into(),
            layer: None,
            feature,
            place: "resid_post.5".into(),
            activation: Some(act),
        };
        let entries = vec![
            Entry::Text(format!("5/{feature}")),
            Entry::Number(act),
            Entry::Number(act * 1.5),
            Entry::Text(String::new()),
            Entry::Text(format!("label {feature}")),
        ];
        TableRow::feature(Anchor::cell(5, position), handle, entries)
    };
    let rest = |position: usize| {
        let mut entries = vec![Entry::Text("L0".into()), Entry::Number(3.0)];
        entries.extend(["", "", "of 512 features"].map(|t| Entry::Text(t.into())));
        TableRow::at(Anchor::cell(5, position), entries)
    };
    let page = |p: usize| TablePage {
        title: format!("after t{p}"),
        anchor: Anchor::position(p),
        rows: (0..3).map(|i| row(p, i)).chain([rest(p)]).collect(),
    };
    let body = Body::Table(Table {
        columns: columns.map(String::from).to_vec(),
        pages: (from..to).map(page).collect(),
    });
    figure("features · resid_post.5", body, &["L0: active features"])
}

pub fn patchscope() -> Figure {
    let columns = [
        "layer",
        "into",
        "patched",
        "p first",
        "unpatched",
        "‖h‖ ratio",
    ]
    .map(String::from)
    .to_vec();
    let row = |layer: usize| {
        let said = if layer < 3 {
            ": letter."
        } else {
            ": country in Europe."
        };
        let entries = vec![
            Entry::Number(layer as f32),
            Entry::Number(layer as f32),
            Entry::Text(said.into()),
            Entry::Number(0.1 * layer as f32),
            Entry::Text(": letter.".into()),
            Entry::Number(1.25),
        ];
        TableRow {
            anchor: Anchor::cell(layer, 4),
            entries,
            handle: None,
            ids: std::collections::BTreeMap::new(),
        }
    };
    let page = TablePage {
        title: "␣France at 4 → slot x".into(),
        anchor: Anchor::position(4),
        rows: (0..LAYERS).map(row).collect(),
    };
    figure(
        "patchscope · world",
        Body::Table(Table {
            columns,
            pages: vec![page],
        }),
        &[
            "patched: greedy continuation",
            "‖h‖ ratio: over what it replaced",
        ],
    )
}

/// Gradient x input of the first tokens of a text.
pub fn saliency(until: usize) -> Figure {
    let numbers = [9.0, 0.04, -0.3, 0.02, 1.2, -0.9];
    let rows = (0..until).map(|position| TableRow {
        anchor: Anchor::position(position),
        entries: vec![
            Entry::from(position),
            Entry::Text("␣word".into()),
            Entry::Number(numbers[position % numbers.len()]),
            Entry::Number(0.5),
        ],
        handle: None,
        ids: std::collections::BTreeMap::new(),
    });
    let columns = ["position", "token", "gradient x input", "random words"];
    let page = TablePage {
        title: String::new(),
        anchor: Anchor::default(),
        rows: rows.collect(),
    };
    let body = Body::Table(Table {
        columns: columns.map(ToString::to_string).to_vec(),
        pages: vec![page],
    });
    let title = "saliency · log-probability of ␣Paris, by input token";
    let mut figure = figure(
        title,
        body,
        &["gradient x input alone", "random words, the control"],
    );
    figure.provenance.tokens = (0..until as u32).map(|i| 100 + i).collect();
    figure
}

/// A circuit as a graph: five, nine or eleven edges, nine of them shown, and a curve up to all of them.
pub fn circuit() -> Figure {
    let node = |label: &str, row: usize, column: usize, anchor: Anchor| GraphNode {
        label: label.into(),
        row,
        column,
        anchor,
    };
    let head = |layer: usize, head: usize| {
        let name = format!("a{layer}.h{head}");
        node(&name, layer + 1, head, Anchor::head(layer, head))
    };
    let mlp = |layer: usize| node(&format!("m{layer}"), layer + 1, 6, Anchor::layer(layer));
    let nodes = vec![
        node("input", 0, 6, Anchor::default()),
        head(0, 1),
        mlp(0),
        head(2, 1),
        head(4, 0),
        head(4, 3),
        mlp(5),
        node("logits", LAYERS + 1, 6, Anchor::default()),
    ];
    let edges = [
        (0, 2, "", -42.1, 0),
        (2, 3, "v", -13.8, 0),
        (2, 4, "v", -10.8, 0),
        (4, 7, "", -6.4, 0),
        (3, 7, "", -5.0, 0),
        (3, 4, "q", 2.5, 1),
        (2, 5, "k", 0.75, 1),
        (5, 6, "", -1.5, 1),
        (6, 7, "", -3.2, 1),
        (0, 1, "q", 0.4, 2),
        (1, 2, "", 0.3, 2),
    ];
    let edge = |(from, to, part, weight, step): (usize, usize, &str, f32, usize)| GraphEdge {
        name: format!("{}->{}<{part}>", nodes[from].label, nodes[to].label),
        from,
        to,
        part: part.into(),
        weight,
        step,
    };
    let step = |edges: usize, faithfulness: f32, without: f32| PruningStep {
        edges,
        faithfulness,
        without,
        random_most: 0.03,
        random_least: -0.01,
    };
    let edges = edges.into_iter().map(edge).collect();
    let ends = |name: &str| AxisLabel::of(name, Anchor::default());
    let mut rows = vec![ends("input")];
    rows.extend(AxisLabel::layers(LAYERS));
    rows.push(ends("logits"));
    let body = Body::Graph(Graph {
        rows,
        columns: (0..7).map(|h| ends(&format!("h{h}"))).collect(),
        weight: "score".into(),
        share: "share of the metric (0: corrupted, 1: clean)".into(),
        nodes,
        edges,
        steps: vec![
            step(5, 0.61, 0.4),
            step(9, 0.83, 0.11),
            step(11, 0.84, 0.1),
            step(320, 1.0, 0.0),
        ],
        shown: 1,
        listed: 3,
    });
    figure(
        "9 of 320 edges (2.8 %), faithfulness 0.83",
        body,
        &["logit difference", "faithfulness 0.830"],
    )
}

pub fn shown(slot: PaneName, figure: Figure) -> Update {
    Update::Figure {
        slot,
        unedited: false,
        figure: Box::new(figure),
    }
}

pub const PROMPT: [&str; 6] = ["<|endoftext|>", "The", " capital", " of", " France", " is"];

/// A text that was written, with its lens and its neurons.
pub fn session() -> Vec<Update> {
    let mut out = vec![loaded(), began(&PROMPT)];
    let words: [&[u8]; 5] = [b" Paris", b".", b" The", b" \xf0\x9f\x98", b"\x80\n"];
    for (i, word) in words.iter().enumerate() {
        out.push(wrote(PROMPT.len() + i, word, None));
    }
    let count = PROMPT.len() + words.len();
    out.push(Update::Checked(Check {
        error: 1e-6,
        tolerance: 1e-4,
    }));
    out.push(Update::Ended {
        ending: Ending::Count,
        written: 5,
        rate: 61.0,
    });
    out.push(shown("lens", lens(0, count, 0.0)));
    out.push(shown("neurons", neurons(0, count)));
    out
}

pub fn receipts(app: &App, fired: usize) -> Vec<Receipt> {
    let one = |e: &lmscope::edit::Edit| {
        let active = e.active();
        let fired = if active { fired } else { 0 };
        Receipt {
            id: e.id,
            edit: e.to_string(),
            active,
            fired,
            relative: 0.31,
            kl: (fired > 0).then_some(0.42),
            control: (fired > 0).then_some(0.05),
            why: if active && fired == 0 {
                "nothing has been read yet".into()
            } else {
                String::new()
            },
            ..Receipt::default()
        }
    };
    app.history.edits().iter().map(one).collect()
}

/// A token of a lockstep: what the other run chose, and what the first edit did.
pub fn beside(position: usize, word: &str, other: &str, kl: f32) -> Token {
    let rival = token(position, other.as_bytes(), None, None);
    let same = word == other;
    Token {
        fired: vec![FiredAt {
            edit: EditId(3),
            position,
            fired: 1,
            relative: 0.1 * (1 + position % 4) as f32,
        }],
        other: Some(Box::new(Token {
            id: if same { rival.id } else { 900 },
            logprob: Some(-0.5),
            ..rival
        })),
        ..token(position, word.as_bytes(), Some(-0.2), Some(kl))
    }
}

/// A lockstep of two runs that part at position 9.
pub fn lockstep(app: &mut App, beside: BaselineMode) {
    press(app, "3");
    app.update(Event::Engine(Update::Edited {
        boundary: None,
        receipts: receipts(app, 12),
    }));
    app.update(Event::Engine(Update::Beside {
        beside,
        tokens: vec![],
        diverged: None,
    }));
    press(
        app,
        if beside == BaselineMode::Forced {
            "="
        } else {
            "B"
        },
    );
    let words = [
        (" I", " I", 0.02),
        (" am", " am", 0.1),
        (" so", " so", 0.3),
        (" sorry", " glad", 1.1),
        (",", "\n", 0.4),
        (" but", " The", 2.0),
        (" no", " capital", 1.5),
        (".", " is", 0.8),
    ];
    for (i, (word, other, kl)) in words.iter().enumerate() {
        let (word, other) = match beside {
            BaselineMode::Forced => (other, word),
            _ => (word, other),
        };
        app.update(Event::Engine(Update::Token {
            token: self::beside(PROMPT.len() + i, word, other, *kl),
            receipts: receipts(app, 12),
        }));
    }
    app.update(Event::Tick(Duration::from_secs(9)));
}

/// An app of a size that has taken these updates in.
pub fn app(size: (u16, u16), updates: Vec<Update>) -> App {
    let themes = ["terminal", "mocha", "latte"]
        .map(|t| (t.to_string(), format!("{t} about")))
        .to_vec();
    let settings = AppSettings {
        themes,
        formats: vec!["json".into(), "csv".into()],
        ..AppSettings::default()
    };
    let (mut app, _) = App::new(settings);
    app.update(Event::Resize(size.0, size.1));
    app.update(Event::Tick(Duration::from_secs(1)));
    for update in updates {
        app.update(Event::Engine(update));
    }
    app
}

/// Presses keys written as `keys.toml` writes them; returns what was asked for.
pub fn press(app: &mut App, keys: &str) -> Vec<Effect> {
    chord(keys)
        .unwrap()
        .into_iter()
        .flat_map(|k| app.update(Event::Key(k)))
        .collect()
}

/// Types a text.
pub fn type_in(app: &mut App, text: &str) -> Vec<Effect> {
    text.chars()
        .flat_map(|c| app.update(Event::Key(lmscope::app::key::Key::char(c))))
        .collect()
}

/// An effect in a line.
pub fn say(effect: &Effect) -> String {
    match effect {
        Effect::Ask(request) => ask(request),
        Effect::EditText(text) => format!("edit {text:?}"),
        Effect::Cancel => "cancel".into(),
        Effect::Copy(text) => format!("copy {text}"),
        Effect::Write(path, _) | Effect::WritePrivate(path, _) => {
            format!("write {}", path.display())
        }
        Effect::Export { format, path, .. } => format!("export {format} {}", path.display()),
        Effect::Shot(path) => format!("shot {}", path.display()),
        Effect::Record(Some(path)) => format!("record {}", path.display()),
        Effect::Record(None) => "record".into(),
        Effect::Configure { name, value, .. } => format!("configure {name} = {value}"),
        Effect::Suspend => "suspend".into(),
        Effect::Redraw => "redraw".into(),
        Effect::Quit => "quit".into(),
    }
}

fn ask(request: &Request) -> String {
    match request {
        Request::Load { model, .. } => format!("load {model}"),
        Request::Generate { prompt, count } => match prompt {
            PromptSource::Text(text) => format!("generate text {text:?} {count}"),
            PromptSource::Chat(text) => format!("generate chat {text:?} {count}"),
            PromptSource::Ids(ids) => format!("generate ids {ids:?} {count}"),
            PromptSource::Messages(turns) => {
                let turns = turns
                    .iter()
                    .map(|turn| format!("{}: {}", turn.role, turn.content));
                let turns: Vec<String> = turns.collect();
                format!("generate messages {turns:?} {count}")
            }
            PromptSource::Spliced {
                before,
                text,
                after,
            } => format!(
                "generate spliced {} {text:?} {} {count}",
                before.len(),
                after.len()
            ),
        },
        Request::CountTokens { text, chat } => {
            format!("count {text:?} {}", if *chat { "chat" } else { "raw" })
        }
        Request::ListModels(_) => "list models".into(),
        Request::Continue { count } => format!("continue {count}"),
        Request::Stop => "stop".into(),
        Request::Rewind { position } => format!("rewind {position}"),
        Request::Restore(number) => format!("restore {number}"),
        Request::Sampling(s) => format!("sampling {} {}", s.temperature, s.seed),
        Request::Edits { edits, mode } => {
            let on: Vec<String> = edits
                .iter()
                .filter(|e| e.on)
                .map(ToString::to_string)
                .collect();
            let mode = if *mode == Mode::FromNow {
                "from now"
            } else {
                "as if always"
            };
            format!("edits [{}] {mode}", on.join(" "))
        }
        Request::Live(questions) => format!(
            "live {}",
            questions
                .iter()
                .map(|q| q.instrument)
                .collect::<Vec<_>>()
                .join(" ")
        ),
        Request::View { slot, layers } => format!("view {slot} {layers:?}"),
        Request::Observe(q) | Request::Follow(q) => {
            let arguments: Vec<String> = q
                .arguments
                .given
                .iter()
                .map(|(k, v)| format!("{k}={v}"))
                .collect();
            let until = q.until.map_or(String::new(), |n| format!(" until {n}"));
            let word = match request {
                Request::Follow(_) => "follow",
                _ => "observe",
            };
            let other = q.other.as_ref().map_or_else(String::new, |other| {
                format!(" other of {} tokens", other.tokens.len())
            });
            format!(
                "{word} {}{}{other}{until} {}",
                q.instrument,
                if q.unedited { " unedited" } else { "" },
                arguments.join(" ")
            )
            .trim()
            .to_string()
        }
        Request::Baseline => "baseline".into(),
        Request::Beside(beside) => format!("beside {beside:?}"),
        Request::Group { name, set, .. } => format!("group {name} {}", set.units.len()),
        Request::Direction { name, layer, .. } => format!("direction {name} {layer}"),
        Request::Panic => "panic".into(),
    }
}
