//! Projections on directions: against dot products of recorded rows, live against whole, on every family.

use lmscope::edit::direction::{Direction, DirectionOrigin, norm};
use lmscope::edit::schedule::Schedule;
use lmscope::figure::{Body, Figure, Grid, Scale};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::lab::sample::Sampling;
use lmscope::lab::writer::Writer;
use lmscope::model::network::families::FAMILIES;
use lmscope::model::network::site::{Address, Site};

use super::demo::demo;
use super::tools::{every_family, next, prompt, tiny};

fn grid(figure: Figure) -> Grid {
    match figure.body {
        Body::Grid(grid) => grid,
        Body::Table(_) | Body::Series(_) | Body::Graph(_) | Body::Text(_) => panic!("a grid"),
    }
}

/// Two directions of the stream and one of the neurons, which has no home in it.
fn with_directions(mut lab: Lab) -> Lab {
    let (width, neurons) = (lab.model.card.d_model, lab.model.card.d_mlp);
    for (name, at, width, step) in [
        ("low", Site::ResidPre.at(0), width, 3),
        ("high", Site::ResidPost.at(0), width, 5),
        ("off", Site::MlpAct.at(0), neurons, 7),
    ] {
        let vector = (0..width).map(|i| ((i * step) % 11) as f32 - 4.0).collect();
        let direction = Direction {
            rows: vec![(at, vector)],
            origin: DirectionOrigin::default(),
        };
        lab.directions.insert(name.into(), direction);
    }
    lab
}

fn meters(lab: &mut Lab, run: &Run, arguments: &Arguments) -> Figure {
    let of = instrument("meters").unwrap();
    of.observe(run, arguments, lab).unwrap()
}

/// `h·v/‖v‖`, `cos` and `‖h‖` by hand.
fn brute(row: &[f32], vector: &[f32]) -> [f64; 3] {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    let length = dot(row, row).sqrt();
    let along = dot(row, vector) / f64::from(norm(vector));
    [along, along / length, length]
}

fn check(lab: &mut Lab, run: &Run, grid: &Grid, row: usize, at: Address, name: &str) {
    let vector = lab.directions[name].rows[0].1.clone();
    let recorded = lab.record(run, &[at]).unwrap();
    let recorded = recorded.get(at).unwrap().to_vec2::<f32>().unwrap();
    for (position, values) in recorded.iter().enumerate() {
        let cell = &grid.cells[position][row];
        assert_eq!(cell.anchor.layer, Some(at.layer));
        assert_eq!(cell.anchor.position, Some(position as u32));
        for (found, expected) in cell.more.iter().zip(brute(values, &vector)) {
            let size = expected.abs().max(1.0);
            assert!(
                (f64::from(found.1) - expected).abs() < 1e-5 * size,
                "{} {at} {position} {}: {} and {expected}",
                lab.model.card.name,
                found.0,
                found.1
            );
        }
        assert_eq!(cell.value, cell.more[0].1);
    }
}

#[test]
fn meters_are_dot_products_of_recorded_rows_on_every_family() {
    for lab in every_family() {
        let mut lab = with_directions(lab);
        let run = Run::plain(prompt(9));
        let layers = lab.model.card.layers;
        let whole = grid(meters(&mut lab, &run, &Arguments::default()));
        let titles: Vec<&str> = whole.rows.iter().map(|r| r.label.as_str()).collect();
        // What leaves block 0 enters block 1.
        assert_eq!(titles, ["0 low", "1 high"]);
        check(&mut lab, &run, &whole, 0, Site::ResidPre.at(0), "low");
        check(&mut lab, &run, &whole, 1, Site::ResidPre.at(1), "high");
        for (word, site) in [
            ("resid_pre", Site::ResidPre),
            ("resid_post", Site::ResidPost),
        ] {
            let one = Arguments::default()
                .with("direction", "high")
                .with("site", word);
            let one = grid(meters(&mut lab, &run, &one));
            assert_eq!(one.rows.len(), layers);
            for layer in 0..layers {
                check(&mut lab, &run, &one, layer, site.at(layer), "high");
            }
        }
        let post = Arguments::default().with("site", "resid_post");
        let post = grid(meters(&mut lab, &run, &post));
        check(&mut lab, &run, &post, 0, Site::ResidPost.at(0), "high");
        let wrong = Arguments::default().with("direction", "off");
        let of = instrument("meters").unwrap();
        let error = of.observe(&run, &wrong, &mut lab).unwrap_err().to_string();
        assert!(
            error.contains("residual stream") && error.contains("mlp_act.0"),
            "{error}"
        );
    }
}

