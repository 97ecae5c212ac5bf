//! Patchscopes: identities on every family, a hand-wired organism, the demo's plants, and what a user can get wrong.

use candle_core::Tensor;
use lmscope::figure::{Body, Entry, Figure, Table};
use lmscope::file::Overwrite;
use lmscope::instruments::patchscope::map::{AffineMaps, Map};
use lmscope::instruments::patchscope::ridge::Affine;
use lmscope::instruments::patchscope::target::{ContinuedText, TargetPrompt};
use lmscope::instruments::patchscope::templates;
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::pass::{Pass, Patch};
use lmscope::lab::progress::WorkProgress;
use lmscope::lab::readout::{RowRequest, Tokens, read_rows};
use lmscope::lab::run::Run;
use lmscope::lab::sample::log_softmax;
use lmscope::model::network::site::{Address, Site};

use super::demo::demo;
use super::organisms::two_hop::{BRIDGES, TwoHop};
use super::organisms::{Layout, tokens};
use super::tools::{every_family, prompt, read_again, values};

/// A row of a recorded site.
fn state(lab: &mut Lab, tokens: &[u32], at: Address, position: usize) -> Tensor {
    let recording = lab.record(&Run::plain(tokens.to_vec()), &[at]).unwrap();
    recording.get(at).unwrap().get(position).unwrap()
}

fn put(at: Address, position: usize, value: Tensor) -> Patch {
    Patch::new(at, position, value)
}

/// What a target goes on with under one branch, read from position `from` on.
fn written(
    lab: &mut Lab,
    target: &[u32],
    from: usize,
    puts: Vec<Patch>,
    count: usize,
) -> ContinuedText {
    let target = TargetPrompt {
        tokens: target.to_vec(),
        from,
    };
    let all: Vec<u32> = (0..lab.model.card.vocab as u32).collect();
    let mut out = target.branches(lab, vec![puts], count, &all).unwrap();
    out.remove(0)
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Every place that a state can be put into at a layer.
fn places(lab: &Lab, layer: usize) -> Vec<Address> {
    let sites = [
        Site::ResidPre,
        Site::AttnOut,
        Site::AttnAdd,
        Site::ResidMid,
        Site::MlpOut,
        Site::MlpAdd,
        Site::ResidPost,
    ];
    let mut out: Vec<Address> = sites.iter().map(|s| s.at(layer)).collect();
    out.retain(|at| lab.model.offers(*at).is_ok());
    if layer == 0 {
        out.push(Site::Embed.at(0));
    }
    out
}

#[test]
fn a_state_put_where_it_was_taken_changes_no_bit() {
    for mut lab in every_family() {
        let tokens = prompt(7);
        // Read in the same steps as the branches read it, so that nothing but the value differs.
        let plain = written(&mut lab, &tokens, 4, vec![], 20);
        let layers = lab.model.card.layers;
        for layer in 0..layers {
            for at in places(&lab, layer) {
                // The state as the pass that the branches go on from has it.
                let own = {
                    let read = lab.run_one(&Pass {
                        from: Some(4),
                        record: vec![at],
                        ..Pass::of(Run::plain(tokens.clone()))
                    });
                    read.unwrap().get(at).unwrap().get(1).unwrap()
                };
                let again = written(&mut lab, &tokens, 4, vec![put(at, 5, own.clone())], 20);
                let name = lab.model.card.name.clone();
                assert_eq!(again.tokens, plain.tokens, "{name} {at}");
                // What is shared is multiplied in other shapes; the same steps give the same bits.
                let pairs = again.watched.iter().zip(&plain.watched);
                assert!(
                    pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-6),
                    "{name} {at}"
                );
                let run = Run::plain(tokens.clone());
                let value = {
                    let recording = lab.record(&run, &[at]).unwrap();
                    recording.get(at).unwrap().get(5).unwrap()
                };
                let there = [put(at, 5, value)];
                let [bare, patched] = [&[], &there[..]].map(|p| read_again(&mut lab, &run, 6, p));
                assert!(same_bits(&bare, &patched), "{name} {at}");
                let other = written(&mut lab, &tokens, 4, vec![put(at, 4, own)], 1);
                // After the last attention nobody looks at another position.
                let pairs = other.watched.iter().zip(&plain.watched);
                let moved = pairs.into_iter().any(|(a, b)| (a - b).abs() > 1e-6);
                let seen = layer + 1 < layers || at.site == Site::ResidPre;
                assert_eq!(moved, seen, "{name} {at}: another slot");
            }
        }
        // The same from a recording of the whole prompt, to rounding.
        let at = Site::ResidPost.at(layers - 1);
        let own = state(&mut lab, &tokens, at, 6);
        let again = written(&mut lab, &tokens, 6, vec![put(at, 6, own)], 20);
        assert_eq!(again.tokens, plain.tokens);
    }
}

