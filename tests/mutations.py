"""Plants one fault after another in the source and says which tests notice.

    python3 tests/mutations.py            about an hour on two cores, with a warm build
    python3 tests/mutations.py i8 i9      only the faults whose test's name begins so
    python3 tests/mutations.py together 8 i8 circuits
                                          the same, up to eight at once where files and tests differ: one build for all of
                                          them. One whose own test does not fail then is planted again alone
    python3 tests/mutations.py check      plants nothing: whether every fault's place and every test it names are there

Every fault should be killed by the test that it names; a fault that survives names a test that
does not test. A name is the path of an integration test (`tests/it`) or of a unit test, without
`tests::`. Run it on a clean checkout: files are put back from memory, whatever happens.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# (test, file, what is there, what is planted)
FAULTS = [
    ("i1", "src/model/network/transformer.rs", "self.finish(self.raw(&self.norm.forward(rows, false)?)?)", "self.finish(self.raw(rows)?)"),
    ("i1", "src/model/network/readout.rs", "let beside = self.norm.forward(beside, false)?;", "let beside = beside.clone();"),
    ("i2", "src/model/network/transformer.rs", "scaled(norm(&mlp.output, &m)?, scale)?)?;", "m.clone())?;\n        let m = scaled(norm(&mlp.output, &m)?, scale)?;"),
    ("i3", "src/model/network/norm.rs", "let out = self.centred(wide)?.broadcast_mul(scale)?;", "let out = wide.broadcast_mul(scale)?;"),
    ("i3", "src/model/network/value_vectors.rs", "Some(norm) => written.broadcast_mul(&norm.gain.on_device(written.device())?)?,", "Some(_) => written,"),
    ("i4", "src/model/kernels/attention.rs", "let end = self.start + q + 1;", "let end = self.start + q + 2;"),
    ("i4", "src/model/kernels/attention.rs", "end.saturating_sub(w)", "end.saturating_sub(w + 1)"),
    ("i5", "src/model/network/linear.rs", ".narrow(1, i, 1)?\n                .squeeze(1)?", ".narrow(1, (i + 1) % 3, 1)?\n                .squeeze(1)?"),
    ("i5", "src/model/network/mlp.rs", ".broadcast_mul(&weight)?;", ";\n            let _ = weight;"),
    ("i6", "src/edit/intervention.rs", "self.on && !neutral", "self.on"),
    ("i7", "src/lab/formulas/mod.rs", "Op::ProjectOut(_) => x.add(-x.dot(u(0)) * c, u(0)),", "Op::ProjectOut(_) => x.add(-x.dot(u(0)) * c, v(0)),"),
    ("i7", "src/lab/formulas/mod.rs", "x.add((-x.dot(u(0)) + f64::from(*value)) * c, u(0));", "x.add((x.dot(u(0)) + f64::from(*value)) * c, u(0));"),
    ("i8", "src/edit/intervention.rs", "                        Site::MlpAdd.at(l),\n", ""),
    ("i9", "src/lab/tap.rs", "let line = row * tokens + patch.position - span.start;", "let line = row * tokens + (patch.position - span.start).saturating_sub(1);"),
    ("i19", "src/lab/formulas/rows.rs", "*x = *target;", "*x = *target + 1e-4;"),
    ("i20", "src/model/network/rope.rs", "cos: self.first.cos.narrow(0, start, tokens)?", "cos: self.first.cos.narrow(0, 0, tokens)?"),
    ("json::tables_name_tokens_by_id", "src/lab/logit_effects.rs", "row = row.naming(column, ids);", "row = row.naming(if column == \"promotes\" { \"suppresses\" } else { \"promotes\" }, ids);"),
    ("json::csv_of_commands", "src/export/document.rs", "let rest = all.iter().filter(|(key, _)| *key != rows);", "let rest = all.iter().filter(|(key, _)| *key == rows);"),
    ("score::a_score_that_is_stopped", "src/instruments/score/measure.rs", "self.plain[text].iter().all(|window| !window.is_empty())", "self.plain[text].iter().any(|window| !window.is_empty())"),
    ("over_prompts::a_list_from_a_pipe", "src/lab/prompt_list.rs", "if first.trim_start().starts_with('[') && serde_json", "if first.trim_start().starts_with('(') && serde_json"),
    ("claims::a_planted_direction_beats", "src/lab/named_vectors.rs", "if seed == draw_seed(FIRST_SEED, draw) {", "if seed != 0 {"),
    ("dictionaries::handles::a_splice_is", "src/lab/splice_cost.rs", "let scored = tokens.len().saturating_sub(window).max(1)..tokens.len();", "let scored = tokens.len().saturating_sub(window).max(2)..tokens.len();"),
    ("backpatch::o1s_table", "src/instruments/backpatch/table.rs", "average(chosen.iter().map(|i| own[*i] - matched[*i]))", "average(chosen.iter().map(|i| matched[*i] - own[*i]))"),
    ("ui::figures::table", "src/ui/figures/table.rs", "changing.drain(1.min(changing.len())", "changing.drain(0.min(changing.len())"),
    ("i25", "src/lab/apply.rs", "            let position = span.start + i % tokens;\n            force", "            let position = span.start + i % tokens + 1;\n            force"),
    ("i26", "src/lab/tap.rs", "placement.bring_home(at, &kept)?);\n        }\n        Ok(x)",
     "placement.bring_home(at, &kept)?);\n            return Ok((x + 1e-6)?);\n        }\n        Ok(x)"),
    ("app::search::words_begin", "src/app/search.rs", ".partition_point(|start| *start <= byte)", ".partition_point(|start| *start < byte)"),
    ("app::search::characters_that", "src/app/search.rs", "origin.resize(text.len(), start + offset);", "origin.resize(text.len(), offset);"),
    ("scripts::every_script", "src/app/search.rs", "at(hit) > here", "at(hit) >= here"),
    # The screen that people live in: room by need, two prompts, models from inside, the mouse.
    ("ui::figures::layout::rows_that_change_least", "src/ui/figures/layout.rs", "order.sort_by(|a, b| changes[*b].total_cmp(&changes[*a]).then(a.cmp(b)));", "order.sort_by(|a, b| changes[*a].total_cmp(&changes[*b]).then(a.cmp(b)));"),
    ("figure::alignment::what_texts", "src/figure/alignment.rs", "let equal = to_x - x == to_y - y;", "let equal = to_x - x > 0;"),
    ("figure::alignment::a_figure_of_another", "src/figure/alignment.rs", "wanted.position = Some(*self.positions.get(&position)?);", "wanted.position = Some(position);"),
    ("engine::a_figure_of_another_text", "src/engine/worker/mod.rs", "..Run::plain(other.tokens.clone())", "..run.clone()"),
    ("engine::models_of_a_folder", "src/model/known.rs", "(path.is_file() && is_gguf(path))", "path.is_file()"),
    ("mouse::a_border_is_dragged", "src/app/pointer.rs", "self.layout.resized = before.0;", ""),
    ("mouse::an_edit_is_chosen", "src/ui/panes/edits.rs", "let switch = Rect::new(inner.x + 2, y, 3, 1);", "let switch = Rect::new(inner.x + 6, y, 3, 1);"),
    ("ui::decode::reports_of_the_mouse", "src/ui/decode.rs", "(32, \"M\") => PointerMove::Drag,", "(32, _) => PointerMove::Release,"),
    ("claims::a_patchscope_at_the_end", "src/instruments/patchscope/subject.rs", "most(alone) >= most(whole) / 2.0", "most(alone) >= 0.0"),
    ("export::screen::an_animation", "src/export/screen.rs", "let shown = if to == rows.len() { \"inline\" } else { \"none\" };", "let shown = \"none\";"),
    # What crosses to the host, and between devices.
    ("crossings::what_crosses", "src/lab/lens_rows.rs", "StatisticsOn::Device => (Vec::new(), about),", "StatisticsOn::Device => (about.clone(), about),"),
    ("crossings::a_device_shows", "src/model/network/reduced.rs", "let larger = rows.broadcast_gt(&own)?", "let larger = rows.broadcast_ge(&own)?"),
    ("devices::a_pass_goes_over", "src/model/network/transformer.rs", "x = place.cross(&x, place.of(i - 1), place.of(i))?;", "x = place.cross(&x, place.of(i), place.of(i))?;"),
    ("model::network::placement::every_block", "src/model/network/placement.rs", "Site::Embed => 0,", "Site::Embed => self.last(),"),
    ("model::device_memory::larger_devices", "src/model/device_memory.rs", "known[number] as f64 / free - taken / whole", "known[number] as f64 / free - counts[number] as f64"),
    # Lists of prompts.
    ("over_prompts::every_mean", "src/instruments/over_prompts/numbers.rs", "out.rows[at].values[column][i] = *value;", "out.rows[at].values[column][0] = *value;"),
    ("over_prompts::positions_go", "src/instruments/over_prompts/numbers.rs", "known.iter().sum::<f64>() / known.len() as f64) as f32", "known[0]) as f32"),
    ("over_prompts::edits_act", "src/instruments/over_prompts/numbers.rs", "|(own, other)| own - other", "|(own, other)| other - own"),
    ("over_prompts::a_list_that_is_stopped", "src/instruments/over_prompts/measure.rs", "if std::mem::take(&mut lab.unfinished.stopped) {", "if lab.model.card.layers == 0 {"),
    ("over_prompts::a_shared_beginning", "src/lab/runner/prefix.rs", "begin.pad_with_zeros(2, 0, length - start)?", "begin.pad_with_zeros(2, length - start, 0)?"),
    ("model::network::reduced", "src/model/network/reduced.rs", "                _ if !other_total.is_finite() => f32::NAN,\n", ""),
    ("over_prompts::numbers_that_are_not_finite", "src/instruments/over_prompts/measure.rs", "if draft.body.mark_not_finite().0 > 0 {", "if false {"),
    ("scripts::every_script", "src/figure/table.rs", "if backwards { order.reverse() } else { order }", "order.reverse()"),
    # Claims.
    ("claims::there_is_no_control", "src/lab/control_units.rs", "if others < own {", "if others == 0 {"),
    ("claims::there_is_no_control", "src/lab/control_units.rs", "near.iter().skip(draw_number(seed)).step_by(DRAWS)", "near.iter().skip(draw_number(seed) % 2).step_by(DRAWS)"),
    ("circuits::a_stopped_discovery", "src/instruments/circuit/acdc.rs", "Some(loss) if *loss < threshold => left.set(edge, false),", "Some(loss) if *loss < 0.0 => left.set(edge, false),"),
    ("prompt_lists::a_stopped_command", "src/cli/trace/list.rs", "std::fs::remove_file(&ledger).map_err", "std::fs::metadata(&ledger).map_err"),
    ("sweep::the_best", "src/instruments/steering/sweep/plan.rs", "measured.filter(|o| !self.is_fluent(aim, found, o));", "measured.filter(|o| self.is_fluent(aim, found, o));"),
    ("vectors::proportion::", "src/vectors/proportion.rs", "let half = f64::midpoint(m, n) - 1.0;", "let half = 0.0;"),
    ("edit::receipt::a_receipt_says_over", "src/edit/receipt.rs", "own.abs() > draw.abs()", "own > *draw"),
    ("finite::sound_figures", "src/instruments/knowledge/dose.rs", "            \"least p\",\n", ""),
    ("claims::the_direction_of_a_log_probability", "src/lab/effect.rs", "(own - (z - total).exp()) * slope", "own * slope"),
    ("claims::the_direction_of_a_log_probability", "src/lab/effect.rs", "cap.map_or(1.0, |cap| 1.0 - (z / cap).powi(2))", "cap.map_or(1.0, |_| 1.0)"),
    ("memories::effects_are_on_the_log_probability", "src/lab/effect.rs", "EffectScale::LogProb if target.minus.is_none() => EffectScale::Centred,", "EffectScale::LogProb if target.minus.is_none() => EffectScale::Logit,"),
    ("memories::doses_are_measured", "src/lab/effect.rs", "Self::LogProb => stats.token(target.token).logprob,", "Self::LogProb => target.logit(stats),"),
    ("claims::a_receipt_has_eight_draws", "src/lab/edit_effects.rs", "PassRow::edited(control(draw))", "PassRow::edited(control(0))"),
    ("claims::a_receipt_has_eight_draws", "src/lab/runner/mod.rs", "first.unwrap_or(layers)", "first.map_or(layers, |l| l + 1)"),
    ("lab::draws::seeds_share_no_draw", "src/lab/draws.rs", "Fingerprint::of([seed, draw as u64]) / count * count", "(seed + draw as u64) * count"),
    ("edit::receipt::a_receipt_says_over", "src/edit/receipt.rs", "p + 1 >= self.prompt && p < last;", "p + 1 >= self.prompt && p <= last;"),
    ("edit::receipt::a_receipt_says_over", "src/edit/receipt.rs", "Some((sign * outermost.max(sign * bound)) as f32)", "Some((sign * outermost) as f32)"),
    ("over_prompts::edits_act", "src/instruments/over_prompts/measure.rs", "Some(alone::<M>(over, text, params, (&control, pinned), lab)?.0)", "Some(alone::<M>(over, text, params, (&whole, pinned), lab)?.0)"),
    ("over_prompts::a_list_from_a_pipe", "src/instruments/over_prompts/measure.rs", "    if let Some(say) = lab.announce {\n", "    if let Some(say) = lab.announce.filter(|_| PlacedList::read(&asked, lab).is_ok()) {\n"),
    ("probe::what_cannot_judge", "src/instruments/probe/parameters.rs", "prompts.retain(|prompt| seen.insert(prompt.tokens.clone()));", "let _ = &mut seen; let _: &Vec<u32> = &prompts[0].tokens; seen.insert(Vec::<u32>::new());"),
    ("app::tour::every_key", "src/app/tour.rs", "{next-figure} shows the neurons", "{following-figure} shows the neurons"),
    ("pty::the_tour", "src/app/tour.rs", "        done: |app| app.compare,", "        done: |_| false,"),
    ("claims::back_patching_stands_beside", "src/instruments/backpatch/grid.rs", "(!draws.is_empty()).then_some(Vector::Draws(&draws)),", "(!draws.is_empty()).then_some(Vector::Own),"),
    ("claims::back_patching_stands_beside", "src/lab/matched.rs", "drops[*i] >= most / 2.0", "drops[*i] < most / 2.0"),
    ("claims::noised_states_are_those", "src/lab/matched.rs", "get(position - from)", "get(0)"),
    ("claims::noised_states_are_those", "src/lab/pairs.rs", "Ok((square / (count - 1.0).max(1.0)).sqrt())", "Ok((square / count / 2.0).sqrt())"),
    ("claims::a_patchscope_stands_beside", "src/instruments/patchscope/table.rs", "rows: rows.into_iter().map(PassRow::patched).collect(),", "rows: rows.into_iter().map(|_| PassRow::default()).collect(),"),
    ("instruments::backpatch::two_hop::the_matched_question", "src/instruments/backpatch/two_hop.rs", "&& fit(other)", "&& (fit(other) || seed < 99)"),
    ("claims::a_sweep_says_what", "src/instruments/steering/sweep/mod.rs", "let Some((s, layer)) = self.best(found, &found.control) else {\n            return format!", "let Some((s, layer)) = self.best(found, &found.real) else {\n            return format!"),
    ("claims::a_knockout_leaves_the_sink", "src/instruments/knockout/parameters.rs", "(usize::from(last > 1)..last)", "(0..last)"),
    ("lens_curves::answers_settle", "src/instruments/logit_lens/settle.rs", " && f64::from(stats.kl) <= params.kl.0", " && stats.kl < f32::MAX"),
    ("claims::an_answer_without_its_space", "src/lab/spaced_answer.rs", "(with > LIKELIER * p)", "(with < LIKELIER * p)"),
    ("claims::shares_of_a_difference", "src/instruments/patching/plan.rs", "            patched: 0.0,\n", "            patched: 1.0,\n"),
    ("claims::head_scores_say", "src/instruments/attention/head_scores.rs", "*error = standard_error(scores).1;", "*error = standard_error(scores).0;"),
    ("claims::a_planted_direction", "src/vectors/quality.rs", "halves[1].auroc(layer, a),", "halves[0].auroc(layer, a),"),
    ("claims::a_planted_direction", "src/lab/prepare.rs", "named.shuffled(name, at, seed)?", "named.shuffled(name, at, seed ^ 1)?"),
    ("vectors::interval::the_interval_is_about", "src/vectors/interval.rs", "low: mean - at(0.975) * error,", "low: mean - at(0.9) * error,"),
    ("instruments::features::pages::a_median", "src/instruments/features/pages.rs", "f32::midpoint(at(upper - 1), at(upper))", "at(upper)"),
    # Circuits.
    ("only::a_changed_file", "src/lab/circuit/file.rs", "if own.measured != own.digest_of_measured() {", "if own.measured.is_empty() {"),
    ("only::a_changed_file", "src/lab/circuit/file.rs", "if self.graph != own {", "if self.graph.heads != own.heads {"),
    ("instruments::params::what_was_saved", "src/instruments/params.rs", "Some(std::mem::take(file))", "Some(file.clone())"),
    ("export::text::the_last_column", "src/export/text.rs", "Entry::Text(text) if i + 1 == count => text.clone(),", "Entry::Text(text) if i > count => text.clone(),"),
    ("honest::a_text_of_several", "src/lab/target.rs", "ids.first().filter(|_| ids.len() > 1)?;", "ids.first().filter(|_| ids.len() > 2)?;"),
    ("dictionaries::single::the_features_that_promote", "src/instruments/feature/search.rs", "listed.sort_by(|a, b| order(b.z, a.z));", "listed.sort_by(|a, b| order(a.z, b.z));"),
    ("dictionaries::planted::the_row_of", "src/instruments/features/pages.rs", "acting.any(|(_, features)| features.contains(f))", "acting.any(|_| true)"),
    ("scripts::every_script", "src/app/commands/edits.rs", "app.history.selected = index;\n    selected(app, |there| there.op = edit.op)", "let _ = index;\n    add(app, edit)"),
    ("scripts::every_script", "src/edit/op.rs", "0.0..=1.0\n", "0.0..=1.5\n"),
    ("scripts::every_script", "src/app/requests.rs", "pop_if(|(slot, _)| *slot == self.layout.figure)?;", "pop_if(|(slot, _)| *slot != self.layout.figure)?;"),
    ("lens_fit::pytorch_fits", "src/instruments/logit_lens/fit/tuned.rs", "const MOMENTUM: f64 = 0.9;", "const MOMENTUM: f64 = 0.8;"),
    ("lens_fit::a_tuned_lens", "src/instruments/logit_lens/fit/tuned.rs", "*value = (&*value - (along * rate)?)?;", "*value = (&*value + (along * rate)?)?;"),
    ("lens_fit::in_a_linear", "src/instruments/logit_lens/fit/jacobian.rs", "after: skipped..=end - 1,", "after: skipped..=end,"),
    ("lens_fit::the_lens_is", "src/instruments/logit_lens/fit/jacobian.rs", "jacobian_rows(lab, &request, |gradient| Ok(gradient.mean(1)?))", "jacobian_rows(lab, &request, |gradient| Ok(gradient.sum(1)?))"),
    ("lens_fit::fits_of_parts", "src/instruments/logit_lens/fit/jacobian.rs", "        self.prompts += other.prompts;", "        self.prompts += 1;"),
    ("circuits::a_twentieth_of_the_edges_keeps_induction", "src/instruments/circuit/select.rs", "order.sort_by(|a, b| scores[*b].abs().total_cmp(&scores[*a].abs()));", "order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));"),
    ("dictionaries::single::every_row_about", "src/instruments/feature/card.rs", "of_itself.for_each(|row| row.handle = Some(own.clone()));", "of_itself.skip(1).for_each(|row| row.handle = Some(own.clone()));"),
    ("dictionaries::single::every_row_about", "src/instruments/feature/card.rs", "activation: Some(*act).filter(|act| *act != 0.0),", "activation: Some(*act),"),
    ("circuits::edits_are_refused", "src/instruments/circuit/task.rs", "if pairs.iter().any(edited) {", "if pairs.len() > 1000 && pairs.iter().any(edited) {"),
    ("lab::circuit::graph::edges_are_numbered", "src/lab/circuit/graph.rs", "let (first, last) = (head * group, (head + 1) * group - 1);", "let (first, last) = (head, head + group - 1);"),
    ("circuits::all_edges_are", "src/lab/runner/circuit/tap.rs", "changed.extend(own.iter().zip(other).map(|(a, b)| (a - b) * scale));", "changed.extend(own.iter().zip(other).map(|(a, b)| a - b));\n                    let _ = scale;"),
    ("circuits::what_goes_on", "src/lab/runner/circuit/tap.rs", "            state.moved[sender] = true;", "            state.moved[sender] = sender % 2 == 0;"),
    ("circuits::planted_edges", "src/instruments/circuit/acdc.rs", "if loss < threshold {", "if loss > threshold {"),
    ("circuits::of_a_linear_model_the_scores", "src/instruments/circuit/scores.rs", "            -pairs[row / each].metric.factor(scalar) / each as f32", "            pairs[row / each].metric.factor(scalar) / each as f32"),
    ("circuits::near_the_clean", "src/model/network/adjoint/receivers.rs", "            norm.back(all, &mut out);", "            let _ = (norm, all);"),
    ("circuits::integrated_gradients", "src/instruments/circuit/scores.rs", "let part = step as f32 / steps as f32;", "let part = 1.0f32;\n                    let _ = step;"),
    ("circuits::the_fix_of", "src/instruments/attribution/scores.rs", "let found = if fix {", "let found = if fix && pair.clean > 1e9 {"),
    ("figure::graph::paths::none_that", "src/figure/graph/paths.rs", "b.total_cmp(a)).filter(|o| o.is_ne())", "a.total_cmp(b)).filter(|o| o.is_ne())"),
    ("figure::graph::walk::on_goes", "src/figure/graph/walk.rs", "filter(|(_, came)| *came != end)", "filter(|(_, came)| *came == end)"),
    ("figure::graph::a_step_keeps", "src/figure/graph/mod.rs", "known && edge.step <= self.shown", "known && edge.step < self.shown"),
    ("instruments::circuit::graph::a_shared_value", "src/instruments/circuit/graph.rs", "circuits[*i].contains(edge) && leads(*i)", "circuits[*i].contains(edge)"),
    ("instruments::circuit::graph::edges_without", "src/instruments/circuit/graph.rs", "found.whole && own.len()", "own.len()"),
    ("circuits::the_graph_has", "src/instruments/circuit/graph.rs", "weight: found.scores[edge] as f32,", "weight: found.scores[from] as f32,"),
    ("export::dot::nodes_ranks", "src/export/dot.rs", """.replace('"', "\\\\\\"")""", ""),
    ("ui::figures::graph::rows::nodes_never", "src/ui/figures/graph/rows.rs", "let x = wish.max(free).min(last);", "let x = wish.min(last);"),
    ("graphs::other_panes", "src/app/requests.rs", "        if self.walk_in_graph(slot, step) {\n            return;\n        }\n", ""),
    ("attention::a_head_alone", "src/instruments/attention/one_head.rs", "strongest(edges.row(head, position)", "strongest(edges.row(0, position)"),
    ("instruments::circuit::select", "src/instruments/circuit/select.rs", "scores[*b].abs().total_cmp(&scores[*a].abs())", "scores[*b].total_cmp(&scores[*a])"),
    # A circuit alone, as an edit.
    ("only::with_all_edges", "src/lab/only.rs", "both.for_each(|(x, mean)| *x = *x * scale - mean);", "both.for_each(|(x, mean)| *x -= mean);\n                let _ = scale;"),
    ("only::with_all_edges", "src/lab/only.rs", "                if graph.parallel {\n", "                if !graph.parallel {\n"),
    ("only::with_all_edges", "src/lab/circuit/means.rs", "&& let Some(bias) = &biases[layer]", "&& let Some(bias) = &biases[layer / 2]"),
    ("only::without_edges", "src/lab/only.rs", "            let mean = streams.of_sender(number, *position);\n            for", "            let mean = streams.of_sender(number, *position + 1);\n            for"),
    ("only::means_over_one", "src/lab/circuit/mixed.rs", "            changes(kept).for_each(|change| add(into, change));", "            changes(kept).skip(1).for_each(|change| add(into, change));"),
    ("only::with_all_edges", "src/lab/circuit/mixed.rs", "            add(into, &self.sum);\n", ""),
    ("circuits::pytorch_says", "src/lab/circuit/means.rs", "if position == 0 {\n                        &mut first", "if position < 2 {\n                        &mut first"),
    ("only::token_by_token", "src/lab/only.rs", "let positions = lines.iter().map(|line| span.start + line % tokens);", "let positions = lines.iter().map(|line| line % tokens);"),
    ("only::positions_that", "src/lab/only.rs", "flags.filter(|(_, own)| **own)", "flags.filter(|(i, _)| *i < tokens)"),
    ("only::the_figure_evaluates", "src/instruments/circuit/task.rs", "own.nothing = mean(&own.nothing_each);", "own.nothing = task.corrupt;"),
    ("only::strength_goes", "src/lab/only.rs", "*left -= self.strength * *change;", "*left -= *change;"),
    ("only::other_edits", "src/lab/tap.rs", "        let x = self.programs.apply(at, x, self.span)?;\n        let x = match", "        let x = if circuit {\n            x\n        } else {\n            self.programs.apply(at, x, self.span)?\n        };\n        let x = match"),
    ("only::patches_act", "src/lab/runner/mod.rs", "if let Some(why) = refused_beside(patch.at.site) {", "if let Some(why) = refused_beside(patch.at.site).filter(|_| pass.tail > 9) {"),
    ("only::its_receipt", "src/lab/compile.rs", "Some(seed) => Arc::new(saved.edges.random_like(&saved.graph, seed)),", "Some(_) => saved.edges.clone(),"),
    ("only::a_file_keeps", "src/lab/circuit/file.rs", "if digest(&own) != note.digest {", "if note.texts > 1 << 40 {"),
    ("only::what_has_no_meaning", "src/lab/compile.rs", "                        beside(edit, under, *at)?;\n", "                        let _ = beside(edit, under, *at);\n"),
    # What reaches a terminal, and what becomes of files.
    ("out::no_situation", "src/out.rs", 'format!("lmscope: {}", spelling::line(sentence))', 'format!("lmscope: {sentence}")'),
    ("safe::no_argument", "src/cli/mod.rs", "usage.insert(kind, safe);", "let _ = (kind, safe);"),
    ("safe::a_pipe_gets", "src/cli/generate.rs", 'terminal || matches.get_flag("safe")', "terminal"),
    ("export::csv::no_cell", "src/export/csv.rs", "let field = defused(field);", "let field = field.clone();"),
    ("file::nothing_is_written_through", "src/file.rs", "} else if kind.is_symlink() {", "} else if false {"),
    ("file::of_many_writers", "src/file.rs", "Overwrite::Never => self.link_if_free(path)?,", "Overwrite::Never => std::fs::rename(&self.path, path)?,"),
    ("model::memory_limits::the_tightest", "src/model/memory_limits.rs", "        all.push(folder.clone());\n    }", "    }\n    all.push(folder);"),
    ("app::session::lines_are_on", "src/app/session/mod.rs", "        self.keep();\n        self.failure.clone().filter", "        self.failure.clone().filter"),
    # Layers that nobody sees.
    ("engine::layers_that_nobody", "src/engine/worker/live.rs", "let urgent = self.goal.is_none() || self.came_into_view;", "let urgent = true;"),
    ("engine::layers_that_nobody", "src/lab/capture.rs", "joined.recorded.insert(*at, Tensor::cat(&rows, 0)?);", "joined.recorded.insert(*at, Tensor::cat(&rows[..1].repeat(rows.len()), 0)?);"),
    ("engine::layers_that_nobody", "src/figure/column.rs", "grid.also.replace(at, &more.also, from);", "grid.also.replace(at, &more.also, 0);"),
    ("engine::layers_that_come", "src/engine/worker/live.rs", "layers.start < before.start || layers.end > before.end", "layers.start < before.start && layers.end < before.end"),
    ("engine::states_of_a_text", "src/engine/worker/live.rs", "        self.whole = whole;\n        self.later.clear();", "        self.whole = whole;"),
    ("ui::figures::layout::rows_that_are_drawn", "src/ui/figures/layout.rs", "ends[0].min(ends[1])..ends[0].max(ends[1]) + 1", "ends[0].min(ends[1])..ends[0].max(ends[1])"),
    # Neurons as memories.
    ("memories::promoters", "src/lab/effect.rs", "model.transformer.norm.seen_from_behind(&self.after_norm)", "Ok(self.after_norm.clone()).inspect(|_: &Tensor| { let _ = model; })"),
    ("memories::effects_are_differences", "src/instruments/neurons/at_position.rs", "let write = self.scale * factor;", "let write = self.scale;\n            let _ = factor;"),
    ("memories::triggers", "src/instruments/neurons/contexts.rs", "acts.iter().enumerate().skip(1)", "acts.iter().enumerate()"),
    ("memories::triggers", "src/instruments/neurons/contexts.rs", "(window, 1)", "(window, 0)"),
    ("memories::the_total", "src/lab/runner/shared.rs", "let x = x.narrow(1, position - span.start, 1)?.contiguous()?;", "let x = x.narrow(1, span.len - 1, 1)?.contiguous()?;"),
    ("memories::a_card_holds", "src/model/network/norm.rs", "Ok(self.centred(wide)?.broadcast_mul(&gain)?)", "Ok(wide.broadcast_mul(&gain)?)"),
    ("memories::a_value_edit_changes", "src/instruments/knowledge/value_edit.rs", "if n.act < 0.0 { -1 } else { 1 }", "if n.act < 0.0 { 1 } else { 1 }"),
    ("memories::the_total", "src/instruments/neurons/mod.rs", "row[neuron as usize] = 0.0;", "row[neuron as usize] *= 0.5;"),
    ("memories::promoters", "src/instruments/neurons/promoters.rs", "z * sign", "*z"),
    ("honest::what_is_stopped", "src/lab/writer.rs", "            *self = before;\n", "            let _ = before;\n"),
    ("sweep::a_stopped", "src/lab/trials.rs", "(next..count).find(|i| results[*i].is_none())", "(next..count).next()"),
    # What families differ in, held by the comparison with transformers.
    ("parity", "src/model/kernels/attention.rs", "self.cap.map_or(score, |cap| (score / cap).tanh() * cap)", "score"),
    ("parity", "src/model/network/attention.rs", "Some(most) => flat.clamp(-most, most)?", "Some(_) => flat"),
    ("parity", "src/model/network/transformer.rs", "        scaled(x, self.blueprint.embed_scale)\n", "        Ok(x)\n"),
    ("parity", "src/model/network/transformer.rs", "let logits = scaled(raw, self.blueprint.logit_scale)?;", "let logits = raw;"),
    ("parity", "src/model/network/mlp.rs", "Ok(if self.spec.renormalise {", "Ok(if !self.spec.renormalise {"),
    ("parity", "src/model/checkpoint/assemble.rs", "(stored()? + 1.0)?", "stored()?"),
    ("parity", "src/model/checkpoint/assemble.rs", "(3 * head + i) * b.head_dim", "(head + i * b.heads) * b.head_dim"),
    ("parity", "src/model/network/rope.rs", "(t * rope.magnitude)?", "(t * 1.0)?"),
    ("parity", "src/model/network/rope.rs", "(true, false) => rope_i(", "(true, false) => rope("),
    ("parity", "src/model/network/families/opt.rs", "PositionEncoding::Learned { offset: 2 }", "PositionEncoding::Learned { offset: 0 }"),
    ("parity", "src/model/network/families/smollm3.rs", "layer.rope = rotates.then_some(0)", "layer.rope = Some(0)"),
    # How checkpoints are read.
    ("absent_keys::", "src/model/network/families/rope_config.rs", "let chosen = scaling.or(parameters)", "let chosen = parameters.or(scaling)"),
    ("absent_keys::", "src/model/network/families/config_defaults.rs", "config.insert(key.clone(), known.default.clone());", ""),
    ("loading::another_head", "src/model/checkpoint/assemble.rs", "b.tied = false;", ""),
    ("loading::wrapped", "src/model/checkpoint/weights/names.rs", "let parts: Vec<&str> = name.split('.').filter(|p| !WRAPPERS.contains(p)).collect();", "let parts: Vec<&str> = name.split('.').collect();"),
    ("loading::added_tokens", "src/model/tokenizer/added.rs", "found.sort_by_key(|(id, _)| *id);", ""),
    ("loading::a_bos", "src/model/mod.rs", "if sentences.0.contains(&sentence) {", "if false {"),
    # What keeps edits honest.
    ("honest::an_edit_acts_where_its", "src/lab/conditions.rs", "self.set(row, span.start + i, value);", "self.set(row, i, value);"),
    ("honest::an_edit_acts_where_its", "src/lab/conditions.rs", "t.iter().position(|held| *held == Some(true))", "t.iter().rposition(|held| *held == Some(true))"),
    ("honest::an_edit_acts_where_the", "src/lab/apply.rs", "watch.note(position, stats", "watch.note(position + 1, stats"),
    ("honest::an_edit_acts_where_the", "src/lab/writer.rs", "self.program\n            .set_base_log_probs(self.run.tokens.len() - 1, &stats);", "self.program.set_base_log_probs(self.run.tokens.len(), &stats);"),
    ("honest::no_edit", "src/lab/inactive.rs", "if !here.clone().any(|p| ruled(&p)) {", "if here.clone().any(|p| ruled(&p)) {"),
    # What borrowed names mean, held by what TransformerLens has under them.
    ("names::names_mean", "src/model/network/names.rs", '"blocks.{}.hook_attn_out" AttnAdd Always;', '"blocks.{}.hook_attn_out" AttnOut Always;'),
    ("names::names_mean", "src/model/network/names.rs", '(Some(_), _) => Holds("queries before their norm", Q),', "(Some(_), _) => Is(Q),"),
    ("names::names_mean", "src/model/network/names.rs", "MlpKind::Plain => Is(MlpUp),", "MlpKind::Plain => Is(MlpAct),"),
    ("names::no_other", "src/model/network/names.rs", "(None, _) => Absent,\n        (Some(_), None) => Is(Q),", "(None, _) => Is(Q),\n        (Some(_), None) => Is(Q),"),
    ("names::the_nearest", "src/model/network/address.rs", "(Site::ResidMid, Site::ResidPre),", "(Site::ResidMid, Site::ResidMid),"),
    ("names::edits_say", "src/lab/compile.rs", "let schedule = &schedule.on(&self.model.card.blueprint)?;", ""),
    ("honest::no_edit", "src/model/network/site.rs", "order(self) <= order(other)", "order(self) <= order(other) || true"),
    ("honest::a_group", "src/edit/unit_set.rs", ".filter(|(l, _)| *l == layer)", ".filter(|(l, _)| *l <= layer)"),
    ("honest::equal_edits", "src/edit/intervention.rs", "let back = known.find(|id| !taken.contains(id));", "let back = known.next();"),
    ("honest::receipts_are", "src/lab/apply.rs", "relative: (sum / group.len() as f64) as f32,", "relative: sum as f32,"),
    ("prompts::prompts_of_one", "src/lab/runner/programs.rs", "&& (!bound || before.tokens == run.tokens)", "&& (!bound || true)"),
    ("prompts::edits_prepared", "src/lab/apply.rs", "if read.iter().all(|row| row == own) {", "if !read.is_empty() {"),
    ("prompts::the_beginning", "src/lab/run.rs", "rest.truncate(self.prompt.saturating_sub(tokens));", "rest.clear();"),
    ("prompts::a_name_that", "src/lab/lab.rs", "self.meanings(&names, &mut digest);", ""),
    ("prompts::what_a_condition", "src/lab/runner/tail.rs", "        listen(&mut tap.programs, texts)?;\n", ""),
    ("grammar::a_mark", "src/edit/quotes.rs", "if text.contains(['\"', '“', '”', '„']) {", "if text.contains(['“', '”', '„']) {"),
    ("grammar::what_prints", "src/edit/quotes.rs", "c.is_whitespace() || c.is_control()", "c.is_control()"),
    ("vectors::brought::a_table", "src/edit/direction/row_layers.rs", "*at = Site::ResidPre.at(l)", "*at = Site::ResidPost.at(l)"),
    ("vectors::brought::arrays", "src/model/checkpoint/numpy.rs", "big_endian: descr.starts_with('>'),", "big_endian: false,"),
    ("vectors::brought::a_direction", "src/vectors/contrast.rs", "if self.differs(i, method, noise) && long > 0.0 {", "if long >= 0.0 {"),
    ("vectors::brought::several", "src/edit/direction/mod.rs", "rows.find(|(a, _)| a.layer == address.layer)", "rows.next()"),
    ("honest::lockstep", "src/lab/row_programs.rs", "rows.start.min(batch)..rows.end.min(batch)", "rows.start.min(batch)..batch"),
    ("honest::lockstep", "src/lab/writer.rs", "companion.tokens.push(unedited);", "companion.tokens.push(choice.id);"),
    ("honest::lockstep", "src/lab/token_choice.rs", "BaselineMode::Forced => (unedited, other(wanted, 0)),", "BaselineMode::Forced => (wanted, other(wanted, 0)),"),
    ("honest::a_lockstep_may", "src/lab/writer.rs", "        self.program.forget();\n", ""),
    ("honest::a_turned_value_is", "src/lab/apply.rs", "neurons.as_ref().map_or(&[], |n| n[i].as_slice())", "neurons.as_ref().map_or(&[], |n| n[0].as_slice())"),
    ("honest::a_turned_value_raises", "src/model/network/value_overlay.rs", "added.broadcast_mul(&open)?", "added"),
    ("honest::a_turned_value_raises", "src/model/network/value_overlay.rs", "raised.broadcast_sub(&raised.mean_keepdim(0)?)?", "raised"),
    ("invariants::controls_have", "src/lab/prepare.rs", "list = near_in_size(&named.sizes(at)?, &list, seed);", "let _ = (near_in_size, seed);"),
    # Vectors from demonstrations.
    ("in_context::a_task_vector_put_back", "src/vectors/task_vector.rs", "let wanted: Vec<Address> = (0..layers).map(|l| Site::ResidPost.at(l)).collect();", "let wanted: Vec<Address> = (0..layers).map(|l| Site::ResidPre.at(l)).collect();"),
    ("in_context::function_vectors_of_heads", "src/vectors/function_vector.rs", "let added = transformer.head_added(*layer, &written, means.scales[*layer])?;", "let added = transformer.head_added(*layer, &written, means.scales[*layer])?;\n        let added: Vec<f32> = added.iter().map(|v| v / heads.len() as f32).collect();"),
    ("in_context::what_all_heads_write", "src/model/network/heads.rs", "weight.narrow(1, head * width, width)", "weight.narrow(1, head / 2 * width, width)"),
    ("in_context::what_all_heads_write", "src/model/network/heads.rs", "f64::from(g) * factor", "factor"),
    ("in_context::what_all_heads_write", "src/model/network/heads.rs", "let factor = self.blueprint.residual_scale;\n        let Some(norm)", "let factor = 1.0;\n        let Some(norm)"),
    ("in_context::the_effect", "src/lab/runner/shared.rs", "let program = own.unwrap_or(&shared.program).clone();", "let program = own.cloned().unwrap_or_default();"),
    ("in_context::the_average", "src/vectors/function_vector.rs", "let count = self.prompts.max(1) as f64;", "let count = 1.0;"),
    ("in_context::prompts", "src/vectors/few_shot.rs", ".filter(|p| !without_label || p.output != query.output)", ""),
    ("in_context::prompts", "src/vectors/few_shot.rs", ".filter(|p| p.input != query.input)", ""),
    ("in_context::the_verdict", "src/vectors/evaluate.rs", ".to_dtype(DType::F32)? + value)?", ".to_dtype(DType::F32)? - value)?"),
    ("in_context::a_function_vector_lifts", "src/vectors/evaluate.rs", "random_like(vector, seed)", "vector.clone()"),
    ("in_context::sums", "src/vectors/combine.rs", "terms.push((factor * number, name.to_string()));", "terms.push((number, name.to_string()));"),
    ("in_context::answer", "src/vectors/contrast.rs", "Self::Icv | Self::Caa => Site::ResidPost,", "Self::Icv => Site::ResidPost,\n            Self::Caa => Site::ResidPre,"),
    # Directions selected and swept, statistics, meters.
    ("statistics::statistics_are", "src/lab/statistics.rs", "let rows = rows.get(skip..)", "let rows = rows.get(skip.saturating_sub(1)..)"),
    ("statistics::a_file", "src/lab/statistics.rs", "if self.origin.revision == card.revision {", "if !card.revision.is_empty() {"),
    ("meters::meters_are", "src/instruments/steering/meters.rs", "title: layer.to_string(),\n                layer,\n                along: unit(vector),", "title: layer.to_string(),\n                layer,\n                along: vector.to_vec(),"),
    ("meters::the_first", "src/instruments/steering/meters.rs", ".filter(|c| c.anchor.position != Some(0));", ".filter(|c| c.anchor.position.is_some());"),
    ("meters::a_live", "src/instruments/steering/meters.rs", "(dot(row, &meter.along), dot(row, row).sqrt())", "(dot(&row[1..], &meter.along), dot(row, row).sqrt())"),
    ("meters::a_live", "src/figure/column.rs", "                grid.scale = grid.scale.around(more.scale);\n", ""),
    ("selection::", "src/vectors/selection/mod.rs", "(layers as f64 * rules.depth) as usize", "(layers as f64 * rules.depth).ceil() as usize"),
    ("selection::", "src/vectors/selection/measure.rs", "let added = with(Op::Add, EditPlace::At(at));", "let added = with(Op::ProjectOut, EditPlace::At(at));"),
    ("selection::", "src/vectors/selection/mod.rs", "all.min_by(|a, b| score(*a)", "all.max_by(|a, b| score(*a)"),
    ("sweep::every", "src/lab/capture.rs", "let at = list.len().checked_sub(back + 1);", "let at = list.len().checked_sub(back + 2);"),
    ("sweep::the_best", "src/instruments/steering/sweep/plan.rs", "!aim.writes() || outcome.fluency", "!aim.writes() || outcome.fluency < f32::MAX || outcome.fluency"),
    ("sweep::every", "src/instruments/steering/sweep/plan.rs", "*vector = random_like(vector, draw_seed(seed, draw));", "*vector = random_like(vector, draw_seed(seed + 1, draw));"),
    ("sweep::another_direction", "src/instruments/steering/sweep/plan.rs", "map(|x| x * length)", "map(|x| x + 0.0 * length)"),
    # Values put elsewhere.
    ("replace::a_trial", "src/model/kernels/attention.rs", "*sum = if seen.contains(&p) {", "*sum = if seen.contains(&p) && (p > 0 || keys.len() == 1) {"),
    ("replace::a_trial", "src/model/kernels/attention.rs", "start += values.positions;", "start += 0 * values.positions;"),
    ("replace::a_trial", "src/lab/pass.rs", "layer + usize::from(self.at.site == Site::ResidPost)", "layer"),
    ("replace::a_trial", "src/lab/runner/shared.rs", "own > *entry || (own == *entry && !patch.is_block_input())", "own > *entry"),
    ("replace::a_trial", "src/lab/tap.rs", "let line = row * tokens + patch.position - span.start;", "let line = patch.position - span.start;"),
    ("replace::a_trial", "src/lab/tap.rs", "        let x = self.programs.apply(at, x, self.span)?;\n", ""),
    ("replace::logits", "src/lab/runner/shared.rs", "let own = pass.common.iter().chain(&pass.rows[index].patches);", "let own = pass.rows[index].patches.iter();"),
    ("replace::logits", "src/lab/runner/shared.rs", "let x = x.narrow(1, position - span.start, 1)?.contiguous()?;", "let x = x.narrow(1, span.len - 1, 1)?.contiguous()?;"),
    ("replace::a_head", "src/lab/tap.rs", "line * heads + head)?;", "line * heads)?;"),
    ("replace::a_state_put_back", "src/lab/pass.rs", "self.streams.get(usize::from(at.layer) + 1)", "self.streams.get(usize::from(at.layer))"),
    ("replace::texts", "src/lab/runner/shared.rs", "            cache.complete(chunk.rows.len(), &shared.cache)?;\n", ""),
    ("replace::texts", "src/model/network/cache.rs", "let rest = whole.narrow(2, from, count)?;", "let rest = whole.narrow(2, 0, count)?;"),
    ("prompts::rows_under_edits", "src/lab/runner/programs.rs", "from.map_or(position, |from| from.min(position))", "from.map_or(position, |from| from.max(position))"),
    ("prompts::rows_under_edits", "src/lab/runner/programs.rs", "start.entry = start.entry.min(entry);", "start.entry = start.entry.min(entry + 1);"),
    ("prompts::rows_under_edits", "src/lab/runner/programs.rs", "                    if at.site == Site::Embed {\n                        return Ok(None);\n                    }\n", ""),
    ("prompts::rows_under_edits", "src/lab/row_programs.rs", "x.slice_set(&after.contiguous()?, 0, rows.start)?;", "x.slice_set(&after.contiguous()?, 0, 0)?;"),
    ("prompts::a_row_whose", "src/lab/runner/mod.rs", "broken: !fine[row] ||", "broken: false && !fine[row] &&"),
    ("replace::under", "src/lab/runner/programs.rs", "edits.any(|edit| edit.when.is_some())", "edits.any(|_| false)"),
    ("backpatch::every_cell", "src/instruments/backpatch/layer_pairs.rs", "Vector::Other(states) => states[*source].clone(),", "Vector::Other(states) => states[*target].clone(),"),
    ("backpatch::every_cell", "src/instruments/backpatch/layer_pairs.rs", "let value = if renormed && source != target {", "let value = if renormed && source == target {"),
    ("backpatch::is_mended_by", "src/instruments/backpatch/grid.rs", "told_of(score(0, &is_backward)),", "told_of(score(0, &|_| true)),"),
    ("backpatch::is_mended_by", "src/instruments/backpatch/trace.rs", "same: (0..layers).map(|l| read(l * layers + l, k)).collect(),", "same: (0..layers).map(|l| read(l * layers, k)).collect(),"),
    ("backpatch::o1s_table", "src/instruments/backpatch/table.rs", "hops(f) == Some((true, false))", "hops(f) == Some((false, true))"),
    ("backpatch::o1s_table", "src/instruments/backpatch/two_hop.rs", "own: hits(Vector::Own)?,", "own: hits(Vector::Other(&elsewhere))?,"),
    ("backpatch::held", "src/instruments/backpatch/two_hop.rs", "unrelated: hits(Vector::Other(&elsewhere))?,", "unrelated: hits(Vector::Own)?,"),
    ("patching::every", "src/instruments/patching/plan.rs", "                let (base, source) = if self.is_denoising() {\n                    (*corrupt, *clean)", "                let (base, source) = if self.denoise() {\n                    (*corrupt, *clean + 1)"),
    ("patching::every", "src/instruments/patching/plan.rs", "(self.patched - self.base) / (self.source - self.base)", "(self.source - self.patched) / (self.source - self.base)"),
    ("patching::every", "src/instruments/patching/plan.rs", "Self::Attn => Site::AttnOut,", "Self::Attn => Site::MlpOut,"),
    ("patching::heads", "src/instruments/patching/plan.rs", "let head = heads.then_some(spot.column);", "let head = heads.then_some(0);"),
    ("patching::the_control", "src/instruments/patching/plan.rs", "let drawn = random_like(&change, Fingerprint::of([seed].into_iter().chain(place)));", "let drawn = change.clone();\n    let _ = (place, seed);"),
    ("patching::everything_is_the_clean", "src/lab/pairs.rs", "*number += (f64::from(noise) * sigma) as f32;", "let _ = (noise, sigma, number);"),
    ("parity", "src/lab/runner/tail.rs", "        cache.truncate(0);\n    }\n    let start = cache.len();", "    }\n    let start = cache.len();"),
    ("patchscope::a_state_put_where", "src/lab/pass.rs", "            at,\n            position,\n            head: None,", "            at,\n            position: position + 1,\n            head: None,"),
    ("patchscope::a_state_put_last", "src/lab/runner/shared.rs", "        len: 1,\n        ..span\n    });\n    Ok(x)", "        len: 1,\n        ..span\n    });\n    Ok((x + 0.01)?)"),
    ("patchscope::a_tokens_own", "src/lab/tap.rs", "let line = row * tokens + patch.position - span.start;", "let line = row * tokens;"),
    ("patchscope::a_wired_description", "src/instruments/patchscope/sweep.rs", "let taken = row(values, position - first)?;", "let taken = row(values, (position - first).saturating_sub(1))?;"),
    ("patchscope::a_value_acts_once", "src/lab/tap.rs", "let line = row * tokens + patch.position - span.start;", "let line = patch.position - span.start;"),
    ("patchscope::what_is_read", "src/lab/runner/shared.rs", "let mut cache = shared.cache.branch(chunk.from, own)?;", "let mut cache = shared.cache.branch(chunk.from - 1, own)?;"),
    ("patchscope::a_description", "src/instruments/patchscope/extract.rs", ".filter(|j| !look.shares(&looks[*j]))", ".filter(|j| *j < looks.len())"),
    ("patchscope::a_person", "src/instruments/patchscope/sweep.rs", "source.positions[i.min(source.positions.len() - 1)]", "source.positions[0]"),
    ("patchscope::a_map", "src/instruments/patchscope/ridge.rs", "weight[i * d + i] += 1.0;", "weight[i * d + i] += 0.0;"),
    ("patchscope::a_map", "src/instruments/patchscope/fit.rs", "held_out: unexplained_by(&map, &x.held, y, &y.held)?,", "held_out: left(&map, &x.held, y, &x.held)?,"),
    ("patchscope::norm", "src/instruments/patchscope/map.rs", "replaced / length", "length / replaced"),
    ("patchscope::anchors", "src/instruments/patchscope/table.rs", "(Ok(layer), false) => Anchor::layer(layer),", "(Ok(layer), false) => Anchor::cell(layer, position),"),
    ("patchscope::sources", "src/instruments/patchscope/plan.rs", "map_or(Site::Embed.at(0), |l| site.at(l))", "map_or(site.at(0), |l| site.at(l))"),
    ("patchscope::subjects", "src/instruments/patchscope/sweep.rs", "continuations[order[trial / pairs]]", "continuations[trial / pairs]"),
    ("patchscope::a_stopped", "src/instruments/patchscope/sweep.rs", "let note = trials.note();", "let note = None;"),
    # Logits as sums.
    ("residual::the_parts_sum", "src/lab/effect.rs", "Ok(((direction - mean)?, bias - own))", "Ok(((direction - (mean * 0.5)?)?, bias - own))"),
    ("residual::the_parts_sum", "src/instruments/residual/attribution.rs", "let seen = seen.broadcast_mul(&norm.inverse_scale(last)?)?;", "let seen = seen.broadcast_mul(&norm.inverse_scale(&last.narrow(0, 0, 1)?)?)?;"),
    ("residual::the_parts_sum", "src/model/network/transformer.rs", "Ok(own.host_scalar::<f32>()? * self.blueprint.logit_scale as f32)", "Ok(own.host_scalar::<f32>()? * 0.0)"),
    ("residual::every_part_is", "src/model/network/norm.rs", "        self.centred(directions.broadcast_mul(&gain)?)", "        Ok(directions.broadcast_mul(&gain)?)"),
    ("residual::every_part_is", "src/instruments/residual/attribution.rs", "dot += c * *x;", "dot += c * f64::from(*end);"),
    ("residual::heads_and_the_tokens", "src/model/network/heads.rs", "let read = self.before_write(block.norms_attn.output.as_ref(), directions)?;", "let read = self.before_write(None, directions)?;"),
    ("residual::heads_and_the_tokens", "src/instruments/residual/decomposition.rs", "let v = &v[(source * shape.kv_heads + head / group) * width..][..width];", "let v = &v[(source * shape.kv_heads + head % shape.kv_heads) * width..][..width];"),
    ("residual::heads_and_the_tokens", "src/instruments/residual/decomposition.rs", "values.push((prob * dot(view, v) * scales[i]) as f32);", "values.push((prob * dot(view, v)) as f32);"),
    ("residual::neurons_sum", "src/instruments/residual/decomposition.rs", "let scale = |row: &Vec<f32>| f64::from(transformer.write_factor(layer, row));", "let scale = |_: &Vec<f32>| 1.0;"),
    ("residual::neurons_sum", "src/model/network/heads.rs", "let directions = (directions * factor)?;", "let directions = (directions * factor.sqrt())?;"),
    ("residual::what_edits", "src/instruments/residual/attribution.rs", "if touched.contains(&mid) {", "if false && touched.contains(&mid) {"),
    ("residual::what_edits", "src/instruments/residual/attribution.rs", "if touched.contains(&pre) {", "if touched.contains(&pre) && layer > 5 {"),
    ("residual::what_edits", "src/instruments/residual/mod.rs", "let points = kept.iter().map(|k| header(sum.parts[*k])).collect();", "let points = kept.iter().map(|k| Header { anchor: anchor(sum.parts[*k], sum.positions[0]), ..header(sum.parts[*k]) }).collect();"),
    ("residual::the_first", "src/instruments/residual/mod.rs", "positions.len() == 1 || **p > 0", "positions.len() == 1 || **p < usize::MAX"),
    ("residual::a_stream", "src/instruments/residual/attribution.rs", "if model.transformer.blueprint.arrangement != BlockOrder::NormedStream {", "if model.card.layers > 0 || model.transformer.blueprint.arrangement != BlockOrder::NormedStream {"),
    # Attention: what is read, scores, cuts.
    ("attention::patterns", "src/instruments/attention/edges.rs", "let v = v.narrow(1, head / group, 1)?", "let v = v.narrow(1, head % transformer.blueprint.kv_heads, 1)?"),
    ("attention::patterns", "src/instruments/attention/mod.rs", "(shown.end - 1 - row, shown.start + column)", "(shown.start + row, shown.start + column)"),
    ("attention::the_strongest", "src/instruments/attention/edges.rs", "let skip = usize::from(apart && query > 0);", "let skip = usize::from(apart && query > 1);"),
    ("attention::a_sink", "src/instruments/attention/mod.rs", "grid.cells.iter().skip(apart).flatten()", "grid.cells.iter().skip(0 * apart).flatten()"),
    ("attention::i23", "src/instruments/attention/head_scores.rs", ".filter(|j| tokens[j - 1] == tokens[query])", ".filter(|j| tokens[*j] == tokens[query])"),
    ("attention::i23", "src/instruments/attention/head_scores.rs", "let seen = window.map_or(query + 1, |w| w.min(query + 1));", "let seen = window.map_or(query + 1, |_| query + 1);"),
    ("attention::a_cut_hides", "src/lab/knockout.rs", "(first..query).partition", "(first..query + 1).partition"),
    ("attention::a_cut_hides", "src/lab/knockout.rs", "(1.0 - self.strength).ln()", "(1.0 - self.strength)"),
    ("attention::a_cut_hides", "src/lab/knockout.rs", "for head in (0..heads).filter(|h| chosen(*h)) {", "for head in 0..heads {\n                    let _ = chosen(head);"),
    ("attention::a_cut_holds", "src/lab/knockout.rs", "let hidden = self.hidden_sources(span.start + token, prompt);", "let hidden = self.hidden_sources(token, prompt);"),
    ("attention::a_cut_holds", "src/lab/knockout.rs", "/ (2.0 * count as f64)", "/ count as f64"),
    ("attention::a_cell", "src/lab/tap.rs", "let hidden = cut.hidden(layer, self.span.start + token, window);", "let hidden = cut.hidden(layer, token, window);"),
    ("attention::a_cell", "src/lab/runner/shared.rs", "let program = own.unwrap_or(&shared.program).clone();", "let program = own.cloned().unwrap_or_default();"),
    ("attention::a_cell", "src/instruments/knockout/plan.rs", "let first = layer.saturating_sub((self.window - 1) / 2);", "let first = layer.saturating_sub(self.window / 2);"),
    ("attention::the_demo_s", "src/instruments/attention/head_scores.rs", "each: vec![text.tokens[text.first + text.period + 1..].to_vec()],", "each: vec![text.tokens[text.first + text.period..end].to_vec()],"),
    # Models wired by hand.
    ("organisms::two_hop::out_of_order", "src/lab/tap.rs", "let line = row * tokens + patch.position - span.start;", "let line = row * tokens + (patch.position - span.start).saturating_sub(1);"),
    ("organisms::two_hop::forgets", "src/lab/knockout.rs", "(first..query).partition(|source| covers(*source));", "(first..query).partition(|source| covers(*source + 1));"),
    ("organisms::backpatch::backpatch_finds", "src/instruments/backpatch/layer_pairs.rs", "Vector::Own => own[*source].clone(),", "Vector::Own => own[source.saturating_sub(1)].clone(),"),
    ("organisms::backpatch::the_control_of", "src/instruments/backpatch/layer_pairs.rs", "Vector::Other(states) => states[*source].clone(),", "Vector::Other(states) => states[*target].clone(),"),
    ("organisms::induction::attention", "src/instruments/attention/head_scores.rs", ".filter(|j| tokens[j - 1] == tokens[query])", ".filter(|j| tokens[*j] == tokens[query])"),
    ("organisms::backpatch::backpatch_traces", "src/instruments/backpatch/trace.rs", "let own = block_outputs(lab, run, *position)?;", "let own = states(lab, run, position.saturating_sub(1))?;"),
    ("organisms::patching::patching", "src/instruments/patching/plan.rs", "Self::Resid => Site::ResidPre,", "Self::Resid => Site::ResidPost,"),
    ("organisms::sink::a_sink_changes_no_patching", "src/instruments/patching/case.rs", "embedding_spread(lab, &run.tokens[positions.clone()])?", "embedding_spread(lab, &run.tokens)?"),
    ("organisms::bilingual::languages", "src/instruments/logit_lens/word_lists.rs", 'for spelled in [word.clone(), format!(" {word}")]', "for spelled in [word.clone(), word.clone()]"),
    ("organisms::two_hop::shows", "src/instruments/logit_lens/lens_view.rs", "at: (0..layers).map(|l| self.site.at(l)).collect(),", "at: (0..layers).map(|l| Site::ResidPre.at(l)).collect(),"),
    ("organisms::repair::residual", "src/instruments/residual/decomposition.rs", "let heads = view.chunks(width).zip(z.chunks(width));", "let heads = view.chunks(width).rev().zip(z.chunks(width));"),
    ("organisms::sink::a_sink_changes_no_figure", "src/instruments/residual/mod.rs", "positions.len() == 1 || **p > 0", "positions.len() == 1 || **p < usize::MAX"),
    ("organisms::sink::a_sink_changes_no_figure", "src/instruments/steering/meters.rs", ".filter(|c| c.anchor.position != Some(0));", ".filter(|c| c.anchor.position.is_some());"),
    ("organisms::sink::a_sink_changes_no_mean", "src/lab/statistics.rs", "let rows = rows.get(skip..)", "let rows = rows.get(skip.saturating_sub(1)..)"),
    ("organisms::echo::an_unrelated", "src/lab/edit_effects.rs", 'tokenizer.encode("", Bos::Add)', 'tokenizer.encode("", Bos::Raw)'),
    # Lenses.
    ("lens::a_grid_is_every_cell", "src/model/kernels/vocabulary/mod.rs", "*z += bias;", "let _ = (&z, bias);"),
    ("lens::a_grid_is_every_cell", "src/model/kernels/vocabulary/strip.rs", "sums.cross / sums.mass - theirs + total", "sums.cross / sums.mass - theirs - total"),
    ("lens::a_grid_is_every_cell", "src/lab/unembed.rs", "OtherRow::Row(self.finals + i)", "OtherRow::Row(self.finals)"),
    ("lens::a_multiplier", "src/model/kernels/vocabulary/strip.rs", "let mut z = S::mul(S::load(at), S::splat(scale.scale));", "let mut z = S::load(at);"),
    ("lens::a_soft_cap_keeps", "src/model/kernels/vocabulary/strip.rs", "z = S::mul(tanh::<S>(S::mul(z, S::splat(1.0 / cap))), S::splat(cap));", "let _ = (cap, tanh::<S>);"),
    ("lens::strips", "src/model/kernels/vocabulary/strip.rs", "less * (sums.first + by * sums.sum)", "less * sums.first"),
    ("lens::strips", "src/model/kernels/vocabulary/strip.rs", "sums.sum = less * sums.sum + own * strip.sum;", "sums.sum += own * strip.sum;"),
    ("lens::strips", "src/model/kernels/vocabulary/strip.rs", "if top <= worst {", "if next == 0 {"),
    ("lens::strips", "src/model/kernels/vocabulary/strip.rs", "S::greater(S::load(numbers.as_ptr().add(k)), S::splat(than))", "!S::greater(S::splat(than), S::load(numbers.as_ptr().add(k)))"),
    ("lens::writes_with", "src/model/network/norm.rs", "        let out = match &self.bias {\n            Some(bias) => out.broadcast_add(bias)?,\n            None => out,\n        };\n        Ok(out.to_dtype(x.dtype())?)", "        Ok(out.to_dtype(x.dtype())?)"),
    ("lens::the_final_norm", "src/lab/unembed.rs", "NormOf::Final => Some(scale),", "NormOf::Final => None,"),
    ("lens::sublayers", "src/instruments/logit_lens/lens_view.rs", "at: (0..layers).map(|l| self.site.at(l)).collect(),", "at: (0..layers).map(|l| Site::ResidPost.at(l)).collect(),"),
    ("lens::live_columns", "src/lab/lens_rows.rs", "finals: row(&end),", "finals: row(&readout.at[0]),"),
    ("lens::a_difference", "src/figure/difference.rs", "            _ => other,\n", "            _ => 0.0,\n"),
    ("attention::differences", "src/figure/difference.rs", "base.named(name).unwrap_or(unlisted)", "unlisted"),
    ("residual::a_difference", "src/figure/difference.rs", "    ensure_equal(&a.value, &b.value)?;\n    let titles", "    let titles"),
    ("residual::a_difference", "src/figure/difference.rs", "label == \"edits\" || label.starts_with(\"edit \")", "label == \"edits\""),
    ("residual::a_grid", "src/instruments/residual/mod.rs", "column.anchor = column.anchor.with(Unit::Token(target.token));", "let _ = (&column, target);"),
    ("residual::a_live", "src/figure/column.rs", "            self.title = next.title;\n", ""),
    ("residual::a_live", "src/figure/column.rs", "            self.notes = next.notes;\n", ""),
    ("lens_curves::answers_settle", "src/lab/capture.rs", "(0..self.layers.len()).rev().take_while(agree).last()", "(0..self.layers.len()).find(agree)"),
    ("lens_curves::curves_are", "src/instruments/logit_lens/track.rs", "1.0 / (token.rank() + 1.0)", "1.0 / token.rank as f32"),
    ("lens_curves::without_names", "src/instruments/logit_lens/track.rs", "run.clone().until(position + 1)", "run.clone()"),
    ("lens_curves::the_demo_thinks", "src/instruments/logit_lens/languages.rs", "set.iter().map(share).sum::<f64>() as f32", "set.iter().take(1).map(share).sum::<f64>() as f32 * 0.5"),
    ("lens_files::a_tuned_lens_meets", "src/instruments/logit_lens/lens_file.rs", "            return Ok(layer + 1);", "            return Ok(layer);"),
    ("lens_files::a_tuned_lens_of_zeros", "src/instruments/logit_lens/lens_file.rs", "Kind::Tuned => (wide + mapped)?,", "Kind::Tuned => mapped,"),
    ("lens_files::a_jacobian", "src/instruments/logit_lens/lens_file.rs", "self.tensor(weight, rows)?.t()?", "self.tensor(weight, rows)?"),
    ("lens_files::a_jacobian", "src/instruments/logit_lens/lens_file.rs", "\"attn_in\" | \"resid_pre\" => Ok(0),", "\"attn_in\" | \"resid_pre\" => Ok(1),"),
    # Replaced states: what is asked beside the run.
    ("patching::a_corrupted_prompt", "src/lab/pairs.rs", "lab.model.encode(corrupt, self.chat)?", "lab.model.encode(corrupt, false)?"),
    ("patching::heads_are_patched_in_every", "src/instruments/patching/case.rs", "let at = differ.iter().find(|pair| pair.0 == at);", "let at = pairs.iter().find(|pair| pair.0 == at);"),
    ("backpatch::an_unrelated_prompt", "src/instruments/backpatch/mod.rs", "lab.model.encode(text, self.chat)?", "lab.model.encode(text, false)?"),
    ("backpatch::is_mended_by", "src/instruments/backpatch/layer_pairs.rs", "id_of(text).map_or_else(|| text.clone(), |id| letters(lab, id))", "id_of(text).map_or_else(|| text.clone(), |_| text.clone())"),
    ("backpatch::an_end", "src/instruments/backpatch/layer_pairs.rs", "tokens.is_some() && (end.is_some() || spellings.is_empty())", "tokens.is_some() && spellings.is_empty()"),
    ("backpatch::what_cannot", "src/instruments/backpatch/trace.rs", "params.position == PatchPlace::Auto && params.entity.is_none()", "matches!(params.position, PatchPlace::Auto | PatchPlace::Entity) && params.entity.is_none()"),
    ("patchscope::other_sources", "src/instruments/patchscope/plan.rs", "lab.model.encode(subject.text(), self.params.chat)?", "lab.model.encode(subject.text(), false)?"),
    ("patchscope::a_token_that", "src/lab/target.rs", "if (first as usize) >= known {", "if (first as usize) > known {"),
    ("patchscope::what_a_sweep", "src/instruments/patchscope/parameters.rs", ".map(|s| s.1)", ".and_then(|s| s.1.rsplit(&template.placeholder).next())"),
    ("patchscope::the_control_counts", "src/instruments/patchscope/extract.rs", ".filter(|j| !look.shares(&looks[*j]))", ".filter(|j| look != &looks[*j])"),
    ("patchscope::scores", "src/instruments/patchscope/extract.rs", "if found.note.is_none() {", "if found.note.is_some() {"),
    ("scripts::every_script", "src/app/requests.rs", "pop_if(|(slot, _)| *slot == self.layout.figure)?;", "pop_if(|(slot, _)| *slot != self.layout.figure)?;"),
    ("backpatch::a_table_asks", "src/instruments/backpatch/two_hop.rs", "encode(&other.prompt, self.chat)", "encode(&other.prompt, false)"),
    ("engine::a_live_sum", "src/engine/worker/changes.rs", ".rows_follow_edits() {", ".rows_follow_edits() && false {"),
    ("engine::a_stopped_question", "src/engine/worker/mod.rs", "self.tell(Update::Dropped(question.instrument));", "drop(question);"),
    ("scripts::every_script_plays", "src/app/updates.rs", "figure.provenance.tokens.len() > left", "figure.provenance.tokens.len() > left + 1"),
    ("scripts::every_script_plays", "src/app/updates.rs", "s.refused.clone_from(&problem);", "s.refused = None;"),
    ("attention::a_knockout_is_about", "src/instruments/knockout/parameters.rs", "!matches!(rule, Positions::Prompt | Positions::Generated)", "false"),
    ("attention::a_knockout_is_about", "src/instruments/knockout/plan.rs", "self.params.value.of(logprob, own.logprob).abs()", "-self.params.value.of(logprob, own.logprob)"),
    ("attention::copying_keeps", "src/instruments/attention/scores.rs", "edits.iter().fold(run.schedule.clone(),", "edits.iter().fold(crate::lab::schedule::Schedule::none(),"),
    ("lens_files::layers_without", "src/instruments/logit_lens/lens_file.rs", "(site, l + 1) != (Site::ResidPost, layers)", "*l > 0 || site == Site::ResidMid"),
    ("lens_curves::a_task", "src/instruments/logit_lens/languages.rs", "from.unwrap_or(0)", "from.map_or(0, |_| last)"),
    # Inputs that lie: what is accepted prints and reads back.
    ("lies::inputs", "src/edit/grammar.rs", 'write!(f, "*{}", self.strength)?;', 'write!(f, "*{:.0}", self.strength)?;'),
    # The screen and the world.
    ("sizes::every_state", "src/ui/paint.rs", "    if !buf.area.contains(Position { x, y }) {\n        return x;\n    }\n", ""),
    ("outside::a_signal_ends", "src/cli/mod.rs", "return ExitCode::from(128 + *number as u8)", "return ExitCode::SUCCESS"),
    ("outside::a_cut_sequence", "src/ui/decode.rs", "PasteState::Open(_) => return Some(PAUSE),", "PasteState::Open(_) => return None,"),
    ("residual::a_stream_that_is_normed", "src/instruments/residual/mod.rs", " && !card.norms_stream", ""),
    ("finite::a_broken_model", "src/lab/finite_guard.rs", "            strict: true,", "            strict: false,"),
    ("finite::a_check_of", "src/figure/mod.rs", "if apart > error || apart.is_nan() {", "if apart > error {"),
    ("finite::an_edit_that_is_too_strong", "src/lab/formulas/mod.rs", "    squares.is_finite()\n", "    !squares.is_nan()\n"),
    ("finite::a_cell_that_overflows", "src/figure/mod.rs", "        if bad == 0 {\n            return;", "        if bad < usize::MAX {\n            return;"),
    # Gradients, and what is made of them.
    ("gradient::blocks_one_by_one", "src/lab/runner/backward.rs", "stream.slice_set(&own.contiguous()?, 1, at)?;", "stream.slice_set(&own.contiguous()?, 1, 0)?;"),
    ("gradient::blocks_one_by_one", "src/lab/runner/backward.rs", "whole.narrow(axis, position - positions.start, 1)?", "whole.narrow(axis, 0, 1)?"),
    ("gradient::blocks_one_by_one", "src/model/network/adjoint/block.rs", "self.normed(self.attn_output.as_ref(), &mut a);", ""),
    ("gradient::blocks_one_by_one", "src/model/network/adjoint/block.rs", "(Some(read), BlockOrder::ParallelSharedNorm) => add(&read, &mut h),", "(Some(_), BlockOrder::ParallelSharedNorm) => {}"),
    ("gradient::blocks_one_by_one", "src/model/network/adjoint/attention.rs", "sin: numbers(&sin.neg()?)?,", "sin: numbers(sin)?,"),
    ("gradient::blocks_one_by_one", "src/model/kernels/adjoint.rs", "let of_score = probs[s] * (of_probs[s] - along);", "let of_score = probs[s] * of_probs[s];"),
    ("gradient::blocks_one_by_one", "src/model/kernels/adjoint.rs", "1.0 - part * part", "1.0 - part"),
    ("gradient::the_plain_graph", "src/model/network/mlp.rs", "Activation::Gelu if x.track_op() => {", "Activation::Gelu if x.track_op() && x.rank() == 9 => {"),
    ("gradient::several_vectors", "src/lab/runner/adjoint.rs", "let vector = &seeds.numbers[i % seeds.count() * width..][..width];", "let vector = &seeds.numbers[..width];"),
    ("gradient::edits_act", "src/lab/runner/adjoint.rs", "&& !sites_of(self.model, block).any(|at| tap.run.wants(at))", ""),
    ("model::kernels::tests_of_rows::many_rows_go_back_as_one_by_one", "src/model/kernels/backward.rs", "again: k > 0,", "again: false,"),
    ("model::kernels::tests_of_rows::slopes_are_those_of_the_formula", "src/model/kernels/rows.rs", "let rest = S::mul(share, S::minus(one, share));", "let rest = share;"),
    ("gradient::edits_act", "src/lab/apply.rs", "if on_host && !flat.track_op() {", "if on_host {"),
    # Features as handles.
    ("dictionaries::handles::what_the_dictionary", "src/dictionaries/handles.rs", ".map(|norm| if undone { norm.back } else { 1.0 })", ".map(|norm| if undone { norm.scale } else { 1.0 })"),
    ("dictionaries::handles::a_feature_that_is_set", "src/lab/formulas/dictionary.rs", "if shift != 0.0 {", "if shift != 1.0 {"),
    ("dictionaries::handles::a_splice", "src/lab/formulas/dictionary.rs", "if *x == *to {", "if false {"),
    ("dictionaries::handles::rows_that_share", "src/lab/runner/programs.rs", "if self.reads_another_block(edit)? {", "if false && self.reads_another_block(edit)? {"),
    ("dictionaries::handles::logits_are", "src/lab/feature_edits.rs", "let counted = &rows[usize::from(rows.len() > 1)..];\n            let mean", "let counted = &rows[..];\n            let mean"),
    ("dictionaries::handles::logits_are", "src/lab/apply_dictionary.rs", "all.as_deref().unwrap_or(own)[i * width..]", "all.as_deref().unwrap_or(own)[0 * i * width..]"),
    ("dictionaries::handles::gradients_pass", "src/lab/formulas/dictionary.rs", "let shift = ((activations * active)? * *slope)?", "let shift = ((activations.detach() * active)? * *slope)?"),
    ("dictionaries::handles::a_number_behind", "src/lab/named_features.rs", "Err(_) if is_direction => return Ok(None),\n            Err(error)", "Err(_) if is_direction && false => return Ok(None),\n            Err(error)"),
    ("dictionaries::handles::receipts_have", "src/lab/feature_edits.rs", "if pool.len() < 2 * features.len() ||", "if pool.len() > features.len() ||"),
    ("dictionaries::handles::what_is_not_finite", "src/lab/apply_dictionary.rs", "&& read.all(|x| formulas::has_length(&x))", "|| read.all(|x| !x.is_empty())"),
    ("gradient::rows_with_patches", "src/lab/tap.rs", "return Ok(places.ne(0f32)?.where_cond(&values, &x)?);", "let _ = (places, values);\n        return Ok(x);"),
    ("gradient::scalars_are", "src/lab/runner/backward.rs", "let shares: Vec<f32> = shares.into_iter().map(|p| p as f32).collect();", "let shares: Vec<f32> = shares.into_iter().map(|p| p.sqrt() as f32).collect();"),
    ("saliency::every_method", "src/instruments/saliency/path.rs", "*sum += weight * slope);", "*sum += 0.9 * weight * slope);"),
    ("instruments::saliency::path::points_lie", "src/instruments/saliency/path.rs", "pieces.sort_by(|a, b| b.0.total_cmp(&a.0));", ""),
    ("saliency::every_method", "src/instruments/saliency/methods.rs", "Some(places) => (baseline + places)?,", "Some(_) => baseline,"),
    ("saliency::the_mean_baseline", "src/instruments/saliency/methods.rs", "(sum / count) as f32", "*sum as f32"),
    ("knowledge::attributions_are", "src/instruments/knowledge/integrated.rs", "None => f64::from(gradient.scalar).exp(),", "None => 1.0,"),
    ("knowledge::attributions_are", "src/instruments/knowledge/integrated.rs", "Self::Right => k as f64 + 1.0,", "Self::Right => k as f64,"),
    ("knowledge::attributions_are", "src/instruments/knowledge/fact_neurons.rs", "sum.kept += usize::from(*score >= least && *score > 0.0);", "sum.kept += usize::from(*effect >= least && *effect > 0.0);"),
    ("knowledge::a_layers_attributions", "src/instruments/knowledge/integrated.rs", "f64::from(*act) * sum / path.steps as f64", "sum / path.steps as f64"),
    ("knowledge::a_layers_attributions", "src/instruments/knowledge/integrated.rs", "Some(_) => Scalar::Logit(target),", "Some(_) => Scalar::LogProbability(target.token),"),
    ("knowledge::the_demos_facts", "src/instruments/knowledge/fact.rs", "let others = near_in_size(&sizes, &units, draw_seed(run.seed, draw));", "let others = units.clone();"),
    ("knowledge::edit_value_holds", "src/instruments/knowledge/value_edit.rs", "direct: direct.next(),", "direct: None,"),
    ("saliency::gradient_alone", "src/instruments/saliency/methods.rs", "*sum += x * x);", "*sum += x);"),
    ("saliency::it_follows", "src/instruments/mod.rs", "all.with(name, value)", "{\n            let _ = (name, value);\n            all\n        }"),
    ("engine::what_follows", "src/engine/worker/mod.rs", "} else if self.goal.is_none() && !self.following.is_empty() {", "} else if !self.following.is_empty() {"),
    ("engine::what_follows", "src/engine/worker/following.rs", "self.lab()?.cancel = hurry;", "let _ = hurry;"),
    ("engine::what_follows", "src/engine/worker/following.rs", "self.following.insert(0, question);", "drop(question);"),
    ("scripts::every_script", "src/app/following.rs", "self.transcript.busy() || ", ""),
    ("scripts::every_script", "src/app/following.rs", "shown.asked_at.as_ref() == Some(&about)", "false"),
    ("scripts::every_script", "src/app/following.rs", "|| shown.failed.is_some()", ""),
    ("scripts::every_script", "src/app/following.rs", "|| by_hand", "|| by_hand && false"),
    ("screens::tokens_are_coloured", "src/ui/panes/tokens.rs", "(2.0 * place - 1.0).abs()", "place"),
    ("figure::by_token::a_table_has", "src/figure/by_token.rs", "numbers.iter().skip(usize::from(numbers.len() > 1))", "numbers.iter()"),
    ("finite::a_text_survives", "src/lab/writer.rs", "                self.program.abandon();\n", ""),
    # Linear relations.
    ("relation::a_jacobian_is", "src/vectors/relation/jacobian.rs", "positions: vec![at],", "positions: vec![at + 1],"),
    ("relation::after_the_last", "src/vectors/relation/states.rs", "Site::ResidPost.at(model.card.layers - 1)", "Site::FinalNorm.at(0)"),
    ("relation::the_map_of_one", "src/vectors/relation/fit.rs", "(f64::from(*o) - x) as f32", "(f64::from(*o) - 2.0 * x) as f32"),
    ("relation::a_subject_has_no_part", "src/vectors/relation/fit.rs", "*j != i || count == 1", "*j != i || count > 0"),
    ("relation::a_subject_is_found", "src/vectors/relation/states.rs", ".rposition(|w| w == wanted)", ".position(|w| w == wanted)"),
    ("relation::map_faithfulness", "src/edit/relation_map.rs", "let share = along / (value * value);", "let share = along / value;"),
    ("relation::map_faithfulness", "src/vectors/relation/fit.rs", "let mean = sum.iter().map(|x| (x / count as f64) as f32);", "let mean = sum.iter().map(|x| *x as f32);"),
    ("relation::a_map_is_saved", "src/lab/named_vectors.rs", ".map(|(a, b)| a - b).collect();\n        let rank", ".map(|(a, b)| b - a).collect();\n        let rank"),
    ("relation::a_map_is_saved", "src/instruments/relation/attribute_lens.rs", "* map.origin.beta)?", "* 1.0)?"),
    ("organisms::relation::an_edit", "src/edit/relation_map.rs", ".take(rank)", ".skip(1).take(rank)"),
    ("organisms::relation::the_instrument", "src/instruments/relation/causality.rs", "ChangeKind::Random => plus(&random_like(&implied(), self.seed)),", "ChangeKind::Random => plus(&implied()),"),
    ("edit::spectrum::what_a_matrix", "src/edit/spectrum.rs", "const ROUNDING: f64 = 1e-7;", "const ROUNDING: f64 = 1e-30;"),
    ("vectors::proportion::intervals", "src/vectors/proportion.rs", "p + square / 2.0", "p + square"),
    ("vectors::relation::pairs::no_subject", "src/vectors/relation/pairs.rs", "let mut rest = shuffled.split_off(training);", "let mut rest = shuffled.clone();"),
    # Dictionaries.
    ("dictionaries::features_and_reconstructions", "src/dictionaries/norms.rs", "(count - 1.0).max(1.0)", "count"),
    ("dictionaries::features_and_reconstructions", "src/dictionaries/norms.rs", "back: deviation as f32,", "back: 1.0,"),
    ("dictionaries::features_and_reconstructions", "src/dictionaries/dictionary.rs", "row.iter_mut().zip(less).for_each(|(x, b)| *x -= b);", "let _ = less;"),
    ("dictionaries::features_and_reconstructions", "src/dictionaries/dictionary.rs", "skip.add_products(x, &mut sums, report)?;", "let _ = skip;"),
    ("dictionaries::features_and_reconstructions", "src/dictionaries/formats/llama_scope.rs", "        dictionary.fold_decoder_norms_watched(source.report)?;", "        let _ = unit;"),
    ("dictionaries::features_and_reconstructions", "src/dictionaries/formats/gemma_scope.rs", "dictionary.fold_input_scale((width as f32).sqrt().recip());", "dictionary.fold_input_scale((width as f32).sqrt());"),
    ("dictionaries::features_and_reconstructions", "src/dictionaries/formats/dictionary_learning.rs", '"JumpReluAutoEncoder" => ("b_dec", false),', '"JumpReluAutoEncoder" => ("b_dec", true),'),
    ("dictionaries::features_and_reconstructions", "src/dictionaries/formats/sparsify.rs", "    if !transcode {\n        read.less", "    if transcode {\n        read.less"),
    ("dictionaries::gate::each_gate", "src/dictionaries/gate.rs", ".filter(|(f, h)| **h > threshold(*f))", ".filter(|(f, h)| **h >= threshold(*f))"),
    ("dictionaries::gate::each_gate", "src/dictionaries/gate.rs", "kept.filter(|(_, h)| *h > 0.0).collect()", "kept.collect()"),
    ("dictionaries::folding_decoder_norms", "src/dictionaries/gate.rs", "Self::JumpRelu(thresholds) => Self::JumpRelu(times(thresholds)),", "Self::JumpRelu(thresholds) => Self::JumpRelu(thresholds.clone()),"),
    ("dictionaries::a_crosscoder", "src/dictionaries/formats/crosscoder.rs", "(f64::from(threshold) / n) as f32", "threshold"),
    ("dictionaries::cross_layer", "src/dictionaries/matrix.rs", "start: target * width,", "start: 0,"),
    ("dictionaries::hostile::archives", "src/model/checkpoint/tensor_file.rs", "if size > MOST {", "if false {"),
    ("dictionaries::hostile::archives", "src/model/checkpoint/tensor_file.rs", "    if header.start + count * number.width() != size {", "    if false {"),
    ("dictionaries::features::layers_of_a_cross_layer", "src/instruments/features/reconstruction.rs", "made.iter_mut().zip(sums).for_each(|(m, s)| *m += s);", "made.iter_mut().zip(sums).for_each(|(m, s)| *m = s);"),
    ("dictionaries::features::features_and_what", "src/instruments/features/pages.rs", "(act.abs() * norm, *f, *act)", "(act.abs(), *f, *act)"),
    ("dictionaries::features::what_is_before", "src/model/network/transformer.rs", "norm.gained(&normed, x.dtype(), gradients)", "Ok(normed.to_dtype(x.dtype())?)"),
    ("dictionaries::large::tens", "src/dictionaries/matrix.rs", "if self.tensor.bytes().len() > LARGE {", "if false {"),
    # Texts, lists, conversations and probes.
    ("score::it_is_what", "src/instruments/score/windows.rs", "begin += stride.min(room);", "begin += room;"),
    ("instruments::score::windows::each_token", "src/instruments/score/windows.rs", "let room = window - usize::from(again.is_some());", "let room = window;"),
    ("score::a_list_is", "src/instruments/score/figure.rs", "(of.mean() - plain.mean()) as f32", "(plain.mean() - of.mean()) as f32"),
    ("score::a_list_is", "src/instruments/score/measure.rs", "let control = |draw| run.schedule.control(draw_seed(run.seed, draw));", "let control = |_: usize| Schedule::none();"),
    ("score::a_list_is", "src/lab/row_programs.rs", "if own.is_some_and(|part| part.rows.start < row) {", "if own.is_some_and(|part| part.rows.end < row) {"),
    ("score::an_edit_that", "src/edit/receipt.rs", "} else if receipt.fired == 0 {", "} else if receipt.fired > 1 << 40 {"),
    ("lab::bootstrap::an_interval", "src/lab/bootstrap.rs", "rng.random_range(0..count)", "rng.random_range(0..count.div_ceil(2))"),
    ("conversations::a_conversation", "src/model/mod.rs", ".take_while(|(a, b)| a == b)", ".take_while(|(a, b)| a != b)"),
    ("conversations::the_begin", "src/model/tokenizer/encoding.rs", "ids.drain(..usize::from(added));", "ids.drain(..1);"),
    ("conversations::a_system", "src/model/tokenizer/template/mod.rs", "given.into_iter().chain(specials).chain(arguments)", "given.into_iter().chain(specials).chain(arguments.take(0))"),
    ("conversations::a_prompt", "src/cli/arguments.rs", "let line = whole.strip_suffix('\\n').unwrap_or(&whole);", "let line = whole.as_str();"),
    ("model::tokenizer::encoding::turns", "src/model/tokenizer/encoding.rs", "turns.insert(0, Message::new(\"system\", system));", "turns.push(Message::new(\"system\", system));"),
    ("ui::cast::frames_and", "src/ui/cast.rs", "            self.size = size;\n", ""),
    ("pty::a_recording", "src/ui/terminal.rs", "                self.repaint();\n                Ok(format!(", "                Ok(format!("),
    ("engine::a_listed_prompt", "src/lab/prompt_list.rs", "PromptText::Plain(text) if chat => GivenPrompt", "PromptText::Plain(text) if !chat => GivenPrompt"),
    ("prompt_lists::each_prompt", "src/lab/prompt_list.rs", "PositionRole::Last => Ok(all.saturating_sub(1)..all),", "PositionRole::Last => Ok(0..1),"),
    ("prompt_lists::each_prompt", "src/lab/prompt_list.rs", "Ok(span.end - 1..span.end)", "Ok(span.start..span.start + 1)"),
    ("prompt_lists::an_answer", "src/lab/prompt_values.rs", "(sum / count) as f32", "sum as f32"),
    ("prompt_lists::a_stopped", "src/cli/trace/list.rs", "kept.filter(|kept| kept.key == key)", "kept.filter(|kept| kept.key != key)"),
    ("model::checkpoint::array_file::archives", "src/model/checkpoint/array_file.rs", "crc.update(piece);", "crc.update(&piece[1..]);"),
    ("vectors::probe::the_area", "src/vectors/labels.rs", "f64::midpoint(less as f64, most as f64)", "most as f64"),
    ("vectors::probe::a_logistic", "src/vectors/probe.rs", "a - step * (slope + PENALTY * a)", "a - step * slope"),
    ("probe::a_planted", "src/instruments/probe/measure.rs", "let labels = shuffled(&own, draw_seed(run.seed, draw));", "let (labels, _) = (own.clone(), draw_seed(run.seed, draw));"),
    ("vectors::probe::several_classes", "src/vectors/probe.rs", "classes.iter().map(|own| *own == class)", "classes.iter().map(|own| *own >= class)"),
    ("probe::several_classes", "src/instruments/probe/measure.rs", "positions: own.start - back..own.end - back,", "positions: own.clone(),"),
    ("probe::the_saved", "src/instruments/steering/meters.rs", "value * length + bias", "value + bias"),
    ("attention::text_opens", "src/instruments/attention/edges.rs", "norm(added) / norm(&stream)", "norm(added)"),
    ("export::text::a_grid_opens", "src/export/text.rs", "opening.rows.binary_search(&row).is_ok()", "opening.rows.binary_search(&row).is_ok() || row > 0"),
    # Sessions that come back.
    ("app::session::recorded::every_recorded", "src/app/session/lines.rs", "                until: question.until,\n                other: question.other.clone(),", "                until: None,\n                other: question.other.clone(),"),
    ("app::session::recorded::the_screen_comes", "src/app/session/recorded.rs", "Line::Screen(screen) => out.screen = Some(*screen),", "Line::Screen(screen) => drop(screen),"),
    ("app::session::recorded::what_was_written", "src/app/session/recorded.rs", "requests.retain(|(number, _)| !failed.contains(number));", "requests.retain(|(number, _)| *number > 1 || !failed.contains(number));"),
    ("app::session::recorded::what_does_not", "src/app/session/lines.rs", "                arguments.forget_saved();", "                let _kept = &mut arguments;"),
    ("app::session::recorded::a_file_that", "src/app/session/recorded.rs", "text::clip(&text::line(&why), WHY)", "why"),
    ("sessions::a_session_comes", "src/app/replay/plan.rs", "let count = count.unwrap_or(asked);\n                vec![step(Request::Generate", "let count = asked;\n                vec![step(Request::Generate"),
    ("sessions::a_session_comes", "src/app/session/mod.rs", "                let failure = self.note_written();\n                let text = &mut self.text;\n                let taken", "                let failure = None;\n                let text = &mut self.text;\n                let taken"),
    ("sessions::a_session_is_opened", "src/app/session/mod.rs", "foreign: self.text.foreign + self.text.waiting.len(),", "foreign: 0,"),
    ("sessions::a_session_is_opened", "src/engine/worker/loading.rs", "held == model && by == options", "held == model && by != options"),
    ("sessions::what_was_undone", "src/app/replay/plan.rs", ".filter(|at| restored.is_none_or(|restored| restored < *at))\n        .unwrap_or(0)", ".unwrap_or(0)\n        .max(restored.unwrap_or(0))"),
    ("sessions::figures_marks", "src/app/screen_state.rs", "        marks.dedup();", "        marks.clear();"),
    ("sessions::what_is_missing", "src/app/replay/mod.rs", "row.on = row.on && tried && !replay.is_refused(row);", "row.on = row.on && tried;"),
    ("sessions::another_text", "src/app/replay/mod.rs", "self.differs = self.differs.or(differs);", "let _ = differs;"),
    ("sessions::the_user_goes_on", "src/app/requests.rs", "        self.stop_replay();\n        vec![Effect::Cancel", "        vec![Effect::Cancel"),
    ("sessions::what_cannot_be", "src/cli/mod.rs", "            || screen::is_resumed(matches)\n", ""),
    ("sessions::leaving_says", "src/ui/screen.rs", "else if let Some(path) = kept_in.filter(|_| heard) {", "else if let Some(path) = kept_in.filter(|_| !heard) {"),
    ("scripts::every_script", "src/ui/draw.rs", "if let Some((done, count)) = app.replay_progress() {", "if let Some((done, count)) = app.replay_progress().filter(|_| false) {"),
    ("sessions::marks_and_sets", "src/app/screen_state.rs", "usize::from(mark.at.layer) < card.layers && (mark.unit as usize) < units", "usize::from(mark.at.layer) < card.layers"),
    ("sessions::what_is_missing_is_listed", "src/app/replay/mod.rs", "if parts.len() > LISTED + 1 {", "if parts.len() > LISTED {"),
    ("sessions::sorting_and", "src/app/screen_state.rs", "            shown.sorted.clone_from(&view.sorted);\n", ""),
    ("sessions::the_place_in_the_tour", "src/app/screen_state.rs", "self.tour = line.tour.map(|step| Tour {", "self.tour = line.tour.filter(|_| false).map(|step| Tour {"),
    ("sessions::an_edit_that_cannot_be", "src/engine/worker/changes.rs", "            lab.compile(&run)?;\n", "            let _ = run;\n            let _ = lab;\n"),
    ("sessions::a_session_waits", "src/app/replay/mod.rs", "            self.unopened = Some(replay);\n", ""),
    ("sessions::the_screen_is_recorded", "src/app/mod.rs", "if self.screen_due.take_if(|due| *due <= now).is_some() {", "if false {"),
    ("app::session::the_screen_is", "src/app/session/mod.rs", "    held.file.set_len(held.length)?;\n    match", "    match"),
    ("app::session::what_was_replayed", "src/app/session/mod.rs", "if self.keeping == Keeping::Replayed\n", "if self.keeping != Keeping::AtOnce\n"),
    ("app::session::kept::the_newest", "src/app/session/kept.rs", "if in_use(&path) {", "if false {"),
    ("app::session::recorded::blank_lines", "src/app/session/recorded.rs", "if row.trim().is_empty() {", "if false {"),
    ("config::a_setting_is_written", "src/config.rs", "Some(end) => out.insert_str(end, &line),", "Some(_) => out.extend([\"\\n\", &line]),"),
    ("config::a_mistake_spoils", "src/config.rs", "        self.mistake(value.span().start, true, why);\n        false", "        self.mistake(value.span().start, false, why);\n        false"),
    ("settings::what_is_set", "src/ui/mod.rs", "Some(_) if given.contains(&name) => None,", "Some(_) if name.is_empty() => None,"),
    ("settings::the_theme_follows", "src/ui/decode.rs", "let light = colour::luminance(rgb) > 0.18;", "let light = colour::luminance(rgb) > 2.0;"),
    ("app::setting::every_setting", "src/app/setting.rs", "            app.flip = app.settings.flip;\n", ""),
    ("app::completion::paths_go_on", "src/app/completion.rs", "let hidden = name.starts_with('.') && !begun.starts_with('.');", "let hidden = false;"),
    ("ui::theme::high_contrast", "src/ui/theme/mod.rs", "QUIET.max(self.contrast)", "QUIET"),
    ("scripts::every_script", "src/app/replay/plan.rs", "is_last && (at >= from || !needs_text(request))", "is_last"),
    ("scripts::every_script", "src/app/updates.rs", "if self.is_outdated() {", "if false {"),
]



