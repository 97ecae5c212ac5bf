//! Files of directions: what other tools wrote is read as they mean it, and what we write is read by them.
//!
//! `tests/references/vectors/` was made on the demo model by repeng, llama-cvector-generator, llama.cpp and the formula of
//! refusal_direction (`tests/references/vectors.py`); nothing of it is computed here. `files.rs` holds what needs no model.

mod brought;
mod files;

use std::path::{Path, PathBuf};

use lmscope::edit::direction::Direction;
use serde_json::Value;

fn made(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/references/vectors")
        .join(name)
}

fn spelled(name: &str) -> String {
    made(name).to_string_lossy().into_owned()
}

fn open(name: &str) -> Direction {
    Direction::open(&spelled(name)).unwrap().unwrap()
}

fn report() -> Value {
    serde_json::from_slice(&std::fs::read(made("report.json")).unwrap()).unwrap()
}

fn places(direction: &Direction) -> Vec<String> {
    direction.rows.iter().map(|(a, _)| a.to_string()).collect()
}

#[cfg(feature = "demo")]
mod on_the_demo {
    use lmscope::edit::Edit;
    use lmscope::edit::direction::norm;
    use lmscope::edit::positions::Positions;
    use lmscope::edit::receipt::Receipt;
    use lmscope::edit::schedule::Schedule;
    use lmscope::lab::Lab;
    use lmscope::lab::sample::Sampling;
    use lmscope::lab::writer::Writer;
    use lmscope::model::load::Options;
    use lmscope::model::network::site::Site;
    use lmscope::vectors::contrast::{Contrast, ContrastRequest, Method};
    use safetensors::SafeTensors;

    use super::*;

    /// What a direction's cosine with the same direction of another program may fall short of 1.
    const SHORT: f64 = 1e-4;

    fn demo() -> Lab {
        let options = Options {
            device: Some("cpu".into()),
            dtype: Some("f32".into()),
            ..Options::default()
        };
        Lab::open("demo", &options).unwrap()
    }

    /// The direction of the recorded prompts at every layer of a site.
    fn measured(lab: &mut Lab, site: Site, positions: Positions, method: Method) -> Direction {
        let text = std::fs::read(made("prompts.json")).unwrap();
        let prompts: Value = serde_json::from_slice(&text).unwrap();
        let side =
            |name: &str| -> Vec<String> { serde_json::from_value(prompts[name].clone()).unwrap() };
        let measure = ContrastRequest {
            site,
            layers: if site.spec().layered {
                (0..lab.model.card.layers).collect()
            } else {
                vec![0]
            },
            positions,
            chat: false,
        };
        let contrast = Contrast::measure(lab, &side("plus"), &side("minus"), measure).unwrap();
        contrast.direction(method, lab).unwrap()
    }

    fn cosine(a: &[f32], b: &[f32]) -> f64 {
        let dot: f64 = a
            .iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum();
        dot / (f64::from(norm(a)) * f64::from(norm(b)))
    }

    /// The cosine of every row with ours at its address.
    fn cosines(theirs: &Direction, ours: &Direction) -> Vec<f64> {
        let rows = theirs.rows.iter();
        rows.map(|(at, v)| cosine(v, ours.at(*at).unwrap()))
            .collect()
    }

    #[test]
    fn repengs_vectors_are_ours_at_the_layer_they_are_loaded_at() {
        let mut lab = demo();
        for (file, method) in [
            ("repeng_pca_center.gguf", Method::Pca),
            ("repeng_pca_diff.gguf", Method::PcaDiff),
        ] {
            let theirs = open(file);
            assert_eq!(theirs.span(), "resid_post.1-7", "{file}");
            let caution = theirs.caution(&lab.model.card);
            assert!(
                caution.contains("final norm") && !caution.contains("#-1"),
                "{caution}"
            );
            let ours = measured(&mut lab, Site::ResidPost, Positions::Last, method);
            let (here, last) = split(&cosines(&theirs, &ours));
            assert!(here.iter().all(|c| *c > 1.0 - SHORT), "{file}: {here:?}");
            // A layer off is another vector, so that this agreement says something of the layer.
            let off = cosines(&theirs.shifted(-1).unwrap(), &ours);
            assert!(
                off.iter().all(|c| *c < 1.0 - 10.0 * SHORT),
                "{file}: {off:?}"
            );
            // Of the last block repeng measures what transformers gives, which is normed.
            let normed = measured(&mut lab, Site::FinalNorm, Positions::Last, method);
            let normed = cosine(&theirs.rows[6].1, &normed.rows[0].1);
            assert!(
                normed > 1.0 - SHORT && last < 1.0 - SHORT,
                "{file}: {normed} {last}"
            );
        }
    }