#[test]
fn a_state_put_last_into_the_last_layer_is_read_as_the_lens_reads_it() {
    for mut lab in every_family() {
        let last = Site::ResidPost.at(lab.model.card.layers - 1);
        let target: Vec<u32> = prompt(12)[5..].to_vec();
        for layer in 0..lab.model.card.layers {
            let value = state(&mut lab, &prompt(8), Site::ResidPost.at(layer), 3);
            let row = value.unsqueeze(0).unwrap();
            let lens = lab.model.transformer.unembed(&row).unwrap();
            let lens = values(&lens);
            let all: Vec<u32> = (0..lens.len() as u32).collect();
            let ask = RowRequest {
                tokens: Tokens::Same(&all),
                ..RowRequest::default()
            };
            let lens = read_rows(&[&lens], lens.len(), &ask);
            let said = written(&mut lab, &target, 6, vec![put(last, 6, value)], 1);
            let worst = lens[0]
                .tokens
                .iter()
                .zip(&said.watched)
                .map(|(l, p)| (l.logprob.exp() - p).abs())
                .fold(0.0, f32::max);
            assert!(worst < 1e-7, "{}: {worst}", lab.model.card.name);
        }
    }
}

#[test]
fn a_tokens_own_embedding_is_that_token() {
    for mut lab in every_family() {
        let target = prompt(6);
        let mut other = target.clone();
        other[4] = 33;
        // Learned positions are a part of the embedding, so it is taken at the slot's own position.
        let value = state(&mut lab, &other, Site::Embed.at(0), 4);
        let own = [put(Site::Embed.at(0), 4, value)];
        let patched = written(&mut lab, &target, 2, own.to_vec(), 12);
        let meant = written(&mut lab, &other, 2, vec![], 12);
        assert_eq!(patched.tokens, meant.tokens, "{}", lab.model.card.name);
        // What is shared is multiplied in other shapes; the same steps give the same bits.
        let pairs = patched.watched.iter().zip(&meant.watched);
        assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-6));
        let same = read_again(&mut lab, &Run::plain(target.clone()), 5, &own);
        let bare = read_again(&mut lab, &Run::plain(other), 5, &[]);
        assert!(same_bits(&same, &bare));
        let plain = written(&mut lab, &target, 2, vec![], 1);
        assert!(!same_bits(&patched.watched, &plain.watched));
    }
}

#[test]
fn a_wired_description_names_the_bridge_from_its_layer_on() {
    for layout in [Layout::Llama, Layout::Gpt2] {
        for hop1 in [0, 1, 2] {
            let world = TwoHop::new(layout, hop1, 3);
            let mut lab = world.open();
            for subject in 0..6 {
                let bridge = BRIDGES[world.first[subject]];
                let run = Run::plain(tokens(&lab, &TwoHop::prompt(subject)));
                let arguments = Arguments::default()
                    .with("prompt", "it is")
                    .with("placeholder", "it")
                    .with("layer", "0-3")
                    // From here on the target prompt takes no hop itself.
                    .with("target", "2")
                    .with("answers", bridge)
                    .with("tokens", 1);
                let figure = observe(&mut lab, &run, &arguments).unwrap();
                let rows = &table(&figure).pages[0].rows;
                for (layer, row) in rows.iter().enumerate() {
                    let p = number(&row.entries[5]);
                    let expected = layer >= hop1;
                    assert_eq!(p > 0.9, expected, "{layout:?} {hop1} {layer}: {p}");
                    let said = text(&row.entries[2]) == bridge;
                    assert_eq!(said, expected);
                    assert_ne!(text(&row.entries[3]), bridge, "unpatched");
                    assert_eq!(row.anchor.layer, Some(layer as u16));
                    assert_eq!(row.anchor.position, Some(2));
                }
            }
        }
    }
}