def module(path, root):
    """The module path of a source file."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    return "::".join(parts[:-1] if parts[-1] in ("mod", "main", "lib") else parts)


def tests_of(root):
    """The paths of all tests under a folder; those of a `mod tests` without that word."""
    found = set()
    for path in root.rglob("*.rs"):
        for name in re.findall(r"\n *(?:pub )?fn (\w+)", path.read_text(encoding="utf-8")):
            found.add(f"{module(path, root)}::{name}")
    return found


INTEGRATION = tests_of(ROOT / "tests" / "it")
UNIT = tests_of(ROOT / "src")


def own_prefix(test):
    """How the path of a fault's own test begins: an identity is one of `invariants`, or all of `parity`."""
    return test if "::" in test else "parity::" if test == "parity" else f"invariants::{test}_"


def is_unit(test):
    return not any(t.startswith(own_prefix(test)) for t in INTEGRATION)


def problems():
    """Faults whose place has changed, and names without a test."""
    for test, name, there, planted in FAULTS:
        path = ROOT / name
        if not path.exists() or there not in path.read_text(encoding="utf-8"):
            yield f"{test}: {name} has changed, plant this fault anew"
        if is_unit(test) and not any(t.startswith(test) for t in UNIT):
            yield f"{test}: there is no such test"


