//! Roles: the meanings a colour can have.
//!
//! Invariant: following [`Role::fallback`] always ends at [`Role::Text`]. To add a role, add a variant, its word in
//! [`ROLES`] at the same place, and the arms the compiler asks for.

/// A colour with a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Plain text.
    Text,
    /// What is read second: labels, units, counts.
    Muted,
    /// What is there but not read: repeated cells, rules.
    Faint,
    /// Titles.
    Title,
    /// Borders of panes.
    Border,
    /// The border and title of the pane that has the keys.
    Focus,
    /// The chosen line of a list.
    Selection,
    /// The cell or row under the cursor.
    Cursor,
    /// What should be seen first.
    Accent,
    /// Names of keys.
    Key,
    /// What a key does.
    Hint,
    /// Passed, done, on.
    Ok,
    /// Look at this.
    Warning,
    /// This failed.
    Error,
    /// Written by the user.
    User,
    /// Written by the model.
    Model,
    /// Written, or measured, under edits.
    Edited,
    /// Measured before the latest change.
    Stale,
    /// Special tokens, which text cannot spell.
    Special,
    /// Bars and sparklines.
    Bar,
}

/// Every role, in the order of the enum.
pub const ROLES: [Role; 20] = [
    Role::Text,
    Role::Muted,
    Role::Faint,
    Role::Title,
    Role::Border,
    Role::Focus,
    Role::Selection,
    Role::Cursor,
    Role::Accent,
    Role::Key,
    Role::Hint,
    Role::Ok,
    Role::Warning,
    Role::Error,
    Role::User,
    Role::Model,
    Role::Edited,
    Role::Stale,
    Role::Special,
    Role::Bar,
];

impl Role {
    /// How theme files name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Muted => "muted",
            Self::Faint => "faint",
            Self::Title => "title",
            Self::Border => "border",
            Self::Focus => "focus",
            Self::Selection => "selection",
            Self::Cursor => "cursor",
            Self::Accent => "accent",
            Self::Key => "key",
            Self::Hint => "hint",
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::User => "user",
            Self::Model => "model",
            Self::Edited => "edited",
            Self::Stale => "stale",
            Self::Special => "special",
            Self::Bar => "bar",
        }
    }

    /// The role it looks like when a theme does not say.
    pub fn fallback(self) -> Option<Self> {
        match self {
            Self::Text => None,
            Self::Faint | Self::Hint => Some(Self::Muted),
            Self::Border | Self::Stale => Some(Self::Faint),
            Self::Cursor => Some(Self::Selection),
            Self::Key | Self::Focus | Self::Bar | Self::User | Self::Special => Some(Self::Accent),
            Self::Edited | Self::Error => Some(Self::Warning),
            Self::Muted
            | Self::Title
            | Self::Selection
            | Self::Accent
            | Self::Ok
            | Self::Warning
            | Self::Model => Some(Self::Text),
        }
    }

    /// What it is made of when a theme says nothing, in the words of a theme file; `None` asks the fallback.
    pub(super) fn usual(self) -> Option<&'static str> {
        match self {
            Self::Text => Some("base05"),
            Self::Muted => Some("base04"),
            Self::Faint => Some("base03"),
            Self::Title => Some("base05 bold"),
            Self::Selection => Some("base05 on base02"),
            Self::Cursor => Some("base00 on base07 bold"),
            Self::Accent => Some("base0D"),
            Self::Key | Self::Focus => Some("base0D bold"),
            Self::Ok => Some("base0B"),
            Self::Warning => Some("base0A"),
            Self::Error => Some("base08 bold"),
            Self::User => Some("base0C"),
            Self::Edited => Some("base09"),
            Self::Special => Some("base0E"),
            Self::Border | Self::Hint | Self::Model | Self::Stale | Self::Bar => None,
        }
    }

    /// The contrast with its background that it must have, by the WCAG formula.
    pub fn contrast(self) -> f32 {
        match self {
            Self::Faint | Self::Stale | Self::Bar => 3.0,
            Self::Border => 1.0,
            Self::Text
            | Self::Muted
            | Self::Title
            | Self::Focus
            | Self::Selection
            | Self::Cursor
            | Self::Accent
            | Self::Key
            | Self::Hint
            | Self::Ok
            | Self::Warning
            | Self::Error
            | Self::User
            | Self::Model
            | Self::Edited
            | Self::Special => 4.5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_the_enum() {
        for (at, role) in ROLES.iter().enumerate() {
            assert_eq!(*role as usize, at, "{}", role.name());
        }
    }

    #[test]
    fn every_chain_ends_at_text() {
        for role in ROLES {
            let chain: Vec<Role> = std::iter::successors(Some(role), |r| r.fallback())
                .take(ROLES.len())
                .collect();
            assert_eq!(chain.last(), Some(&Role::Text), "{}", role.name());
        }
    }
}