/// Exactly once a request: in the pass that reads the slot, in its row alone; and a value without a slot is an error.
#[test]
fn a_value_acts_once_in_its_own_branch() {
    for mut lab in every_family() {
        let tokens = prompt(6);
        let at = Site::ResidPost.at(0);
        let value = (state(&mut lab, &prompt(9), at, 7) * 3.0).unwrap();
        let target = TargetPrompt {
            tokens: tokens.clone(),
            from: 5,
        };
        let branches = vec![vec![], vec![put(at, 5, value.clone())], vec![]];
        let all: Vec<u32> = (0..lab.model.card.vocab as u32).collect();
        let three = target.branches(&mut lab, branches, 6, &all).unwrap();
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(&three[0].watched, &three[2].watched));
        assert!(!close(&three[0].watched, &three[1].watched));
        // Written token by token, it is what one pass over the whole text with the value in it says.
        let whole = [tokens.clone(), three[1].tokens[..5].to_vec()].concat();
        let patch = put(at, 5, value.clone());
        let last = whole.len() - 1;
        let reread = read_again(&mut lab, &Run::plain(whole), last, &[patch]);
        let best = (0..reread.len())
            .max_by(|a, b| reread[*a].total_cmp(&reread[*b]))
            .unwrap();
        assert_eq!(best as u32, three[1].tokens[5], "{}", lab.model.card.name);
        // Before what every branch reads, and beyond the target, there is no place for it.
        for position in [0, 6] {
            let branch = vec![put(at, position, value.clone())];
            assert!(target.branches(&mut lab, vec![branch], 1, &[]).is_err());
        }
    }
}

#[test]
fn what_is_read_once_for_all_branches_changes_nothing() {
    for mut lab in every_family() {
        let tokens = prompt(9);
        let at = Site::ResidPost.at(1);
        let value = state(&mut lab, &prompt(7), at, 6);
        let patch = put(at, 7, value);
        let shared = written(&mut lab, &tokens, 7, vec![patch.clone()], 8);
        let mut text = tokens.clone();
        for (step, token) in shared.tokens.iter().enumerate() {
            let run = Run::plain(text.clone());
            let patch = std::slice::from_ref(&patch);
            let mut row = read_again(&mut lab, &run, text.len() - 1, patch);
            log_softmax(&mut row);
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            // A tie to rounding may fall either way.
            assert!(most - row[*token as usize] < 1e-4);
            if step == 0 {
                let worst = shared.watched.iter().zip(&row);
                let worst = worst.map(|(p, l)| (p - l.exp()).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-5, "{}: {worst}", lab.model.card.name);
            }
            text.push(*token);
        }
    }
}

fn observe(lab: &mut Lab, run: &Run, arguments: &Arguments) -> lmscope::error::Result<Figure> {
    let of = instrument("patchscope").unwrap();
    of.observe(run, arguments, lab)
}

fn table(figure: &Figure) -> &Table {
    match &figure.body {
        Body::Table(table) => table,
        _ => panic!("a table"),
    }
}

fn number(entry: &Entry) -> f32 {
    match entry {
        Entry::Whole(n) => *n as f32,
        Entry::Number(n) => *n,
        Entry::Missing => panic!("no number"),
        Entry::Text(text) => panic!("{text} is no number"),
    }
}

fn text(entry: &Entry) -> &str {
    match entry {
        Entry::Text(text) => text,
        other @ (Entry::Whole(_) | Entry::Number(_) | Entry::Missing) => panic!("{other:?}"),
    }
}

fn column(figure: &Figure, name: &str) -> Vec<f32> {
    let table = table(figure);
    let at = table.columns.iter().position(|c| c == name).unwrap();
    let rows = &table.pages[0].rows;
    rows.iter().map(|r| number(&r.entries[at])).collect()
}

