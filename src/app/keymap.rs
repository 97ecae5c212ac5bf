//! The keymap: from keys to commands and back, with the user's `keys.toml` overriding the defaults.
//!
//! Invariant: in every context a key has at most one command, and no binding is a prefix of another. A mistake in `keys.toml`
//! gives a warning that names its line, and the default stays.
//! To add a default key, write it in the command's row.

use std::path::Path;

use super::commands::{Command, Context, commands};
use super::key::{Key, chord, spell};

#[derive(Clone, Debug)]
pub struct Binding {
    /// A sequence of keys.
    pub keys: Vec<Key>,
    pub command: &'static Command,
}

/// The result of looking up a sequence of keys.
#[derive(Clone, Copy, Debug)]
pub enum Lookup {
    Command(&'static Command),
    /// The keys are a proper prefix of a binding.
    Pending,
    Nothing,
}

/// All bindings.
#[derive(Clone, Debug)]
pub struct Keymap {
    bindings: Vec<Binding>,
}

impl Keymap {
    /// The defaults overridden by a `keys.toml`, and warnings about its mistakes.
    pub fn new(overrides: Option<(&Path, &str)>) -> (Self, Vec<String>) {
        let mut keymap = Self {
            bindings: defaults(),
        };
        let warnings = overrides.map_or_else(Vec::new, |(path, text)| keymap.lay_over(path, text));
        (keymap, warnings)
    }

    /// The command for a sequence of keys in a context; a binding of the context has precedence over a general one.
    pub fn look_up(&self, context: Context, pressed: &[Key]) -> Lookup {
        let here = |b: &&Binding| b.command.context == context;
        let anywhere = |b: &&Binding| b.command.context == Context::Anywhere;
        let exact = |b: &&Binding| b.keys == pressed;
        let bindings = || self.bindings.iter();
        if let Some(b) = bindings()
            .filter(here)
            .find(exact)
            .or_else(|| bindings().filter(anywhere).find(exact))
        {
            return Lookup::Command(b.command);
        }
        let longer = bindings()
            .filter(|b| here(b) || anywhere(b))
            .any(|b| b.keys.starts_with(pressed));
        if longer {
            Lookup::Pending
        } else {
            Lookup::Nothing
        }
    }

    /// The bindings in a context that go on after these keys: the keys that are left, as text, and the command of each.
    pub fn after(&self, context: Context, pressed: &[Key]) -> Vec<(String, &'static Command)> {
        let here = |b: &&Binding| [context, Context::Anywhere].contains(&b.command.context);
        let bindings = self.bindings.iter().filter(here);
        let longer =
            bindings.filter(|b| b.keys.len() > pressed.len() && b.keys.starts_with(pressed));
        longer
            .map(|b| (spell(&b.keys[pressed.len()..]), b.command))
            .collect()
    }

    /// The keys of a command, as text.
    pub fn keys_of(&self, command: &Command) -> Vec<String> {
        self.bindings
            .iter()
            .filter(|b| b.command.name == command.name)
            .map(|b| spell(&b.keys))
            .collect()
    }

    fn lay_over(&mut self, path: &Path, text: &str) -> Vec<String> {
        let mut warnings = Vec::new();
        let table: toml::Table = match toml::from_str(text) {
            Ok(table) => table,
            Err(error) => {
                let line = error.span().map_or(1, |s| {
                    text[..s.start.min(text.len())].lines().count().max(1)
                });
                return vec![format!(
                    "{}:{line}: {}. The default keys are used.",
                    path.display(),
                    error.message()
                )];
            }
        };
        for (name, value) in &table {
            let line = text
                .lines()
                .position(|l| {
                    l.trim_start()
                        .trim_start_matches('"')
                        .starts_with(name.as_str())
                })
                .map_or(1, |i| i + 1);
            if let Err(why) = self.rebind(name, value) {
                warnings.push(format!(
                    "{}:{line}: {why}. The default is used.",
                    path.display()
                ));
            }
        }
        warnings
    }

