//! O11: a sink. The same organisms with a first token of norm 300, on which heads rest: it changes no figure.
//!
//! A norm takes its length away, so what the model computes elsewhere is the same to the bit; an instrument that lets it into
//! a mean, a component or a colour scale shows something else than it shows of the organism without a sink.

use lmscope::edit::direction::{Direction, DirectionOrigin, norm, random_like};
use lmscope::edit::positions::Positions;
use lmscope::figure::{Anchor, Body, Figure};
use lmscope::instruments::{Arguments, INSTRUMENTS, instrument};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::lab::statistics::{Statistics, TextReading};
use lmscope::model::network::site::Site;
use lmscope::vectors::contrast::{Contrast, ContrastRequest, Method};

use super::super::tools::{same_bits, values};
use super::two_hop::TwoHop;
use super::{LOUD, Layout, Organism, bilingual, induction, repair, state};

/// An organism without and with a sink, and a run.
struct Pair {
    name: &'static str,
    quiet: Lab,
    loud: Lab,
    run: Run,
}

fn pair(name: &'static str, make: &dyn Fn() -> Organism, run: &dyn Fn(&Lab) -> Run) -> Pair {
    let mut quiet = make().open();
    let mut loud = make().loud().open();
    for lab in [&mut quiet, &mut loud] {
        // A direction to measure along, the same in both.
        let ones = vec![1.0; lab.model.card.d_model];
        let direction = Direction {
            rows: vec![(Site::ResidPre.at(1), random_like(&ones, 3))],
            origin: DirectionOrigin::default(),
        };
        lab.directions.insert("some".into(), direction);
    }
    let run = run(&quiet);
    Pair {
        name,
        quiet,
        loud,
        run,
    }
}

fn pairs() -> Vec<Pair> {
    let mut all = Vec::new();
    for layout in [Layout::Llama, Layout::Gpt2] {
        all.push(pair(
            "two hops",
            &|| TwoHop::new(layout, 2, 1).organism(),
            &|b| Run::plain(super::tokens(b, &TwoHop::prompt(4))),
        ));
        all.push(pair("self-repair", &|| repair::organism(layout), &|b| {
            repair::run_of(b, 1)
        }));
    }
    all.push(pair("induction", &induction::organism, &|b| {
        induction::repeated(b, 12, 3)
    }));
    all.push(pair("bilingual", &bilingual::organism, &|b| {
        bilingual::translation(b, &[2, 0], 5)
    }));
    all
}

/// What a figure shows of positions after the first, and how numbers become colour.
fn seen(figure: &Figure) -> String {
    let after = |anchor: &Anchor| anchor.position != Some(0);
    let mut body = figure.body.clone();
    match &mut body {
        Body::Grid(grid) => {
            for column in &mut grid.cells {
                column.retain(|cell| after(&cell.anchor));
            }
        }
        Body::Table(table) => {
            table.pages.retain(|page| after(&page.anchor));
            for page in &mut table.pages {
                page.rows.retain(|row| after(&row.anchor));
            }
        }
        Body::Series(series) => {
            let kept = |i: usize| after(&series.points[i].anchor);
            for curve in &mut series.curves {
                let values = curve.values.iter().enumerate();
                curve.values = values.filter(|(i, _)| kept(*i)).map(|(_, v)| *v).collect();
            }
        }
        Body::Graph(_) | Body::Text(_) => {}
    }
    serde_json::to_string_pretty(&body).unwrap()
}

/// What an instrument shows; where it refuses, why.
fn shown(lab: &mut Lab, name: &str, run: &Run, arguments: &Arguments) -> Result<String, String> {
    let figure = instrument(name).unwrap().observe(run, arguments, lab);
    figure
        .map(|figure| seen(&figure))
        .map_err(|e| e.to_string())
}

