//! Roles: the meanings a colour can have.
//!
//! Invariant: following [`Role::fallback`] always ends at [`Role::Text`]. To add a role, add its row.

/// One line for each role: its name in theme files; its fallback role; its default style in the syntax of a theme file (if
/// empty, the fallback's style); and the contrast with its background that it must have, by the WCAG formula.
macro_rules! rows {
    ($($role:ident $name:literal $fallback:ident $usual:literal $contrast:literal $about:literal;)*) => {
        /// A colour with a meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Role {
            $(#[doc = $about] $role,)*
        }

        /// Every role, in the order of the enum.
        pub const ROLES: [Role; [$($name),*].len()] = [$(Role::$role,)*];

        impl Role {
            /// The name in theme files.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$role => $name,)*
                }
            }

            /// The role whose style is used if a theme does not define this one; none for plain text.
            pub fn fallback(self) -> Option<Self> {
                let other = match self {
                    $(Self::$role => Self::$fallback,)*
                };
                (self != other).then_some(other)
            }

            /// The default style, in the syntax of a theme file; `None` for the fallback's style.
            pub(super) fn usual(self) -> Option<&'static str> {
                let words = match self {
                    $(Self::$role => $usual,)*
                };
                (!words.is_empty()).then_some(words)
            }

            /// The contrast with its background that the role must have, by the WCAG formula.
            pub fn contrast(self) -> f32 {
                match self {
                    $(Self::$role => $contrast,)*
                }
            }
        }
    };
}

rows! {
    Text "text" Text "base05" 4.5 "Plain text.";
    Muted "muted" Text "base04" 4.5 "Secondary text: labels, units, counts.";
    Faint "faint" Muted "base03" 3.0 "Background text: repeated cells, rules.";
    Title "title" Text "base05 bold" 4.5 "Titles.";
    Border "border" Faint "" 1.0 "Borders of panes.";
    Focus "focus" Accent "base0D bold" 4.5 "The border and title of the focused pane.";
    Selection "selection" Text "base05 on base02" 4.5 "The selected line of a list.";
    Cursor "cursor" Selection "base00 on base07 bold" 4.5 "The cell or row under the cursor.";
    Accent "accent" Text "base0D" 4.5 "What should be seen first.";
    Key "key" Accent "base0D bold" 4.5 "Names of keys.";
    Hint "hint" Muted "" 4.5 "What a key does.";
    Ok "ok" Text "base0B" 4.5 "Success, done, on.";
    Warning "warning" Text "base0A" 4.5 "Warning.";
    Error "error" Warning "base08 bold" 4.5 "Error.";
    User "user" Accent "base0C" 4.5 "Written by the user.";
    Model "model" Text "" 4.5 "Written by the model.";
    Edited "edited" Warning "base09" 4.5 "Generated, or measured, under edits.";
    Stale "stale" Faint "" 3.0 "Measured before the latest change.";
    Special "special" Accent "base0E" 4.5 "Special tokens, which have no text.";
    Bar "bar" Accent "" 3.0 "Bars and sparklines.";
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