def main():
    stale = list(problems())
    print("\n".join(stale or [f"{len(FAULTS)} faults: every place and every test is there"]), flush=True)
    if stale or sys.argv[1:] == ["check"]:
        raise SystemExit(1 if stale else 0)
    given = sys.argv[1:]
    at_once = 1
    if given[:1] == ["together"]:
        at_once, given = int(given[1]), given[2:]
    wanted = [f for f in FAULTS if not given or any(f[0].startswith(w) for w in given)]
    survived = []
    while wanted:
        some = apart(wanted, at_once)
        wanted = [f for f in wanted if f not in some]
        kept = [f for f, failed in zip(some, plant(some)) if not failed]
        if len(some) > 1:
            kept = [f for f in kept if not plant([f])[0]]
        survived += [f[0] for f in kept]
    raise SystemExit(f"not killed by their own test: {survived}" if survived else 0)


def apart(faults, most):
    """The first faults, up to `most`, of one suite, each in another file and with another test."""
    some = []
    for fault in faults:
        own = [own_prefix(f[0]) for f in some]
        name = own_prefix(fault[0])
        if any(a.startswith(name) or name.startswith(a) for a in own) or any(f[1] == fault[1] for f in some):
            continue
        if not some or is_unit(fault[0]) == is_unit(some[0][0]):
            some.append(fault)
        if len(some) == most:
            break
    return some