fn list(name: &str) -> String {
    format!("{}/demo/lists/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn over(attributes: &str) -> Arguments {
    Arguments::default()
        .with("template", "world")
        .with("attributes", attributes)
        .with("tokens", 8)
}

/// The judged figure: names are read back at some layer by at least 0.8, and unpatched by at most 0.1.
#[test]
fn a_description_reads_names_back() {
    let mut lab = demo();
    let figure = observe(&mut lab, &Run::default(), &over(&list("descriptions.tsv"))).unwrap();
    let (read, alone) = (column(&figure, "read"), column(&figure, "unpatched"));
    println!("names: read {read:?}, unpatched {alone:?}");
    assert!(read[0] >= 0.8 && read[1] >= 0.8, "{read:?}");
    assert!(alone.iter().all(|a| *a <= 0.1), "{alone:?}");
    assert!(column(&figure, "unrelated").iter().all(|a| *a <= 0.1));
    assert!(
        read[7] <= 0.1,
        "late states are about the next token: {read:?}"
    );
    assert!(figure.notes.iter().any(|n| n.contains("oracle")));
}

/// Two tokens of a name say who it is, the last alone does not.
#[test]
fn a_person_is_read_from_a_placeholder_for_each_token() {
    let mut lab = demo();
    let people = over(&list("people.tsv")).with("layer", "0");
    let each = people.clone().with("placeholders", "each");
    let both = column(&observe(&mut lab, &Run::default(), &each).unwrap(), "read")[0];
    let last = column(
        &observe(&mut lab, &Run::default(), &people).unwrap(),
        "read",
    )[0];
    println!("people: both tokens {both}, last token {last}");
    assert!(both >= 0.8 && last <= 0.2, "{both} {last}");
}

#[test]
fn a_map_that_was_fitted_elsewhere_brings_late_states_back() {
    let mut lab = demo();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("maps.safetensors").display().to_string();
    // The text that the maps are fitted on says none of these names.
    let base = over(&list("descriptions_held.tsv"))
        .with("layer", "5-6")
        .with("target", "0");
    let fitted = base
        .clone()
        .with("map", list("map_text.txt"))
        .with("save", &file);
    let plain = observe(&mut lab, &Run::default(), &base).unwrap();
    let mapped = observe(&mut lab, &Run::default(), &fitted).unwrap();
    let (plain, through) = (column(&plain, "read"), column(&mapped, "read"));
    println!("late states: as they are {plain:?}, through the map {through:?}");
    assert!(plain.iter().all(|p| *p < 0.3), "{plain:?}");
    assert!(through.iter().all(|p| *p > 0.8), "{through:?}");
    // Kept and loaded, the maps say the same.
    let loaded = observe(&mut lab, &Run::default(), &base.with("map", &file)).unwrap();
    assert_eq!(column(&loaded, "read"), through);
    let held = AffineMaps::load(
        folder.path().join("maps.safetensors").as_path(),
        &lab.model.card,
    );
    let fit = held.unwrap();
    let pair = (Site::ResidPost.at(5), Site::ResidPost.at(0));
    let fit = fit.fit(pair).unwrap();
    assert!(
        fit.residual <= fit.held_out && fit.held_out < 0.5,
        "{fit:?}"
    );
    println!("{fit:?}");
    assert!(fit.identity > fit.held_out, "{fit:?}");
}

#[test]
fn maps_of_other_weights_and_widths_are_refused() {
    let lab = demo();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let maps = |width: usize| AffineMaps {
        maps: vec![(
            None,
            Affine {
                weight: vec![0.5; width * width],
                bias: vec![0.0; width],
            },
        )],
        origin: None,
    };
    maps(128).save(&path, Overwrite::Allowed).unwrap();
    let held = AffineMaps::load(&path, &lab.model.card).unwrap();
    assert_eq!(held.maps, maps(128).maps);
    maps(64).save(&path, Overwrite::Allowed).unwrap();
    let error = AffineMaps::load(&path, &lab.model.card)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("[64, 64]") && error.contains("[128, 128]"),
        "{error}"
    );
    let mut other = maps(128);
    other.origin = Some(lmscope::instruments::patchscope::map::MapOrigin {
        model: "another".into(),
        revision: "0".into(),
        ..Default::default()
    });
    other.save(&path, Overwrite::Allowed).unwrap();
    let error = AffineMaps::load(&path, &lab.model.card)
        .unwrap_err()
        .to_string();
    assert!(error.contains("another"), "{error}");
}

