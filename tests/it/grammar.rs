//! The grammar of edits: what prints is read, whatever names and texts hold; what help shows is run; and nothing that was
//! not understood is taken for a text.

use std::any::Any;

use lmscope::dictionaries::handles::with_features;
use lmscope::dictionaries::opened::OpenDictionaries;
use lmscope::edit::condition::{Condition, ConditionProbe};
use lmscope::edit::feature::FeatureChoice;
use lmscope::edit::grammar::understood;
use lmscope::edit::op::{
    Argument, CircuitName, CutEdges, DictionaryName, DirectionName, DirectionTo, DirectionWithin,
    OPS, Op, OpSites, OpSpec, RelationTurn, SetValue, TwoDirections, UnitChoice, UnitsAsIn,
    UnitsMean, UnitsTo, UnitsTurn,
};
use lmscope::edit::positions::Positions;
use lmscope::edit::schedule::Schedule;
use lmscope::edit::{Edit, EditPlace};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::model::network::site::Site;
use lmscope::model::network::tap::PassPhase;
use proptest::prelude::*;

use super::cli::{outcome, refused};
use super::demo::demo;
use super::dictionaries::hostile::saelens;

/// Names and texts: words, and everything that has a meaning in the grammar.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-zA-Z0-9_./#é-]{1,8}",
        proptest::sample::select(vec![
            "@",
            ":",
            "*",
            "=",
            ">",
            "<",
            "/",
            ",",
            "\"",
            "'",
            "\\",
            "\n",
            "\t",
            " ",
            "{",
            "}",
            "(",
            ")",
            "..",
            "“",
            "”",
            "„",
            "‘",
            "’",
            " when ",
            " once ",
            "@resid_pre.1",
            "/prefill",
            "*2",
            ":last",
            "p(\"x\")>0",
            "\u{1}",
            "\u{202e}",
            "😀",
            "#-1",
            "when",
            ">1",
        ])
        .prop_map(String::from),
    ];
    proptest::collection::vec(part, 1..6).prop_map(|parts| parts.concat())
}

fn number() -> impl Strategy<Value = f32> {
    prop_oneof![
        -10.0f32..10.0,
        any::<f32>().prop_filter("finite", |x| x.is_finite())
    ]
}

fn which() -> impl Strategy<Value = UnitChoice> {
    prop_oneof![
        Just(UnitChoice::All),
        proptest::collection::vec(0u32..5000, 1..4).prop_map(UnitChoice::List),
        text()
            .prop_map(|name| UnitChoice::Set(name.trim().to_string()))
            .prop_filter("a name", |w| *w != UnitChoice::Set(String::new())),
    ]
}

fn features() -> impl Strategy<Value = FeatureChoice> {
    let numbers = proptest::collection::vec(0u32..70_000, 1..4);
    (text(), proptest::option::of(0u16..99), numbers)
        .prop_map(|(name, layer, numbers)| FeatureChoice {
            dictionary: name.trim().to_string(),
            layer,
            numbers,
        })
        .prop_filter("a name", |f| !f.dictionary.is_empty())
}

/// Units, or features of a dictionary.
fn units() -> impl Strategy<Value = UnitChoice> {
    prop_oneof![3 => which(), 1 => features().prop_map(UnitChoice::Features)]
}

/// What they are set to: of features a multiple of their largest activation, too.
fn units_to() -> impl Strategy<Value = UnitsTo> {
    let times = (features(), number())
        .prop_map(|(f, v)| UnitsTo(UnitChoice::Features(f), SetValue::Times(v)));
    prop_oneof![
        3 => (units(), number()).prop_map(|(w, v)| UnitsTo(w, SetValue::Is(v))),
        1 => times,
    ]
}

fn positions() -> impl Strategy<Value = Positions> {
    prop_oneof![
        Just(Positions::All),
        Just(Positions::AllButBos),
        Just(Positions::Last),
        Just(Positions::Prompt),
        Just(Positions::Generated),
        (0usize..50, 1usize..9).prop_map(|(a, n)| Positions::Span(a, a + n)),
        (1usize..9).prop_map(Positions::FromEnd),
        text().prop_map(Positions::Token),
        text().prop_map(Positions::Text),
    ]
}