def plant(faults):
    """Plants faults together and says of each whether its own test failed."""
    if is_unit(faults[0][0]):
        suite, filters = ["--lib"], [test.rsplit("::", 1)[1] for test, *_ in faults]
    else:
        suite, filters = ["--test", "it"], []
        for test, *_ in faults:
            filters += [test] if "::" in test else ["invariants::", "parity::"]
    sources = {}
    for _, name, there, planted in faults:
        path = ROOT / name
        sources[path] = path.read_text(encoding="utf-8")
        path.write_text(sources[path].replace(there, planted, 1), encoding="utf-8")
    try:
        run = subprocess.run(["cargo", "test", *suite, "--", *filters], cwd=ROOT, capture_output=True, text=True)
    finally:
        for path, source in sources.items():
            path.write_text(source, encoding="utf-8")
    failed = [f.replace("::tests::", "::") for f in re.findall(r"test (\S+) \.\.\. FAILED", run.stdout)]
    ran = "test result:" in run.stdout
    found = []
    for test, *_ in faults:
        own = [f for f in failed if f.startswith(own_prefix(test))]
        by = own or (failed if len(faults) == 1 else [])
        print(f"{test}: {'killed by ' + ', '.join(by) if by else 'SURVIVED' if ran else 'DID NOT COMPILE'}{' with ' + str(len(faults) - 1) + ' others' if len(faults) > 1 else ''}", flush=True)
        found.append(bool(own))
    return found


if __name__ == "__main__":
    main()