#[test]
fn norm_matched_states_have_the_length_of_what_they_replace() {
    let pair = (Site::ResidPost.at(0), Site::ResidPost.at(1));
    let put = Map::Norm.apply(&[3.0, 4.0], pair, 10.0).unwrap();
    assert!(same_bits(&put, &[6.0, 8.0]));
    let zero = Map::Norm.apply(&[0.0, 0.0], pair, 10.0).unwrap();
    assert!(same_bits(&zero, &[0.0, 0.0]), "nothing has no direction");
}

#[test]
fn grid_table_and_curves_are_one_measurement() {
    let mut lab = demo();
    let run = Run::plain(lab.model.encode("People in Japan", false).unwrap());
    let base = Arguments::default()
        .with("template", "world")
        .with("layer", "0-3")
        .with("target", "0,2")
        .with("answers", " Asia|:")
        .with("control", "unrelated");
    let table = observe(&mut lab, &run, &base).unwrap();
    let mut older = base.clone();
    older.given.remove("control");
    let older = observe(&mut lab, &run, &older.with("null", "beside")).unwrap();
    assert_eq!(older, table, "an older spelling asks for the same figure");
    let grid = observe(&mut lab, &run, &base.clone().with("show", "grid")).unwrap();
    let curves = observe(&mut lab, &run, &base.with("show", "curves")).unwrap();
    let (Body::Grid(grid), Body::Series(series)) = (&grid.body, &curves.body) else {
        panic!("a grid and curves");
    };
    let p = column(&table, "p answers");
    for (row, source) in (0..4).enumerate() {
        for target in 0..2 {
            let listed = p[source * 2 + target];
            let cell = &grid.cells[target][row];
            assert!((cell.value - listed).abs() < 1e-5);
            assert_eq!(cell.anchor.layer, Some(source as u16));
            assert_eq!(cell.anchor.position, Some(3));
            assert!((series.curves[target].values[source] - listed).abs() < 1e-5);
            assert!(cell.more.iter().any(|m| m.0.starts_with("unrelated")));
        }
    }
    let labels: Vec<&str> = series.curves.iter().map(|c| c.label.as_str()).collect();
    let expected = [
        "patched, into 0",
        "patched, into 2",
        "unrelated, into 0",
        "unrelated, into 2",
        "unpatched",
    ];
    assert_eq!(labels, expected);
    // Both sweeps with one target a source have one curve.
    let one = Arguments::default()
        .with("template", "world")
        .with("control", "no")
        .with("show", "curves");
    let Body::Series(one) = observe(&mut lab, &run, &one).unwrap().body else {
        panic!("curves");
    };
    assert_eq!(one.curves.len(), 2);
    assert_eq!(one.points.len(), 8);
}

/// Another prompt's places are not the run's: its rows lead to a layer and to no position of the text on the screen.
#[test]
fn anchors_point_into_the_run_and_nowhere_else() {
    let mut lab = demo();
    let run = Run::plain(lab.model.encode("People in Japan", false).unwrap());
    let base = Arguments::default()
        .with("template", "world")
        .with("tokens", 4);
    let own = observe(&mut lab, &run, &base.clone().with("layer", "2")).unwrap();
    assert_eq!(table(&own).pages[0].rows[0].anchor.position, Some(3));
    let other = base.with("from", "The robin").with("target", "0");
    let figure = observe(&mut lab, &run, &other.with("layer", "2")).unwrap();
    let page = &table(&figure).pages[0];
    assert_eq!(
        (page.anchor.position, page.rows[0].anchor.position),
        (None, None)
    );
    assert_eq!(page.rows[0].anchor.layer, Some(2));
    assert!(page.title.contains("The robin"));
    assert!(text(&page.rows[0].entries[2]).contains("kind of bird"));
    assert!(
        figure.provenance.tokens.is_empty(),
        "nothing of the run was read"
    );
}