    fn rebind(&mut self, name: &str, value: &toml::Value) -> Result<(), String> {
        let command = commands()
            .find(|c| c.name == name)
            .ok_or_else(|| format!("`{name}` is not a command; `lmscope keys` lists them"))?;
        let texts: Vec<&str> = match value {
            toml::Value::String(text) => vec![text],
            toml::Value::Array(list) => list
                .iter()
                .map(|v| v.as_str().ok_or("keys are written in quotes"))
                .collect::<Result<_, _>>()?,
            toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)
            | toml::Value::Table(_) => {
                return Err(
                    "a key is written in quotes, several as a list: steer = [\"s\", \"g s\"]"
                        .into(),
                );
            }
        };
        let mut added = Vec::new();
        for text in texts {
            let keys = chord(text)?;
            if let Some(other) = self.bindings.iter().find(|b| {
                b.command.name != name && clash(&b.keys, b.command.context, &keys, command.context)
            }) {
                return Err(format!("`{text}` already means `{}`", other.command.name));
            }
            added.push(Binding { keys, command });
        }
        self.bindings.retain(|b| b.command.name != name);
        self.bindings.extend(added);
        Ok(())
    }
}

fn defaults() -> Vec<Binding> {
    let mut out = Vec::new();
    for command in commands() {
        for text in command.keys {
            match chord(text) {
                Ok(keys) => out.push(Binding { keys, command }),
                Err(error) => tracing::error!("the row of {}: {error}", command.name),
            }
        }
    }
    out
}

/// Whether two bindings conflict: one is equal to or a prefix of the other, in overlapping contexts.
fn clash(a: &[Key], a_context: Context, b: &[Key], b_context: Context) -> bool {
    let meet =
        a_context == b_context || a_context == Context::Always || b_context == Context::Always;
    let either = meet || a_context == Context::Anywhere || b_context == Context::Anywhere;
    if a == b {
        meet
    } else {
        either && (a.starts_with(b) || b.starts_with(a))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn defaults_do_not_clash() {
        let bindings = defaults();
        let written: usize = commands().map(|c| c.keys.len()).sum();
        assert_eq!(bindings.len(), written, "every default key parses");
        for (i, a) in bindings.iter().enumerate() {
            for b in &bindings[i + 1..] {
                let clash = clash(&a.keys, a.command.context, &b.keys, b.command.context);
                assert!(
                    !clash,
                    "{} and {} share {}",
                    a.command.name,
                    b.command.name,
                    spell(&a.keys)
                );
            }
        }
    }

    #[test]
    fn forbidden_keys_are_not_bound() {
        for binding in defaults() {
            for key in binding.keys {
                let forbidden = [
                    "ctrl-h", "ctrl-i", "ctrl-m", "ctrl-[", "ctrl-s", "ctrl-q", "ctrl-a", "ctrl-b",
                ];
                assert!(
                    !forbidden.contains(&key.to_string().as_str()),
                    "{}",
                    binding.command.name
                );
            }
        }
    }

    #[test]
    fn a_file_lays_over_and_its_mistakes_name_their_line() {
        let text = "zoom = \"ctrl-o\"\n\nnonsense = \"x\"\nquit = \"z\"\nsteer = [\"s\", \"g s\"]\nhelp = 3\ntint = \"ctl-x\"\n";
        let (keymap, warnings) = Keymap::new(Some((Path::new("keys.toml"), text)));
        assert!(
            matches!(keymap.look_up(Context::Figure, &chord("ctrl-o").unwrap()), Lookup::Command(c) if c.name == "zoom")
        );
        assert!(matches!(
            keymap.look_up(Context::Figure, &chord("g").unwrap()),
            Lookup::Pending
        ));
        assert!(
            matches!(keymap.look_up(Context::Figure, &chord("q").unwrap()), Lookup::Command(c) if c.name == "quit")
        );
        let all = warnings.join("\n");
        assert!(all.contains("keys.toml:3: `nonsense`"), "{all}");
        assert!(
            all.contains("keys.toml:6:") && all.contains("keys.toml:7:"),
            "{all}"
        );
        let (_, broken) = Keymap::new(Some((Path::new("keys.toml"), "zoom = \n")));
        assert!(broken[0].starts_with("keys.toml:1:"), "{broken:?}");
    }
}