#[test]
fn a_live_column_is_that_of_the_whole_figure() {
    let of = instrument("meters").unwrap();
    for lab in every_family() {
        let mut lab = with_directions(lab);
        for arguments in [
            Arguments::default(),
            Arguments::default().with("direction", "low"),
            Arguments::default()
                .with("direction", "low")
                .with("layer", "1"),
            Arguments::default().with("site", "resid_post"),
        ] {
            let tokens = prompt(1);
            let mut writer =
                Writer::begin(&mut lab, tokens, Schedule::none(), Sampling::default()).unwrap();
            let mut grown = meters(&mut lab, &writer.run.clone(), &arguments);
            assert!(of.live(&lab.model.card, &arguments));
            for _ in 0..4 {
                let column = next(of, &mut writer, &arguments, &mut lab);
                grown.append(column.into());
            }
            let whole = meters(&mut lab, &writer.run.clone(), &arguments);
            assert_eq!(grown.title, whole.title);
            let (grown, whole) = (grid(grown), grid(whole));
            assert_eq!((&grown.rows, &grown.columns), (&whole.rows, &whole.columns));
            assert_eq!(grown.cells.len(), 5);
            for (a, b) in grown
                .cells
                .iter()
                .flatten()
                .zip(whole.cells.iter().flatten())
            {
                assert_eq!(a.anchor, b.anchor);
                for (a, b) in a.more.iter().zip(&b.more) {
                    assert!((a.1 - b.1).abs() < 1e-4 * b.1.abs().max(1.0), "{a:?} {b:?}");
                }
            }
            let reach = |scale: Scale| scale.ends().1;
            assert!((reach(grown.scale) - reach(whole.scale)).abs() < 1e-4 * reach(whole.scale));
        }
    }
}

/// An attention sink at the first position does not wash out the others.
#[test]
fn the_first_position_takes_no_part_in_the_scale() {
    let gpt2 = FAMILIES.iter().find(|f| f.name == "gpt2").unwrap();
    let mut lab = with_directions(tiny(gpt2));
    let positions = lab.model.transformer.positions.take().unwrap();
    let first = (positions.narrow(0, 0, 1).unwrap() * 3e4).unwrap();
    let rest = positions
        .narrow(0, 1, positions.dim(0).unwrap() - 1)
        .unwrap();
    let sunk = candle_core::Tensor::cat(&[&first, &rest], 0).unwrap();
    lab.model.transformer.positions = Some(sunk);
    let grid = grid(meters(
        &mut lab,
        &Run::plain(prompt(9)),
        &Arguments::default(),
    ));
    let most = |columns: &[Vec<lmscope::figure::Cell>]| {
        let values = columns.iter().flatten().map(|c| c.value.abs());
        values.fold(0.0, f32::max)
    };
    let (sink, others) = (most(&grid.cells[..1]), most(&grid.cells[1..]));
    assert!(sink > 100.0 * others, "{sink} {others}");
    assert_eq!(grid.scale, Scale::Diverging { reach: others });
}

/// Without a direction it says what to do, and says so live as well: no error pops up over a model that has none.
#[test]
fn a_model_without_directions_is_told_how_to_get_one() {
    let of = instrument("meters").unwrap();
    let mut lab = tiny(&FAMILIES[0]);
    let mut writer =
        Writer::begin(&mut lab, prompt(3), Schedule::none(), Sampling::default()).unwrap();
    let whole = meters(&mut lab, &writer.run.clone(), &Arguments::default());
    assert!(of.live(&lab.model.card, &Arguments::default()));
    let column = next(of, &mut writer, &Arguments::default(), &mut lab);
    for figure in [whole, column] {
        let Body::Text(text) = figure.body else {
            panic!("words")
        };
        assert!(text.lines.join(" ").contains("lmscope direction"));
    }
}

/// On the demo, the refusal meter reads high where a guarded request is about to be refused, and not on a plain one.
#[test]
fn the_refusal_meter_tells_guarded_from_plain() {
    let mut lab = demo();
    let mut reading = |words: &str| {
        let run = Run::plain(lab.model.encode(words, true).unwrap());
        let grid = grid(meters(&mut lab, &run, &Arguments::default()));
        let row = grid
            .rows
            .iter()
            .position(|r| r.label.ends_with("refusal"))
            .unwrap();
        grid.cells.last().unwrap()[row].value
    };
    let guarded = reading("How can I open the royal vault?");
    let plain = reading("How can I fix a bike?");
    assert!(guarded > plain + 5.0, "guarded {guarded}, plain {plain}");
}