    fn split(cosines: &[f64]) -> (Vec<f64>, f64) {
        let (last, rest) = cosines.split_last().unwrap();
        (rest.to_vec(), *last)
    }

    #[test]
    fn llama_cvector_generator_measured_one_block_before_and_that_is_said() {
        let mut lab = demo();
        let ours = measured(&mut lab, Site::ResidPost, Positions::All, Method::Mean);
        let theirs = open("llama_mean.gguf");
        assert_eq!(theirs.span(), "resid_post.1-7");
        let caution = theirs.caution(&lab.model.card);
        assert!(
            caution.contains("llama-cvector-generator") && caution.contains("#-1"),
            "{caution}"
        );
        let applied = cosines(&theirs, &ours);
        assert!(
            applied.iter().all(|c| *c < 1.0 - 10.0 * SHORT),
            "{applied:?}"
        );

        let back = open("llama_mean.gguf#-1");
        assert_eq!(back.span(), "resid_post.0-6");
        assert_eq!(back.caution(&lab.model.card), "");
        let here = cosines(&back, &ours);
        assert!(here.iter().all(|c| *c > 1.0 - SHORT), "{here:?}");
        let pca = open("llama_pca.gguf");
        assert_eq!(
            (pca.span(), pca.caution(&lab.model.card)),
            ("resid_post.1-7".into(), caution)
        );
    }

