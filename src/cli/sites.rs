//! `lmscope sites`: all sites, with the names that TransformerLens has for them.
//!
//! Invariant: a name is listed for a site only if both mean the same tensor; without a model, a name whose meaning depends on
//! the architecture is listed with the condition. To add a column, add it to [`run`].

use clap::ArgMatches;
use serde_json::{Value, json};

use super::output::PrintedForm;
use super::{arguments, models, output};
use crate::error::Result;
use crate::model::Model;
use crate::model::load::load_watched;
use crate::model::network::names::{NameMeaning, NameRule, SPELLINGS, Spelling};
use crate::model::network::site::{SITES, Site, SiteSpec};

/// Prints the list.
pub fn run(matches: &ArgMatches) -> Result<()> {
    let model = match matches.get_one::<String>("model") {
        Some(given) => {
            let options = arguments::options(matches);
            let (model, _) = super::loading::watched(|watch| load_watched(given, &options, watch))?;
            Some(model)
        }
        None => None,
    };
    let form = models::form(matches);
    let mut columns = vec!["site", "transformer_lens", "shape", "about"];
    if model.is_some() {
        columns.push("here");
    }
    let row = |spec: &SiteSpec| -> Vec<Value> {
        let names = names(spec.site, model.as_ref());
        let mut row = vec![
            json!(address(spec.site)),
            if form == PrintedForm::Json {
                json!(names)
            } else {
                // Names with a condition are in a table of their own.
                let sure = names.iter().filter(|name| !name.contains(' '));
                json!(sure.cloned().collect::<Vec<_>>().join(", "))
            },
            json!(spec.shape),
            json!(spec.about),
        ];
        if let Some(model) = &model {
            row.push(json!(
                model
                    .offers(spec.site.at(0))
                    .map_or_else(|e| e.to_string(), |()| "yes".into())
            ));
        }
        row
    };
    let rows: Vec<Vec<Value>> = SITES.iter().map(row).collect();
    output::listing(&columns, &rows, form)?;
    if form.for_scripts() {
        return Ok(());
    }
    if model.is_none() {
        let rows: Vec<Vec<Value>> = SPELLINGS.iter().filter_map(conditional).collect();
        output::text("\n")?;
        output::listing(&["by_architecture", "site", "where"], &rows, form)?;
    }
    let rows = SPELLINGS.iter().filter_map(|s| none(s, model.as_ref()));
    let rows: Vec<Vec<Value>> = rows
        .map(|(name, has, near)| vec![json!(name), json!(near), json!(has)])
        .collect();
    output::text("\n")?;
    output::listing(
        &["no_site_of_ours", "nearest", "what_transformer_lens_has"],
        &rows,
        form,
    )
}

/// The row of a name whose meaning depends on the architecture: the name, the site, and where it means that site.
fn conditional(spelling: &Spelling) -> Option<Vec<Value>> {
    match spelling.rule {
        NameRule::Depends(place, _) => Some(vec![
            json!(spelling.name.replace("{}", "L")),
            json!(address(spelling.near)),
            json!(place),
        ]),
        NameRule::Always | NameRule::Never(..) => None,
    }
}

/// A site as an address with `L` for the layer.
fn address(site: Site) -> String {
    let spec = site.spec();
    if spec.layered {
        format!("{}.L", spec.name)
    } else {
        spec.name.to_string()
    }
}

/// The names that mean a site: on this model or, without one, on every architecture, or with a condition.
pub fn names(site: Site, model: Option<&Model>) -> Vec<String> {
    let means = |spelling: &Spelling| {
        let name = spelling.name.replace("{}", "L");
        match model {
            Some(model) => meanings(spelling, model)
                .contains(&NameMeaning::Is(site))
                .then_some(name),
            None => match spelling.rule {
                _ if spelling.near != site => None,
                NameRule::Always => Some(name),
                NameRule::Depends(place, _) => Some(format!("{name} ({place})")),
                NameRule::Never(..) => None,
            },
        }
    };
    SPELLINGS.iter().filter_map(means).collect()
}

/// The row of a name that means no site: the name, the tensor that TransformerLens has under it, and the nearest site.
fn none(spelling: &Spelling, model: Option<&Model>) -> Option<(String, &'static str, String)> {
    let (has, near) = match (model, &spelling.rule) {
        (Some(model), _) => meanings(spelling, model)
            .into_iter()
            .find_map(|m| match m {
                NameMeaning::Holds(has, near) => Some((has, near)),
                NameMeaning::Is(_) | NameMeaning::Absent | NameMeaning::Unmeasured => None,
            })?,
        (None, NameRule::Never(has, _)) => (*has, spelling.near),
        (None, NameRule::Always | NameRule::Depends(..)) => return None,
    };
    Some((spelling.name.replace("{}", "L"), has, address(near)))
}

/// The different meanings of a name over all layers.
fn meanings(spelling: &Spelling, model: &Model) -> Vec<NameMeaning> {
    let blueprint = &model.card.blueprint;
    let mut found = Vec::new();
    for layer in 0..blueprint.layers.len() {
        let meaning = spelling.meaning(blueprint, layer);
        let there = match meaning {
            NameMeaning::Is(site) => model.offers(site.at(layer)).is_ok(),
            NameMeaning::Holds(..) | NameMeaning::Absent | NameMeaning::Unmeasured => true,
        };
        if there && !found.contains(&meaning) {
            found.push(meaning);
        }
    }
    found
}