#[test]
fn sources_from_a_file_and_the_embedding_are_read() {
    let mut lab = demo();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.txt");
    std::fs::write(&path, "People in Japan\n\nThe robin\n").unwrap();
    let arguments = Arguments::default()
        .with("template", "world")
        .with("from", format!("@{}", path.display()))
        .with("layer", "-1")
        .with("target", "-1")
        .with("control", "no")
        .with("tokens", 5);
    let figure = observe(&mut lab, &Run::default(), &arguments).unwrap();
    let said: Vec<&str> = table(&figure)
        .pages
        .iter()
        .map(|p| text(&p.rows[0].entries[2]))
        .collect();
    assert_eq!(said, [": country in Asia,", ": kind of bird,"]);
    // A token's embedding in the slot's place is the target with that token in it.
    let meant = templates::find("world", None).unwrap().prompt;
    let meant = meant.replace(", x", ", Japan");
    let tokens = lab.model.encode(&meant, false).unwrap();
    let meant = written(&mut lab, &tokens, tokens.len() - 1, vec![], 1);
    let p = number(&table(&figure).pages[0].rows[0].entries[4]);
    assert!((p - meant.first.top[0].1).abs() < 1e-7);
}

/// Sources of different numbers of tokens have targets of their own, and keep their place.
#[test]
fn subjects_of_any_length_stand_where_their_file_has_them() {
    let mut lab = demo();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.tsv");
    let lines = "Mei Berg\tpilot\tThen we met Mei Berg\nrobin\tbird\tThe robin\nYuki Haddad\tpilot|Spain\tThen we met Yuki Haddad\n";
    std::fs::write(&path, lines).unwrap();
    let arguments = over(&path.display().to_string())
        .with("placeholders", "each")
        .with("show", "items")
        .with("layer", "0");
    let figure = observe(&mut lab, &Run::default(), &arguments).unwrap();
    let rows = &table(&figure).pages[0].rows;
    for (row, (name, word)) in rows.iter().zip([
        ("Mei Berg", "pilot from France"),
        ("robin", "kind of bird"),
        ("Yuki Haddad", "pilot from Spain"),
    ]) {
        assert_eq!(text(&row.entries[0]), name);
        assert!(text(&row.entries[4]).contains(word), "{row:?}");
        assert_eq!(row.anchor.layer, Some(0));
    }
}

/// `templates.toml` in the user's folder is found, a template of its file comes first, and a broken one stops the command.
#[test]
#[cfg(target_os = "linux")]
fn templates_of_the_config_folder_are_found() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("lmscope");
    std::fs::create_dir(&folder).unwrap();
    let say = || {
        let arguments = [
            "patchscope",
            "demo",
            "--from",
            "The robin",
            "--template",
            "mine",
            "--layer",
            "0",
            "--tokens",
            "4",
        ];
        let run = std::process::Command::new(env!("CARGO_BIN_EXE_lmscope"))
            .args(arguments)
            .env("XDG_CONFIG_HOME", home.path())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (run.status.success(), text(&run.stdout), text(&run.stderr))
    };
    let (fine, _, error) = say();
    assert!(!fine && error.contains("`template` is `mine`"), "{error}");
    let file = folder.join("templates.toml");
    std::fs::write(
        &file,
        "[[template]]\nname = \"mine\"\nprompt = \"gold -> gold ; x\"",
    )
    .unwrap();
    let (fine, said, error) = say();
    assert!(fine && said.contains("-> robin"), "{said} {error}");
    assert!(said.contains("patchscope · mine"), "{said}");
    std::fs::write(&file, "[[template]]\nname = mine").unwrap();
    let (fine, _, error) = say();
    assert!(!fine && error.contains("templates.toml: line 2"), "{error}");
}

#[test]
fn what_does_not_fit_is_said_before_anything_runs() {
    let mut lab = demo();
    let run = Run::plain(lab.model.encode("People in Japan", false).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.toml");
    std::fs::write(&bad, "[[template]]\nname = \"a\"\nprompt = \"b\"").unwrap();
    let bad = bad.display().to_string();
    let few = folder.path().join("few.txt");
    std::fs::write(&few, "one\ntwo").unwrap();
    let few = few.display().to_string();
    for (name, value, why) in [
        ("layer", "8", "layers from 0 to 7"),
        ("target", "same+8", "a target layer from -1 to 7"),
        ("target", "seme", "layers such as 3"),
        ("position", "9", "a position from 0 to 3"),
        ("position", "1..3", "placeholders=each"),
        ("position", "here", "token:"),
        ("placeholder", "Z", "occurs in the target prompt"),
        ("template", "worlds", "world, echo"),
        ("library", &bad, "the placeholder `x` of `a`"),
        ("map", "linear", "identity, norm"),
        ("map", &few, "positions"),
        ("save", "m.safetensors", "only maps that are fitted"),
        ("show", "items", "table, grid or curves"),
        ("site", "logits", "one of resid_post"),
        ("from", "@nowhere.txt", "nowhere.txt"),
        ("attributes", "nowhere.tsv", "nowhere.tsv"),
    ] {
        let arguments = Arguments::default().with("template", "world");
        let error = observe(&mut lab, &run, &arguments.with(name, value));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(why), "{name}={value}: {error}");
        assert!(error.ends_with('.'), "{error}");
    }
    let arguments = over(&list("descriptions.tsv")).with("answers", " a");
    let error = observe(&mut lab, &Run::default(), &arguments).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no answers when a list of subjects"),
        "{error}"
    );
}