/// Every operation, with whatever the argument of its example may be.
fn op() -> impl Strategy<Value = Op> {
    (0..OPS.len()).prop_flat_map(|i| {
        let spec = &OPS[i];
        let example: Edit = spec.example.parse().unwrap();
        let argument: &dyn Any = example.op.argument();
        let within = |(d, a, b): (String, f32, f32)| DirectionWithin(d, a.min(b), a.max(b));
        let mean = (units(), proptest::option::of(text()))
            .prop_map(|(w, t)| UnitsMean(w, t.map(|t| t.trim().to_string())))
            .prop_filter("a file", |mean| mean.1.as_deref() != Some(""));
        if argument.is::<DirectionName>() {
            with(spec, text().prop_map(DirectionName))
        } else if argument.is::<DirectionWithin>() {
            with(spec, (text(), number(), number()).prop_map(within))
        } else if argument.is::<DirectionTo>() {
            with(
                spec,
                (text(), number()).prop_map(|(d, v)| DirectionTo(d, v)),
            )
        } else if argument.is::<TwoDirections>() {
            with(
                spec,
                (text(), text()).prop_map(|(a, b)| TwoDirections(a, b)),
            )
        } else if argument.is::<UnitChoice>() {
            with(spec, units())
        } else if argument.is::<UnitsMean>() {
            with(spec, mean)
        } else if argument.is::<UnitsAsIn>() {
            with(spec, (units(), text()).prop_map(|(w, t)| UnitsAsIn(w, t)))
        } else if argument.is::<UnitsTo>() {
            with(spec, units_to())
        } else if argument.is::<DictionaryName>() {
            let names = text().prop_filter("a name", |name| !name.trim().is_empty());
            with(
                spec,
                names.prop_map(|name| DictionaryName(name.trim().to_string())),
            )
        } else if argument.is::<UnitsTurn>() {
            let turn = (which(), text(), text()).prop_map(|(w, a, b)| UnitsTurn(w, a, b));
            with(spec, turn)
        } else if argument.is::<RelationTurn>() {
            let turn = (text(), text(), text()).prop_map(|(f, a, b)| RelationTurn(f, a, b));
            let turn = turn.prop_filter("subjects", |turn| {
                !turn.1.trim().is_empty() && !turn.2.trim().is_empty()
            });
            with(spec, turn)
        } else if argument.is::<CircuitName>() {
            let names = text().prop_filter("a name", |name| !name.trim().is_empty());
            with(
                spec,
                names.prop_map(|name| CircuitName(name.trim().to_string())),
            )
        } else if argument.is::<CutEdges>() {
            let cut = (which(), positions()).prop_map(|(w, p)| CutEdges(w, p));
            with(spec, cut)
        } else {
            panic!("nothing draws an argument such as that of {}", spec.example)
        }
    })
}

/// An operation with drawn arguments, which are read as they print.
fn with<A>(spec: &'static OpSpec, drawn: impl Strategy<Value = A> + 'static) -> BoxedStrategy<Op>
where
    A: Argument + std::fmt::Debug + PartialEq,
{
    let at = match spec.acts {
        OpSites::Only(site, _) => site.at(0).to_string(),
        OpSites::Values => Site::MlpAct.at(0).to_string(),
        OpSites::Edges(_) => "edges".into(),
    };
    drawn
        .prop_map(move |argument| {
            let typed = argument.to_string();
            let colon = if typed.is_empty() { "" } else { ":" };
            let line = format!("{}{colon}{typed}@{at}", spec.name);
            let op = line.parse::<Edit>().unwrap().op;
            let read: &dyn Any = op.argument();
            assert_eq!(read.downcast_ref(), Some(&argument), "{line}");
            op
        })
        .boxed()
}

fn place(op: &Op) -> BoxedStrategy<EditPlace> {
    let sites: Vec<Site> = match op.spec().acts {
        OpSites::Edges(_) => return Just(EditPlace::Edges).boxed(),
        OpSites::Only(site, _) => vec![site],
        OpSites::Values => vec![
            Site::ResidPre,
            Site::MlpAct,
            Site::Z,
            Site::AttnOut,
            Site::FinalNorm,
        ],
    };
    let at = (proptest::sample::select(sites), 0usize..40, 0u16..9).prop_flat_map(
        |(site, layer, more)| {
            let first = layer as u16;
            if site.spec().layered {
                prop_oneof![
                    Just(EditPlace::At(site.at(layer))),
                    Just(EditPlace::Every(site)),
                    Just(EditPlace::Layers(site, first, first + more)),
                ]
                .boxed()
            } else {
                Just(EditPlace::At(site.at(0))).boxed()
            }
        },
    );
    if op.directed() {
        prop_oneof![4 => at, 1 => Just(EditPlace::Writes)].boxed()
    } else {
        at.boxed()
    }
}

fn condition() -> impl Strategy<Value = Condition> {
    let probe = prop_oneof![
        (text(), 0usize..9).prop_map(|(name, l)| ConditionProbe::Along(name, Site::ResidPre.at(l))),
        features().prop_map(|f| ConditionProbe::Feature(f.only(f.numbers[0]))),
        text().prop_map(ConditionProbe::Probability),
    ];
    (probe, any::<bool>(), number(), any::<bool>()).prop_map(
        |(probe, above, threshold, latches)| Condition {
            probe,
            above,
            threshold,
            latches,
        },
    )
}