/// Arguments under which an instrument shows something of an organism: steering leaves the first token alone, because adding
/// a vector to it is another thing where it is longer.
fn arguments(name: &str) -> Vec<Arguments> {
    let none = Arguments::default();
    let each = |parameter: &str, values: &[&str], of: &Arguments| {
        let with = values.iter().map(|v| of.clone().with(parameter, v));
        with.collect::<Vec<_>>()
    };
    match name {
        "sweep" => vec![
            none.with("direction", "some")
                .with("positions", "all-but-bos"),
        ],
        "meters" => each(
            "site",
            &["resid_pre", "resid_post"],
            &none.with("direction", "some"),
        ),
        "lens" => {
            let shows = ["probability", "rank", "reciprocal_rank", "entropy", "kl"];
            let mut all = each("show", &shows, &none);
            all.extend(each("site", &["resid_pre", "attn_add", "mlp_add"], &none));
            all
        }
        // From zero only the lengths of embeddings change on the way of integrated gradients; from elsewhere their directions do,
        // and those of a longer one later.
        "saliency" => vec![none.with("baseline", "zero").with("steps", "2")],
        "knockout" => each("value", &["change", "logprob"], &none),
        "track" => each("show", &["logprob", "rank"], &none),
        "residual" => {
            let wide = none.clone().with("window", 64);
            let values = ["effect", "size", "cosine", "share"];
            let mut all = each("value", &values, &wide);
            all.extend(each("by", &["head", "neuron", "source"], &wide));
            all.extend(each("by", &["layer", "head", "source"], &none));
            all
        }
        "attention" => {
            let mut all = each(
                "value",
                &["probability", "value", "output", "entropy"],
                &none,
            );
            let pattern = none.clone().with("show", "pattern").with("layer", 0);
            all.extend(each("value", &["probability", "value", "output"], &pattern));
            all.extend(each(
                "show",
                &["outputs", "scores"],
                &none.clone().with("period", 3),
            ));
            let scores = none.with("show", "scores").with("on", "prompt");
            all.extend(each(
                "score",
                &["previous", "duplicate", "induction"],
                &scores,
            ));
            all
        }
        _ => vec![none],
    }
}

/// Instruments that need files or a prompt of their own.
const ELSEWHERE: [&str; 13] = [
    "attribute-lens",
    "attribution",
    "circuit",
    "feature",
    "feature-logits",
    "feature-search",
    "features",
    "languages",
    "patching",
    "patchscope",
    "probe",
    "relation",
    "select",
];

fn same(quiet: &str, loud: &str, what: &str) {
    for (i, (a, b)) in quiet.lines().zip(loud.lines()).enumerate() {
        assert_eq!(a, b, "{what}, line {i}");
    }
    assert_eq!(quiet.lines().count(), loud.lines().count(), "{what}");
}

#[test]
fn is_a_sink_and_changes_nothing_that_is_computed_elsewhere() {
    for mut p in pairs() {
        let last = p.run.tokens.len() - 1;
        for layer in 0..p.quiet.model.card.layers {
            let at = Site::ResidPost.at(layer);
            let length = |lab: &mut Lab, position| norm(&values(&state(lab, &p.run, at, position)));
            let [first, quiet] = [&mut p.loud, &mut p.quiet].map(|b| length(b, 0));
            assert!((290.0..450.0).contains(&first), "{}: {first}", p.name);
            assert!((first / quiet / LOUD - 1.0).abs() < 1e-3, "{}", p.name);
            for position in 1..=last {
                let [a, b] = [&mut p.loud, &mut p.quiet].map(|b| state(b, &p.run, at, position));
                assert!(same_bits(&a, &b), "{}: {at} {position}", p.name);
                assert!(first > 10.0 * norm(&values(&b)), "{}", p.name);
            }
        }
        let [a, b] = [&mut p.loud, &mut p.quiet].map(|b| b.last_logits(&p.run).unwrap());
        assert_eq!(a, b, "{}", p.name);
    }
}

#[test]
fn a_sink_changes_no_figure_of_any_instrument() {
    for mut p in pairs() {
        for known in INSTRUMENTS {
            let name = known.name();
            for given in arguments(name) {
                let [a, b] = [&mut p.quiet, &mut p.loud].map(|b| shown(b, name, &p.run, &given));
                let what = format!("{name} {given:?} of {}", p.name);
                match (a, b) {
                    (Ok(a), Ok(b)) => same(&a, &b, &what),
                    (Err(_), Err(_)) if ELSEWHERE.contains(&name) => {}
                    (a, b) => panic!("{what}: {a:?}, {b:?}"),
                }
            }
        }
    }
}