#[test]
fn a_stopped_sweep_keeps_what_it_has_and_goes_on() {
    let mut lab = demo();
    let arguments = over(&list("descriptions.tsv"));
    let whole = observe(&mut demo(), &Run::default(), &arguments).unwrap();
    let cancel = lab.cancel.clone();
    lab.progress = WorkProgress::reporting_to(move |done| {
        if done > 0.5 {
            cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let part = observe(&mut lab, &Run::default(), &arguments).unwrap();
    assert!(
        part.notes.iter().any(|n| n.contains("stopped after")),
        "{:?}",
        part.notes
    );
    lab.progress = WorkProgress::default();
    let rest = observe(&mut lab, &Run::default(), &arguments).unwrap();
    assert_eq!(rest.body, whole.body);
    assert_eq!(rest.notes, whole.notes);
}

/// Edits act on the source, which is the user's run, and not on the target.
#[test]
fn edits_change_what_is_taken_and_not_what_reads() {
    let mut lab = demo();
    let tokens = lab.model.encode("People in Japan", false).unwrap();
    let arguments = Arguments::default()
        .with("template", "world")
        .with("layer", "2")
        .with("target", "0");
    let plain = observe(&mut lab, &Run::plain(tokens.clone()), &arguments).unwrap();
    let run = super::tools::edited(tokens, &["zero@mlp_out.*"]);
    let edited = observe(&mut lab, &run, &arguments).unwrap();
    let row = |f: &Figure| table(f).pages[0].rows[0].entries.clone();
    assert_ne!(row(&plain)[4], row(&edited)[4], "the state is another");
    assert_eq!(row(&plain)[3], row(&edited)[3], "the target is the same");
}

/// Sources beside the run go through the template where it is said, and the target never.
#[test]
fn other_sources_are_turns_of_chat_where_it_is_said() {
    let mut lab = demo();
    let text = "Tell me about Japan.";
    let run = Run::plain(lab.model.encode(text, true).unwrap());
    let arguments = Arguments::default()
        .with("template", "world")
        .with("tokens", 3);
    let own = observe(&mut lab, &run, &arguments).unwrap();
    let other = arguments.clone().with("from", text);
    let raw = observe(&mut lab, &Run::default(), &other).unwrap();
    let chat = other.clone().with("chat", "yes");
    let chat = observe(&mut lab, &Run::default(), &chat).unwrap();
    assert_eq!(column(&own, "p first"), column(&chat, "p first"));
    assert_ne!(column(&own, "p first"), column(&raw, "p first"));
    // A model without a template has no such turns: neither of a prompt nor of a list of subjects.
    lab.model.template = None;
    let list = over(&list("descriptions.tsv"));
    for arguments in [other, list] {
        let arguments = arguments.with("chat", "yes");
        let error = observe(&mut lab, &Run::default(), &arguments).unwrap_err();
        assert!(
            error.to_string().contains("has no chat template"),
            "{error}"
        );
    }
    assert!(observe(&mut lab, &run, &arguments.with("chat", "yes")).is_ok());
}

#[test]
fn watched_tokens_are_ids_and_quoted_texts_too() {
    let mut lab = demo();
    let run = Run::plain(lab.model.encode("People in Japan", false).unwrap());
    let country = lab.model.tokenizer().unwrap().single(" country").unwrap();
    let base = Arguments::default()
        .with("template", "world")
        .with("tokens", 2)
        .with("layer", "0,1");
    let mut watched = |text: &str| {
        let figure = observe(&mut lab, &run, &base.clone().with("answers", text)).unwrap();
        let note = "answers: the probability that the first token is ␣country".to_string();
        assert!(figure.notes.contains(&note), "{text}: {:?}", figure.notes);
        column(&figure, "p answers")
    };
    let plain = watched(" country");
    assert_eq!(watched(&format!("#{country}")), plain);
    assert_eq!(watched("\" country\""), plain);
    assert_eq!(watched(&format!(" country|#{country}")), plain, "each once");
}

/// A tokenizer with a word more than the model: a sentence wherever an answer is read.
#[test]
fn a_token_that_the_model_lacks_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/model");
    for file in std::fs::read_dir(demo).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let path = folder.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&text).unwrap();
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    added.push(serde_json::json!({
        "id": 2048, "content": "Zork", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": false
    }));
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let options = lmscope::model::load::Options {
        device: Some("cpu".into()),
        ..Default::default()
    };
    let mut lab = Lab::open(folder.path().to_str().unwrap(), &options).unwrap();
    let run = Run::plain(lab.model.encode("The capital of France is", false).unwrap());
    let with = |name: &str, value: &str| Arguments::default().with(name, value);
    for (name, arguments) in [
        ("patchscope", with("answers", "Zork")),
        ("patching", with("subject", "France").with("answer", "Zork")),
        (
            "patching",
            with("answer", "Zork").with("metric", "difference"),
        ),
        ("backpatch", with("answer", "Zork")),
    ] {
        let of = instrument(name).unwrap();
        let error = of.observe(&run, &arguments, &mut lab).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("begins with #2048"), "{name}: {error}");
    }
}