fn edit() -> impl Strategy<Value = Edit> {
    op().prop_flat_map(|op| {
        let phase = proptest::sample::select(vec![
            None,
            Some(PassPhase::Prefill),
            Some(PassPhase::Decode),
        ]);
        let when = proptest::option::of(condition());
        (
            place(&op),
            Just(op),
            positions(),
            phase,
            prop_oneof![Just(1.0), number()],
            when,
        )
            .prop_map(|(place, op, positions, phase, strength, when)| Edit {
                positions,
                phase,
                strength,
                when,
                ..Edit::new(op, place)
            })
    })
}

#[test]
fn every_operation_is_drawn() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let drawn: std::collections::BTreeSet<&str> = (0..400)
        .map(|_| op().new_tree(&mut runner).unwrap().current().spec().name)
        .collect();
    assert_eq!(drawn.len(), OPS.len(), "{drawn:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn what_prints_is_read(edit in edit()) {
        let line = edit.to_string();
        match line.parse::<Edit>() {
            Ok(back) => {
                prop_assert_eq!(&back, &edit, "{}", line);
                prop_assert_eq!(understood(&line, &back), None);
            }
            Err(error) => prop_assert!(false, "{line}: {error}"),
        }
    }

    /// Whatever is typed is refused in a sentence or is what it prints as.
    #[test]
    fn what_is_read_prints_as_it_was_read(
        op in proptest::sample::select(OPS.iter().map(|o| o.name).collect::<Vec<_>>()),
        middle in text(), tail in text(),
    ) {
        for line in [format!("{op}:{middle}@resid_pre.3{tail}"), format!("{op}:{middle}{tail}@mlp_act.1")] {
            if let Ok(edit) = line.parse::<Edit>() {
                let printed = edit.to_string();
                prop_assert_eq!(printed.parse::<Edit>().unwrap(), edit, "{} printed {}", line, printed);
            }
        }
    }
}

fn meaning(line: &str) -> Edit {
    line.parse().unwrap_or_else(|e| panic!("{line}: {e}"))
}

#[test]
fn quotation_marks_of_every_kind_mean_the_same() {
    let resample = meaning("resample:6=\"I went: a@b\"@z.3");
    assert_eq!(
        resample.op,
        Op::Resample(UnitsAsIn(UnitChoice::List(vec![6]), "I went: a@b".into()))
    );
    for line in [
        "resample:6=“I went: a@b”@z.3",
        "resample:6=„I went: a@b“@z.3",
        "resample:6='I went: a@b'@z.3",
        "resample:6=I went: a@b@z.3",
        " resample : 6 = \"I went: a@b\" @ z.3 ",
        "resample:6=\"I went\\u003a a@b\"@z.3*1",
    ] {
        let edit = meaning(line);
        assert_eq!(edit, resample, "{line}");
        let note = understood(line, &edit).unwrap();
        assert!(note.contains("resample:6=\"I went: a@b\"@z.3"), "{note}");
    }
    for (line, same) in [
        (
            "add:“my file”@resid_pre.3:token:‘ x’*2",
            "add:\"my file\"@resid_pre.3:token:\" x\"*2",
        ),
        ("cut:='0..4'@attn_scores.1", ""),
        (
            "cut:=text:' a@b'@attn_scores.1",
            "cut:=text:\" a@b\"@attn_scores.1",
        ),
        ("zero:{'my set'}@mlp_act.1", "zero:{\"my set\"}@mlp_act.1"),
        (
            "rewrite:1=' a'>' b'@mlp_act.1",
            "rewrite:1=\" a\">\" b\"@mlp_act.1",
        ),
        (
            "rewrite:1= a> b@mlp_act.1",
            "rewrite:1=\" a\">\" b\"@mlp_act.1",
        ),
        (
            "add:d@resid_pre.3 when p(“no”)>0.5",
            "add:d@resid_pre.3 when p(\"no\")>0.5",
        ),
        (
            "add:d@resid_pre.3 when 'my d'@resid_pre.1>0.5",
            "add:d@resid_pre.3 when \"my d\"@resid_pre.1>0.5",
        ),
        ("add:d@blocks.3.hook_resid_pre", "add:d@resid_pre.3"),
        ("resample:=it's late@z.1", "resample:=\"it's late\"@z.1"),
        ("add:d@resid_pre.3:all*2", "add:d@resid_pre.3*2"),
    ] {
        match line.parse::<Edit>() {
            Ok(edit) => assert_eq!(edit.to_string(), same, "{line}"),
            Err(error) => assert!(same.is_empty(), "{line}: {error}"),
        }
    }
    assert_eq!(
        understood(
            "add:d@resid_pre.3:all*2",
            &meaning("add:d@resid_pre.3:all*2")
        ),
        None
    );
}