#[test]
fn a_sink_changes_no_description() {
    let world = TwoHop::new(Layout::Llama, 1, 2);
    let mut quiet = world.organism().open();
    let mut loud = world.organism().loud().open();
    let run = Run::plain(super::tokens(&quiet, &TwoHop::prompt(4)));
    let given = Arguments::default()
        .with("prompt", "it is")
        .with("placeholder", "it")
        .with("tokens", 2);
    let [a, b] = [&mut quiet, &mut loud].map(|b| shown(b, "patchscope", &run, &given).unwrap());
    same(&a, &b, "patchscope");
    let bridge = super::two_hop::BRIDGES[world.first[4]].trim();
    assert!(a.contains(bridge), "{a}");
}

#[test]
fn a_sink_changes_nothing_of_what_noise_does() {
    let mut compared = 0;
    for mut p in pairs() {
        let subject = p.quiet.model.bytes(p.run.tokens[1]);
        let subject = String::from_utf8(subject).unwrap();
        for site in ["resid", "heads"] {
            let given = Arguments::default()
                .with("subject", &subject)
                .with("site", site)
                .with("sigma", 300)
                .with("samples", 2);
            let found = [&mut p.quiet, &mut p.loud].map(|b| shown(b, "patching", &p.run, &given));
            match found {
                [Ok(a), Ok(b)] => {
                    same(&a, &b, "patching");
                    compared += 1;
                }
                // Where an answer does not hang on that word, noise on it is refused, with and without a sink.
                [Err(a), Err(b)] => assert_eq!(a, b),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(compared >= 4, "{compared}");
}

/// A subject under noise: its size comes of the embeddings, and what only begins a text is no word.
#[test]
fn a_sink_changes_no_patching() {
    let world = TwoHop::new(Layout::Llama, 1, 2);
    let mut quiet = world.organism().open();
    let mut loud = world.organism().loud().open();
    let run = Run::plain(super::tokens(&quiet, &TwoHop::prompt(4)));
    for (name, value) in [("corrupt", "Frost home"), ("subject", "Iris")] {
        for site in ["resid", "attn", "mlp", "heads"] {
            let given = Arguments::default().with(name, value).with("site", site);
            let [a, b] =
                [&mut quiet, &mut loud].map(|b| shown(b, "patching", &run, &given).unwrap());
            same(&a, &b, &format!("{site} {name}"));
        }
    }
}

/// Means over a text and directions between prompts of different lengths, which the first token would carry away.
#[test]
fn a_sink_changes_no_mean_and_no_component() {
    for mut p in pairs() {
        let how = |skip| TextReading {
            skip,
            piece: 64,
            text: "t".into(),
        };
        let at = Site::ResidPost.at(0);
        let mut measured = |skip| {
            [&mut p.quiet, &mut p.loud].map(|lab| {
                let text = std::slice::from_ref(&p.run.tokens);
                Statistics::measure(lab, text, &[at], &how(skip)).unwrap()
            })
        };
        let [quiet, loud] = measured(1);
        assert_eq!(quiet.rows, loud.rows, "{}", p.name);
        let [quiet, loud] = measured(0);
        assert_ne!(quiet.rows, loud.rows, "{}: counted, it is seen", p.name);
    }
    let world = TwoHop::new(Layout::Llama, 1, 2);
    let mut benches = [world.organism().open(), world.organism().loud().open()];
    let plus = ["Ember home", "Frost it home", "Grove Haven home"].map(String::from);
    let minus = ["it", "it is it", "is it is it"].map(String::from);
    for method in [Method::Mean, Method::Pca, Method::PcaDiff, Method::Icv] {
        let mut between = |positions: Positions| {
            [0, 1].map(|i| {
                let lab = &mut benches[i];
                let measure = ContrastRequest {
                    site: Site::ResidPost,
                    layers: vec![0, 2],
                    positions: positions.clone(),
                    chat: false,
                };
                let contrast = Contrast::measure(lab, &plus, &minus, measure).unwrap();
                contrast.direction(method, lab).unwrap().rows
            })
        };
        let [quiet, loud] = between(Positions::AllButBos);
        assert_eq!(quiet, loud, "{method}");
        let [quiet, loud] = between(Positions::All);
        assert_ne!(quiet, loud, "{method}: counted, it is seen");
    }
}