/// Branches read on from the first slot that they fill, and that is what a sweep is said to take.
#[test]
fn what_a_sweep_takes_counts_from_its_first_placeholder() {
    let lab = demo();
    let of = instrument("patchscope").unwrap();
    let tokens = |slots: &str| {
        let arguments = Arguments::default()
            .with("prompt", "x is one and x is two and x is")
            .with("placeholders", slots)
            .with("tokens", 1);
        of.cost(4, &arguments, &lab.model.card).unwrap().tokens
    };
    assert_eq!(["last", "all", "each"].map(tokens), [2, 10, 10]);
}

/// The null of a subject: what the states of the others say, of those that share no answer.
#[test]
fn the_control_counts_the_others_that_share_no_answer() {
    let mut lab = demo();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.tsv");
    let lines = "robin\tbird\tThe robin\nFrance\tcountry|kind\tPeople in France\nJapan\tcountry in Asia\tPeople in Japan\nsparrow\tcountry\tThe sparrow\nItaly\tcountry in Asia\tPeople in Italy\n";
    std::fs::write(&path, lines).unwrap();
    let items = over(&path.display().to_string())
        .with("show", "items")
        .with("layer", "0");
    let figure = observe(&mut lab, &Run::default(), &items).unwrap();
    let rows = &table(&figure).pages[0].rows;
    let says: Vec<&str> = rows.iter().map(|r| text(&r.entries[4])).collect();
    println!("{says:?}");
    // Of the robin all others; of the rest, who share `country`, the robin alone.
    let share = |words: &[&str], others: &[usize]| {
        let read = |i: &&usize| words.iter().any(|w| says[**i].contains(w));
        others.iter().filter(read).count() as f32 / others.len() as f32
    };
    let expected = [
        share(&["bird"], &[1, 2, 3, 4]),
        share(&["country", "kind"], &[0]),
        share(&["country in Asia"], &[0]),
        share(&["country"], &[0]),
        share(&["country in Asia"], &[0]),
    ];
    let found: Vec<f32> = rows.iter().map(|r| number(&r.entries[5])).collect();
    assert_eq!(found, expected);
    assert!(
        expected[0] > 0.0 && expected[1] > 0.0 && expected[2] < 1.0,
        "{found:?}"
    );
}

/// Scoring a long list takes its time too, and can be stopped.
#[test]
fn scores_can_be_stopped() {
    let mut lab = demo();
    let cancel = lab.cancel.clone();
    lab.progress = WorkProgress::reporting_to(move |done| {
        if done >= 1.0 {
            cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let list = over(&list("people.tsv")).with("layer", "0");
    let error = observe(&mut lab, &Run::default(), &list).unwrap_err();
    assert!(matches!(error, lmscope::error::Error::Cancelled), "{error}");
}