#[test]
fn a_mark_that_delimits_nothing_is_refused() {
    for (line, why) in [
        ("resample:6=\"I went@z.3", "not closed"),
        ("resample:6=“I went@z.3", "not closed"),
        ("resample:6='I went@z.3", "not closed"),
        ("resample:6=\"I went\" on@z.3", "follows the closing"),
        ("resample:6=I \"went\" on@z.3", "inside"),
        ("resample:6=I went”@z.3", "inside"),
        ("resample:6=\"\"@z.3", "needs a text"),
        ("add:\"my file@resid_pre.3", "not closed"),
        ("add:my \"file\"@resid_pre.3", "inside"),
        ("add:d@resid_pre.3:token:\"x", "not closed"),
        ("add:d@resid_pre.3:token:\"x\" y", "follows the closing"),
        ("cut:=text:a \"b\"@attn_scores.1", "inside"),
        ("rewrite:1=\"a\" x>\"b\"@mlp_act.1", "follows the closing"),
        (
            "add:d@resid_pre.3 when p(\"no\" x)>0.5",
            "follows the closing",
        ),
        ("add:\"C:\\dir\"@resid_pre.3", "not an escape"),
        ("add:d@resid_pre.3*inf", "not a strength"),
        ("add:d@resid_pre.3*-inf", "not a strength"),
        ("add:d@resid_pre.3*nan", "not a strength"),
        ("add:d@resid_pre.3*1e39", "not a strength"),
        ("set:1=1e39@mlp_act.3", "fits in 32 bits"),
        ("set:1=nan@mlp_act.3", "not a number"),
        ("clamp_along:d=-inf..1@resid_pre.3", "not a number"),
        (
            "add:d@resid_pre.3 when d@resid_pre.1>1e39",
            "not a condition",
        ),
        ("zero:{g.toml}@mlp_act", "mlp_act.0"),
        ("zero:1@mlp_act.x", "`x` is not a layer"),
        ("zero:1@mlp_act.5-2", "runs backwards"),
        ("zero@final_norm.3", "Write final_norm"),
    ] {
        let error = line.parse::<Edit>().expect_err(line).to_string();
        assert!(error.contains(why), "{line}: {error}");
        assert!(!error.contains("Did you mean"), "{line}: {error}");
    }
}

#[test]
fn every_operation_does_what_its_example_says() {
    let mut lab: Lab = with_features(demo());
    let tokens = lab.model.encode("The capital of France is", false).unwrap();
    // A dictionary that the demo has not, under the name of the example.
    let folder = tempfile::tempdir().unwrap();
    let (d, dictionary) = (lab.model.card.d_model, folder.path().join("layer_3"));
    let numbers: Vec<f32> = (0..d * 8).map(|i| (i % 7) as f32 / 7.0 - 0.4).collect();
    saelens(&dictionary, d, 8, &numbers, &numbers, "standard");
    let given = format!("{}@resid_post.3", dictionary.display());
    let open = lab.derived::<OpenDictionaries>();
    open.get(&given, &lab).unwrap();
    for spec in OPS {
        let edit = meaning(spec.example);
        assert_eq!(edit.op.spec().name, spec.name, "{}", spec.example);
        assert_eq!(understood(spec.example, &edit), None, "{}", spec.example);
        let run = Run {
            schedule: Schedule::always(vec![edit]),
            ..Run::plain(tokens.clone())
        };
        let receipts = lab
            .receipts(&run)
            .unwrap_or_else(|e| panic!("{}: {e}", spec.example));
        assert!(
            receipts[0].fired > 0,
            "{}: {}",
            spec.example,
            receipts[0].why
        );
    }
}

#[test]
fn what_was_understood_is_said_where_it_was_not_typed() {
    let given = [
        "generate",
        "demo",
        "-p",
        "The capital of France is",
        "-n",
        "1",
        "--edit",
    ];
    let with = |edit: &str| outcome(&[&given[..], &[edit]].concat());
    let quoted = with("resample:0=\"The king of Japan is\"@z.2");
    let bare = with("resample:0=The king of Japan is@z.2");
    assert_eq!((quoted.0, &quoted.1), (0, &bare.1));
    let (said, unsaid) = (bare.2, quoted.2);
    assert!(
        said.contains("is understood as `resample:0=\"The king of Japan is\"@z.2`"),
        "{said}"
    );
    assert!(!unsaid.contains("understood"), "{unsaid}");
    for out in [&said, &unsaid] {
        assert!(out.contains("another text of 6 tokens"), "{out}");
    }
    refused(
        &[&given[..], &["zero:{g.toml}@mlp_act"]].concat(),
        2,
        &["mlp_act.0"],
    );
    refused(
        &[&given[..], &["resample:0=\"The king@z.2"]].concat(),
        2,
        &["not closed"],
    );
}
