"""Plants one fault after another in the source and says which tests notice.

    python3 tests/mutations.py            about twenty minutes on two cores, with a warm build
    python3 tests/mutations.py i8 i9      only the faults whose test's name begins so

Every fault should be killed by the test that it names; a fault that survives names a test that
does not test. Run it on a clean checkout: files are put back from memory, whatever happens.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# (test, file, what is there, what is planted)
FAULTS = [
    ("i1", "src/model/transformer.rs", "self.finish(self.raw(&self.norm.forward(rows, false)?)?)", "self.finish(self.raw(rows)?)"),
    ("i1", "src/model/transformer.rs", "Some(self.finish(all.narrow(0, own, count)?)?)", "Some(all.narrow(0, own, count)?)"),
    ("i2", "src/model/transformer.rs", "scaled(norm(&mlp.output, &m)?, scale)?)?;", "m.clone())?;\n        let m = scaled(norm(&mlp.output, &m)?, scale)?;"),
    ("i3", "src/model/norm.rs", "            NormKind::Layer => wide.broadcast_sub(&wide.mean_keepdim(candle_core::D::Minus1)?)?,\n        };\n        Ok(",
     "            NormKind::Layer => wide,\n        };\n        Ok("),
    ("i3", "src/model/values.rs", "Some(norm) => written.broadcast_mul(&norm.gain)?,", "Some(_) => written,"),
    ("i4", "src/model/transformer.rs", "k <= q && narrow", "k <= q + 1 && narrow"),
    ("i4", "src/model/transformer.rs", "k + w > q)", "k + w > q + 1)"),
    ("i5", "src/model/linear.rs", ".narrow(1, i, 1)?\n                .squeeze(1)?", ".narrow(1, (i + 1) % 3, 1)?\n                .squeeze(1)?"),
    ("i5", "src/model/experts.rs", ".broadcast_mul(&weight)?;", ";\n            let _ = weight;"),
    ("i6", "src/lab/edit.rs", "self.on && !neutral", "self.on"),
    ("i7", "src/lab/prepare.rs", "_ => Change::ProjectOut(numbers(unit(&vector))?, c),", "_ => Change::ProjectOut(numbers(vector)?, c),"),
    ("i7", "src/lab/change/rows.rs", "((value - dot(x, &v.host)) * c) as f32", "((value + dot(x, &v.host)) * c) as f32"),
    ("i8", "src/lab/edit.rs", "                        Site::MlpAdd.at(l),\n", ""),
    ("i9", "src/lab/run.rs", "let position = patch.position - span.start;", "let position = (patch.position - span.start).saturating_sub(1);"),
    ("i19", "src/lab/change/rows.rs", "*x = *target;", "*x = *target + 1e-4;"),
    ("i20", "src/model/rope.rs", "cos: self.first.cos.narrow(0, start, tokens)?", "cos: self.first.cos.narrow(0, 0, tokens)?"),
    ("i25", "src/lab/apply.rs", "            let position = span.start + i % tokens;\n            act.span", "            let position = span.start + i % tokens + 1;\n            act.span"),
    ("i26", "src/lab/run.rs", "            self.recorded.insert(at, kept);\n        }\n        Ok(x)",
     "            self.recorded.insert(at, kept);\n            return Ok((x + 1e-6)?);\n        }\n        Ok(x)"),
    # Neurons as memories.
    ("memories::promoters", "src/model/values.rs", "let target = direction.mul(&self.norm.gain)?;", "let target = direction.clone();"),
    ("memories::t3", "src/lab/sight.rs", "let write = self.scale * factor;", "let write = self.scale;\n            let _ = factor;"),
    ("memories::triggers", "src/lab/triggers.rs", "acts.iter().enumerate().skip(1)", "acts.iter().enumerate()"),
    ("memories::triggers", "src/lab/triggers.rs", "(window, 1)", "(window, 0)"),
    ("memories::the_total", "src/lab/rerun.rs", "let x = x.narrow(1, position, 1)?", "let x = x.narrow(1, span.len - 1, 1)?"),
    ("memories::t45", "src/lab/value_card.rs", "if transformer.norm.kind == NormKind::Layer {", "if transformer.norm.kind == NormKind::Identity {"),
    ("memories::t50", "src/lab/value_edit.rs", "if n.act < 0.0 { -1 } else { 1 }", "if n.act < 0.0 { 1 } else { 1 }"),
    ("memories::the_total", "src/instruments/neurons.rs", "row[neuron as usize] = 0.0;", "row[neuron as usize] *= 0.5;"),
    ("memories::promoters", "src/instruments/promoters.rs", "z * sign", "*z"),
    ("honest::what_is_stopped", "src/lab/writer.rs", "            *self = before;\n", "            let _ = before;\n"),
    ("sweep::a_stopped", "src/lab/trials.rs", "(next..count).find(|i| results[*i].is_none())", "(next..count).next()"),
    # What families differ in, held by the comparison with transformers.
    ("parity", "src/model/attention.rs", "Some(cap) => soft_cap(&scores, cap)?", "Some(_) => scores"),
    ("parity", "src/model/attention.rs", "Some(most) => flat.clamp(-most, most)?", "Some(_) => flat"),
    ("parity", "src/model/transformer.rs", "        scaled(x, self.blueprint.embed_scale)\n", "        Ok(x)\n"),
    ("parity", "src/model/transformer.rs", "let logits = scaled(raw, self.blueprint.logit_scale)?;", "let logits = raw;"),
    ("parity", "src/model/experts.rs", "Ok(if self.spec.renormalise {", "Ok(if !self.spec.renormalise {"),
    ("parity", "src/model/norm.rs", "(stored()? + 1.0)?", "stored()?"),
    ("parity", "src/model/assemble.rs", "(3 * head + i) * b.head_dim", "(head + i * b.heads) * b.head_dim"),
    ("parity", "src/model/rope.rs", "(t * rope.magnitude)?", "(t * 1.0)?"),
    ("parity", "src/model/rope.rs", "(true, false) => rope_i(", "(true, false) => rope("),
    ("parity", "src/model/families/opt.rs", "Positions::Learned { offset: 2 }", "Positions::Learned { offset: 0 }"),
    ("parity", "src/model/families/smollm3.rs", "layer.rope = rotates.then_some(0)", "layer.rope = Some(0)"),
    # What keeps edits honest.
    ("honest::an_edit_acts_where_its", "src/lab/watch.rs", "self.set(row, span.start + i, value);", "self.set(row, i, value);"),
    ("honest::an_edit_acts_where_its", "src/lab/watch.rs", "self.since[row].map_or(position, |s| s.min(position))", "self.since[row].map_or(position, |s| s.max(position))"),
    ("honest::an_edit_acts_where_the", "src/lab/apply.rs", "watch.note(position, logged", "watch.note(position + 1, logged"),
    ("honest::an_edit_acts_where_the", "src/lab/writer.rs", "self.program.hear(self.run.tokens.len() - 1, &row);", "self.program.hear(self.run.tokens.len(), &row);"),
    ("honest::no_edit", "src/lab/apply.rs", "if !here.clone().any(|p| ruled(&p)) {", "if here.clone().any(|p| ruled(&p)) {"),
    ("honest::no_edit", "src/model/site.rs", "order(self) <= order(other)", "order(self) <= order(other) || true"),
    ("honest::a_group", "src/lab/unit_set.rs", ".filter(|(l, _)| *l == layer)", ".filter(|(l, _)| *l <= layer)"),
    ("honest::receipts_are", "src/lab/apply.rs", "relative: (sum / group.len() as f64) as f32,", "relative: sum as f32,"),
    ("honest::lockstep", "src/lab/apply.rs", "self.rows.unwrap_or(batch).min(batch)", "batch"),
    ("honest::lockstep", "src/lab/writer.rs", "companion.tokens.push(unedited);", "companion.tokens.push(choice.id);"),
    ("honest::lockstep", "src/lab/writer.rs", "let logprob = own[wanted as usize];\n                (\n                    unedited,", "let logprob = own[wanted as usize];\n                (\n                    wanted,"),
    ("honest::a_lockstep_may", "src/lab/writer.rs", "        self.program.forget();\n", ""),
    ("honest::a_turned_value_is", "src/lab/apply.rs", "let own = neurons.as_ref().map(|n| n[i].as_slice());", "let own = neurons.as_ref().map(|n| n[0].as_slice());"),
    ("honest::a_turned_value_raises", "src/model/overlay.rs", "added.broadcast_mul(&open)?", "added"),
    ("honest::a_turned_value_raises", "src/model/overlay.rs", "raised.broadcast_sub(&raised.mean_keepdim(0)?)?", "raised"),
    ("nulls", "src/lab/prepare.rs", "list = alike(&list, &lookup.sizes(at)?, seed);", ""),
    # Vectors from demonstrations.
    ("in_context::t12", "src/lab/task_vector.rs", "let wanted: Vec<Address> = (0..layers).map(|l| Site::ResidPost.at(l)).collect();", "let wanted: Vec<Address> = (0..layers).map(|l| Site::ResidPre.at(l)).collect();"),
    ("in_context::t13", "src/lab/function_vector.rs", "let added = transformer.head_added(*layer, &written, means.scales[*layer])?;", "let added = transformer.head_added(*layer, &written, means.scales[*layer])?;\n        let added: Vec<f32> = added.iter().map(|v| v / heads.len() as f32).collect();"),
    ("in_context::t14", "src/model/heads.rs", "weight.narrow(1, head * width, width)", "weight.narrow(1, head / 2 * width, width)"),
    ("in_context::t14", "src/model/heads.rs", "f64::from(g) * factor", "factor"),
    ("in_context::t14", "src/model/heads.rs", "let factor = self.blueprint.residual_scale;", "let factor = 1.0;"),
    ("in_context::the_effect", "src/lab/fork.rs", "cache.truncate(length - 1);", "cache.truncate(length);"),
    ("in_context::the_effect", "src/lab/fork.rs", "let mut tap = RunTap::new(&mut self.program, &patches,", "self.program = Program::default();\n            let mut tap = RunTap::new(&mut self.program, &patches,"),
    ("in_context::the_average", "src/lab/function_vector.rs", "let count = self.prompts.max(1) as f64;", "let count = 1.0;"),
    ("in_context::prompts", "src/lab/shots.rs", ".filter(|p| !without_label || p.output != query.output)", ""),
    ("in_context::prompts", "src/lab/shots.rs", ".filter(|p| p.input != query.input)", ""),
    ("in_context::the_verdict", "src/lab/judge.rs", ".map(|(x, v)| x + v)", ".map(|(x, v)| x - v)"),
    ("in_context::t15", "src/lab/judge.rs", "random_like(vector, hash.finish())", "vector.clone()"),
    ("in_context::sums", "src/lab/combine.rs", "terms.push((factor * number, name.to_string()));", "terms.push((number, name.to_string()));"),
    ("in_context::answer", "src/lab/contrast.rs", "Self::Icv | Self::Caa => Site::ResidPost,", "Self::Icv => Site::ResidPost,\n            Self::Caa => Site::ResidPre,"),
    # Directions selected and swept, statistics, meters.
    ("statistics::statistics_are", "src/lab/statistics.rs", "let rows = rows.get(skip..)", "let rows = rows.get(skip.saturating_sub(1)..)"),
    ("statistics::a_file", "src/lab/statistics.rs", "if self.origin.revision == card.revision {", "if !card.revision.is_empty() {"),
    ("meters::meters_are", "src/instruments/meters.rs", "along: unit(vector),", "along: vector.to_vec(),"),
    ("meters::the_first", "src/instruments/meters.rs", "filter(|(i, _)| first + i > 0)", "filter(|(i, _)| first + i < usize::MAX)"),
    ("meters::a_live", "src/instruments/meters.rs", "&all[at * width..(at + 1) * width]", "&all[at..at + width]"),
    ("meters::a_live", "src/lab/figure.rs", "                grid.scale = grid.scale.around(more.scale);\n", ""),
    ("selection::t11", "src/lab/selection.rs", "(layers as f64 * rules.depth) as usize", "(layers as f64 * rules.depth).ceil() as usize"),
    ("selection::t11", "src/lab/selection.rs", 'format!("add:{CANDIDATE}@{at}")', 'format!("add:{CANDIDATE}@{at}*2")'),
    ("selection::t11", "src/lab/selection.rs", "let chosen = kept.min_by(", "let chosen = kept.max_by("),
    ("sweep::every", "src/lab/batch.rs", "let first = prompts[*i].len() - 1;", "let first = prompts[*i].len() - 2;"),
    ("sweep::the_best", "src/instruments/sweep/plan.rs", "|| o.fluency <= least", "|| o.fluency < f32::MAX || least > 0.0"),
    ("sweep::every", "src/instruments/sweep/mod.rs", "            *vector = random_like(vector, run.seed);\n", "            *vector = random_like(vector, run.seed + 1);\n"),
    ("parity", "src/lab/extend.rs", "        cache.truncate(0);\n    }\n    let start = cache.len();", "    }\n    let start = cache.len();"),
    # Logits as sums.
    ("residual::t34", "src/lab/attribution.rs", "(None, Some((row, own))) => {", "(None, Some((row, _))) if false => { let own = 0.0;"),
    ("residual::t34", "src/lab/attribution.rs", "let seen = seen.broadcast_mul(&norm.inverse_scale(last)?)?;", "let seen = seen.broadcast_mul(&norm.inverse_scale(&last.narrow(0, 0, 1)?)?)?;"),
    ("residual::t34", "src/model/transformer.rs", "Ok(own.to_scalar::<f32>()? * self.blueprint.logit_scale as f32)", "Ok(own.to_scalar::<f32>()?)"),
    ("residual::t35", "src/model/norm.rs", "gained.broadcast_sub(&gained.mean_keepdim(candle_core::D::Minus1)?)?", "gained"),
    ("residual::t35", "src/lab/attribution.rs", "dot += c * *x;", "dot += c * f64::from(*end);"),
    ("residual::t36", "src/model/heads.rs", "let read = self.before_write(block.norms_attn.output.as_ref(), directions)?;", "let read = self.before_write(None, directions)?;"),
    ("residual::t36", "src/lab/writes.rs", "let v = &v[(source * shape.kv_heads + head / group) * width..][..width];", "let v = &v[(source * shape.kv_heads + head % shape.kv_heads) * width..][..width];"),
    ("residual::t36", "src/lab/writes.rs", "values.push((prob * dot(view, v) * scales[i]) as f32);", "values.push((prob * dot(view, v)) as f32);"),
    ("residual::t37", "src/lab/writes.rs", "let scale = |row: &Vec<f32>| f64::from(transformer.write_factor(layer, row));", "let scale = |_: &Vec<f32>| 1.0;"),
    ("residual::t37", "src/model/heads.rs", "let directions = (directions * factor)?;", "let directions = (directions * factor.sqrt())?;"),
    ("residual::what_edits", "src/lab/attribution.rs", "if touched.contains(&mid) && !late {", "if touched.contains(&mid) && late {"),
    ("residual::what_edits", "src/lab/attribution.rs", "if touched.contains(&pre) {", "if touched.is_empty() {"),
    ("residual::what_edits", "src/instruments/residual.rs", "points: kept.iter().map(|k| header(sum.parts[*k])).collect(),", "points: kept.iter().map(|k| Header { anchor: anchor(sum.parts[*k], sum.positions[0]), ..header(sum.parts[*k]) }).collect(),"),
    ("residual::the_first", "src/instruments/residual.rs", "positions.len() == 1 || **p > 0", "positions.len() == 1 || **p < usize::MAX"),
    ("residual::a_stream", "src/lab/attribution.rs", "if model.transformer.blueprint.arrangement != Arrangement::NormedStream {", "if model.card.layers > 0 || model.transformer.blueprint.arrangement != Arrangement::NormedStream {"),
    # Attention: what is read, scores, cuts.
    ("attention::patterns", "src/lab/heads_seen.rs", "let v = v.narrow(1, head / group, 1)?", "let v = v.narrow(1, head % transformer.blueprint.kv_heads, 1)?"),
    ("attention::patterns", "src/instruments/attention.rs", "let queries: Vec<usize> = shown.clone().rev().collect();", "let queries: Vec<usize> = shown.clone().collect();"),
    ("attention::the_strongest", "src/lab/heads_seen.rs", "let skip = usize::from(apart && query > 0);", "let skip = usize::from(apart && query > 1);"),
    ("attention::a_sink", "src/instruments/attention.rs", "judged.filter(|(_, source)| !apart || *source > 0)", "judged.filter(|(_, source)| !apart || *source < usize::MAX)"),
    ("attention::i23", "src/lab/head_scores.rs", ".filter(|j| tokens[j - 1] == tokens[query])", ".filter(|j| tokens[*j] == tokens[query])"),
    ("attention::i23", "src/lab/head_scores.rs", "let seen = window.map_or(query + 1, |w| w.min(query + 1));", "let seen = window.map_or(query + 1, |_| query + 1);"),
    ("attention::t60", "src/lab/cut.rs", "(first..query).partition", "(first..query + 1).partition"),
    ("attention::t60", "src/lab/cut.rs", "(1.0 - self.strength).ln()", "(1.0 - self.strength)"),
    ("attention::t60", "src/lab/cut.rs", "for head in (0..heads).filter(|h| chosen(*h)) {", "for head in 0..heads {\n                    let _ = chosen(head);"),
    ("attention::a_cut_holds", "src/lab/cut.rs", "let hidden = self.hidden(span.start + token, prompt);", "let hidden = self.hidden(token, prompt);"),
    ("attention::a_cut_holds", "src/lab/cut.rs", "/ (2.0 * count as f64)", "/ count as f64"),
    ("attention::a_cell", "src/lab/knockout.rs", "let hidden = cut.hidden(layer, self.first + token, self.windows[layer]);", "let hidden = cut.hidden(layer, token, self.windows[layer]);"),
    ("attention::a_cell", "src/lab/knockout.rs", "let mut program = self.program.clone();", "let mut program = Program::default();"),
    ("attention::a_cell", "src/instruments/knockout/plan.rs", "let first = layer.saturating_sub((self.window - 1) / 2);", "let first = layer.saturating_sub(self.window / 2);"),
    ("attention::the_demo_s", "src/lab/head_scores.rs", "let second = &text.tokens[text.first + text.period..];", "let second = &text.tokens[text.first + text.period - 1..];"),
    # Models wired by hand.
    ("organisms::two_hop::o1_out_of_order", "src/lab/run.rs", "let position = patch.position - span.start;", "let position = (patch.position - span.start).saturating_sub(1);"),
    ("organisms::two_hop::o1_forgets", "src/lab/cut.rs", "(first..query).partition(|source| self.sources.covers(*source, prompt));", "(first..query).partition(|source| self.sources.covers(*source + 1, prompt));"),
    ("organisms::backpatch::o1_backpatch_finds", "src/lab/replace_pairs.rs", "Vector::Own => replay.state(*source, position)?", "Vector::Own => replay.state(source.saturating_sub(1), position)?"),
    ("organisms::backpatch::o1_backpatch_s_null", "src/lab/replace_pairs.rs", "Vector::Other(states) => states[*source].clone(),", "Vector::Other(states) => states[*target].clone(),"),
    ("organisms::induction::o5_attention", "src/lab/head_scores.rs", ".filter(|j| tokens[j - 1] == tokens[query])", ".filter(|j| tokens[*j] == tokens[query])"),
    ("organisms::repair::o10_residual", "src/lab/writes.rs", "let heads = view.chunks(width).zip(z.chunks(width));", "let heads = view.chunks(width).rev().zip(z.chunks(width));"),
    ("organisms::sink::o11_a_sink_changes_no_figure", "src/instruments/residual.rs", "positions.len() == 1 || **p > 0", "positions.len() == 1 || **p < usize::MAX"),
    ("organisms::sink::o11_a_sink_changes_no_figure", "src/instruments/meters.rs", "filter(|(i, _)| first + i > 0)", "filter(|(i, _)| first + i < usize::MAX)"),
    ("organisms::sink::o11_a_sink_changes_no_mean", "src/lab/statistics.rs", "let rows = rows.get(skip..)", "let rows = rows.get(skip.saturating_sub(1)..)"),
    ("organisms::echo::an_unrelated", "src/lab/measure.rs", 'tokenizer.encode("", Bos::Add)', 'tokenizer.encode("", Bos::Raw)'),
]


def main():
    survived = []
    wanted = sys.argv[1:]
    for test, name, there, planted in FAULTS:
        if wanted and not any(test.startswith(w) for w in wanted):
            continue
        path = ROOT / name
        source = path.read_text(encoding="utf-8")
        if there not in source:
            survived.append(test)
            print(f"{test}: {name} has changed, plant this fault anew")
            continue
        modules = [test] if "::" in test else ["invariants::", "parity::"]
        path.write_text(source.replace(there, planted, 1), encoding="utf-8")
        try:
            run = subprocess.run(["cargo", "test", "--test", "it", "--", *modules], cwd=ROOT, capture_output=True, text=True)
        finally:
            path.write_text(source, encoding="utf-8")
        failed = re.findall(r"test (\S+) \.\.\. FAILED", run.stdout)
        print(f"{test}: {'killed by ' + ', '.join(failed) if failed else 'SURVIVED'}", flush=True)
        own = test if "::" in test else "parity::" if test == "parity" else f"invariants::{test}_"
        if not any(f.startswith(own) for f in failed):
            survived.append(test)
    raise SystemExit(f"not killed by their own test: {survived}" if survived else 0)


if __name__ == "__main__":
    main()
