//! A JSON document of a command as CSV: a line for each row of one of its lists, and what else it says in comments before them.
//!
//! Invariant: every value of the document is in the CSV; data lines have as many fields as the header. To print another command's
//! document so, name its list of rows.

use serde_json::{Map, Value};

use super::csv::{comment, record};

/// The CSV of a document: the rows of the list `rows`; where it has no such list, the document itself is the only row. The keys of an
/// object in a row become columns `key.inner`; a list in a row is its JSON.
pub fn csv(document: &Value, rows: &str) -> String {
    let mut out = String::new();
    let listed = document.get(rows).and_then(Value::as_array);
    let own = listed.map_or(std::slice::from_ref(document), Vec::as_slice);
    if let (Some(_), Value::Object(all)) = (listed, document) {
        let rest = all.iter().filter(|(key, _)| *key != rows);
        let mut said = Map::new();
        rest.for_each(|(key, value)| flatten(key, value, &mut said));
        for (key, value) in &said {
            comment(&mut out, key, &field(value));
        }
    }
    let flat: Vec<Map<String, Value>> = own.iter().map(flat).collect();
    let mut columns: Vec<&String> = Vec::new();
    for key in flat.iter().flat_map(Map::keys) {
        if !columns.contains(&key) {
            columns.push(key);
        }
    }
    record(
        &mut out,
        &columns.iter().map(ToString::to_string).collect::<Vec<_>>(),
    );
    for row in &flat {
        let fields = columns
            .iter()
            .map(|key| row.get(*key).map_or_else(String::new, field));
        record(&mut out, &fields.collect::<Vec<_>>());
    }
    out
}

/// Rows under column names as CSV.
pub fn listing(columns: &[&str], rows: &[Vec<Value>]) -> String {
    let mut out = String::new();
    record(
        &mut out,
        &columns.iter().map(ToString::to_string).collect::<Vec<_>>(),
    );
    for row in rows {
        record(&mut out, &row.iter().map(field).collect::<Vec<_>>());
    }
    out
}

fn flat(row: &Value) -> Map<String, Value> {
    let mut out = Map::new();
    match row {
        Value::Object(row) => row
            .iter()
            .for_each(|(key, value)| flatten(key, value, &mut out)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            out.insert("value".into(), row.clone());
        }
    }
    out
}

fn flatten(key: &str, value: &Value, out: &mut Map<String, Value>) {
    match value {
        Value::Object(inner) => {
            for (name, value) in inner {
                flatten(&format!("{key}.{name}"), value, out);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            out.insert(key.into(), value.clone());
        }
    }
}

fn field(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_for_each_row_and_comments_for_the_rest() {
        let document = json!({
            "schema": 1, "made": {"by": "=cmd"}, "rows": [
                {"at": "a, b", "norm": 1.5, "draws": [1, 2]}, {"at": "=c", "own": {"id": 3}},
            ],
        });
        let text = csv(&document, "rows");
        let expected = "# schema: 1\n# made.by: =cmd\nat,norm,draws,own.id\n\"a, b\",1.5,\"[1,2]\",\n'=c,,,3\n";
        assert_eq!(text, expected);
        assert_eq!(
            csv(&json!({"a": 1, "b": {"c": null}}), "rows"),
            "a,b.c\n1,\n"
        );
        assert_eq!(
            listing(&["x", "y"], &[vec![json!(1), Value::Null]]),
            "x,y\n1,\n"
        );
    }
}