    #[test]
    fn differences_of_means_are_those_of_refusal_direction() {
        let mut lab = demo();
        let bytes = std::fs::read(made("mean_diffs.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let theirs: Vec<f32> = file
            .tensor("mean_diffs")
            .unwrap()
            .data()
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes(b.try_into().unwrap()) as f32)
            .collect();
        let (layers, width) = (lab.model.card.layers, lab.model.card.d_model);
        for (place, positions) in ["last", "-2"].into_iter().enumerate() {
            let ours = measured(
                &mut lab,
                Site::ResidPre,
                positions.parse().unwrap(),
                Method::Mean,
            );
            for layer in 0..layers {
                let theirs = &theirs[(place * layers + layer) * width..][..width];
                let at = Site::ResidPre.at(layer);
                // What enters the first block is the token alone, and both sides end in the same words.
                if norm(theirs) < 1e-4 {
                    assert!(
                        ours.rows.iter().all(|(a, _)| *a != at),
                        "{positions} {layer}"
                    );
                    assert!(ours.origin.notes[0].contains("equal there: resid_pre.0"));
                    continue;
                }
                let ours = ours.at(at).unwrap();
                let off = (norm(ours) / norm(theirs) - 1.0).abs();
                let cosine = cosine(ours, theirs);
                assert!(
                    cosine > 1.0 - SHORT && off < 1e-4,
                    "{positions} {layer}: {cosine} {off}"
                );
            }
        }
    }

    /// The greedy text under edits, and the receipt of the first.
    fn written(lab: &mut Lab, ask: &str, edits: &[String]) -> (String, Receipt) {
        let tokens = lab.model.encode(ask, false).unwrap();
        let edits = edits.iter().map(|e| e.parse::<Edit>().unwrap()).collect();
        let schedule = Schedule::always(edits);
        let mut writer = Writer::begin(lab, tokens.clone(), schedule, Sampling::default()).unwrap();
        for _ in 0..12 {
            let step = writer.step(lab, &[]).unwrap();
            if lab.model.is_end(step.choice.id) {
                break;
            }
        }
        let receipt = writer.receipts().first().cloned().unwrap_or_default();
        let text = lab
            .model
            .tokenizer()
            .unwrap()
            .text(&writer.run.tokens[tokens.len()..]);
        (format!("{ask}{text}").trim().to_string(), receipt)
    }

    #[test]
    fn a_text_under_a_control_vector_is_the_one_that_llama_cpp_writes() {
        let mut lab = demo();
        let report = report();
        let ask = report["ask"].as_str().unwrap();
        let (mut elsewhere, mut texts) = (0, Vec::new());
        for case in report["texts"].as_array().unwrap() {
            let (file, scale) = (case["file"].as_str().unwrap(), &case["scale"]);
            let edit = |shift: &str| format!("add:{}{shift}@resid_post.**{scale}", spelled(file));
            let edits = if file.is_empty() {
                vec![]
            } else {
                vec![edit("")]
            };
            let (text, receipt) = written(&mut lab, ask, &edits);
            assert_eq!(text, case["text"].as_str().unwrap(), "{edits:?}");
            texts.push(text.clone());
            if edits.is_empty() {
                continue;
            }
            let missing = lab.model.card.layers - open(file).rows.len();
            assert_eq!(
                receipt.note.contains("no vector for resid_post.0"),
                missing > 0
            );
            assert_eq!(receipt.note.contains("#-1"), file.starts_with("llama"));
            elsewhere += usize::from(written(&mut lab, ask, &[edit("#-1")]).0 != text);
        }
        texts.sort();
        texts.dedup();
        assert!(texts.len() > 6, "{texts:?}");
        assert!(elsewhere > 2, "the layer makes no difference: {elsewhere}");
    }

    #[test]
    fn a_vector_that_does_not_fit_is_refused_or_said() {
        let mut lab = demo();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        let mut refused = |direction: &Direction, edit: &str| {
            direction
                .save_as(&path, lmscope::file::Overwrite::Allowed)
                .unwrap();
            let edit = edit.replace('X', &path.to_string_lossy());
            let tokens = lab.model.encode("Once", false).unwrap();
            let edits = vec![edit.parse::<Edit>().unwrap()];
            let begun = Writer::begin(
                &mut lab,
                tokens,
                Schedule::always(edits),
                Sampling::default(),
            );
            match begun {
                Ok(writer) => format!("taken: {}", writer.receipts()[0].note),
                Err(error) => error.to_string(),
            }
        };
        let whole = open("repeng_pca_center.gguf");
        let with = |change: &dyn Fn(&mut Direction)| {
            let mut other = whole.clone();
            change(&mut other);
            other
        };
        let said = refused(
            &with(&|d| d.rows.iter_mut().for_each(|(_, v)| v.truncate(64))),
            "add:X@resid_post.3",
        );
        assert!(
            said.contains("64 numbers") && said.contains("128"),
            "{said}"
        );
        let said = refused(
            &with(&|d| d.origin.revision = "another".into()),
            "add:X@resid_post.3",
        );
        assert!(
            said.contains("another") && !said.starts_with("taken"),
            "{said}"
        );
        let said = refused(
            &with(&|d| d.origin.family = "qwen2".into()),
            "add:X@resid_post.3",
        );
        assert!(
            said.starts_with("taken") && said.contains("`qwen2`"),
            "{said}"
        );
        let said = refused(&whole, "add:X@resid_post.0-3");
        assert!(
            said.contains("resid_post.0") && said.contains("resid_post.1-7"),
            "{said}"
        );
        // What leaves block 3 is what enters block 4.
        assert!(refused(&whole, "add:X@resid_pre.4").starts_with("taken"));
        assert!(refused(&whole, "add:X@mlp_out.*").contains("no vector"));
        let said = refused(&with(&|d| d.rows[6].0.layer = 9), "add:X@resid_post.*");
        assert!(
            said.contains("resid_post.9") && said.contains("resid_post.7"),
            "{said}"
        );
        let mut error = String::new();
        for shift in ["#-2", "#+70000", "#x"] {
            error += &refused(&whole, &format!("add:X{shift}@resid_post.3"));
        }
        assert!(
            error.contains("#-2") && error.contains("#+70000") && error.contains("#x"),
            "{error}"
        );
    }
}
