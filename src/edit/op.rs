//! Operations: what an edit may do to the value at its address, as names, arguments and sentences.
//!
//! Invariant: [`OPS`] is in the order of [`Op`]. To add an operation, add a variant, a row, and its arms in
//! `lab/apply.rs` (what it needs) and `lab/change.rs` (its formula).

/// What an edit does to the value `x` at its address; `c` is the strength, `v̂` a unit vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// `x + c·v`, the direction as it is.
    Add,
    /// `x + c·‖x‖·v̂`, with `|c|` at most 1.
    AddUnitNorm,
    /// `y·‖x‖/‖y‖` with `y = x + c·v` (repeng's `normalize`).
    AddRenorm,
    /// `‖x‖·unit(x/‖x‖ + c·(1 + max(0, cos(x, −v)))·v̂)` (in-context vectors, Liu et al. 2023, 2311.06668).
    Icv,
    /// `x − c·(x·v̂)·v̂`.
    ProjectOut,
    /// `x + (c − 1)·(x·v̂)·v̂`: 0 ablates, 1 changes nothing, −1 reflects.
    ScaleAlong,
    /// Moves `x·v̂` to the nearer bound where it lies outside; `c` of the way.
    ClampAlong,
    /// Moves `x·v̂` to a value; `c` of the way.
    SetAlong,
    /// `x − (x·ŝ)·ŝ + (x·ŝ)·t̂`; `c` of the way.
    Swap,
    /// `x + c·(v − x)`.
    Replace,
    /// Units towards 0: `x·(1 − c)`.
    Zero,
    /// Units towards their mean over a text or over the prompt (first token excluded): `x + c·(μ − x)`.
    Mean,
    /// Units towards what they are on another text, at the same position: `x + c·(other − x)`.
    Resample,
    /// Units times `c`.
    Scale,
    /// Units towards a value: `x + c·(value − x)`.
    Set,
    /// Turns what neurons write from one token to another: `v − c·‖v‖·û_from + 8c·‖v‖·û_to` (Dai et al. 2022,
    /// 2104.08696, section 5.1), as an overlay on the value vectors that leaves the weights as they are.
    Rewrite,
    /// Edges of attention: scores `s + ln(1 − c)` before the softmax, `-inf` at full strength (attention knockout, Geva et
    /// al. 2023, 2304.14767). A position always reads itself.
    Cut,
}

/// What comes after an operation's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// `DIRECTION`
    Direction,
    /// `DIRECTION=VALUE`
    DirectionTo,
    /// `DIRECTION=LOW..HIGH`
    DirectionWithin,
    /// `FROM>TO`
    TwoDirections,
    /// `[UNITS]`
    Units,
    /// `[UNITS][=STATISTICS]`
    UnitsMean,
    /// `[UNITS]=VALUE`
    UnitsTo,
    /// `[UNITS]="TEXT"`
    UnitsFrom,
    /// `[UNITS]="FROM">"TO"`
    UnitsTurn,
    /// `[HEADS][=POSITIONS]`
    Edges,
}

/// One row of [`OPS`].
pub struct OpSpec {
    /// The operation.
    pub op: Op,
    /// Its name.
    pub name: &'static str,
    /// What comes after the first colon.
    pub takes: Takes,
    /// One sentence.
    pub about: &'static str,
    /// An edit that does it, as it prints; the demo has what it names.
    pub example: &'static str,
}

macro_rules! rows {
    ($($op:ident $name:literal $takes:ident $about:literal $example:literal;)*) => {
        /// Every operation.
        pub const OPS: &[OpSpec] = &[$(OpSpec { op: Op::$op, name: $name, takes: Takes::$takes, about: $about, example: $example }),*];
    };
}

rows! {
    Add "add" Direction "adds strength times a direction, unnormalised" "add:mood@resid_pre.4*0.5";
    AddUnitNorm "add_unit_norm" Direction "adds a direction scaled to the local norm, at most once that norm" "add_unit_norm:mood@resid_pre.4*0.2";
    AddRenorm "add_renorm" Direction "adds strength times a direction, then restores the norm" "add_renorm:mood@resid_pre.4*0.5";
    Icv "icv" Direction "turns towards a direction, more where the value points away from it, and keeps the norm (in-context vectors)" "icv:mood@mlp_out.*:all*0.2";
    ProjectOut "project_out" Direction "removes the component along a direction" "project_out:refusal@writes";
    ScaleAlong "scale_along" Direction "multiplies the component along a direction by the strength" "scale_along:refusal@resid_pre.4*-1";
    ClampAlong "clamp_along" DirectionWithin "moves the component along a direction into bounds where it lies outside" "clamp_along:mood=-1..1@resid_pre.4";
    SetAlong "set_along" DirectionTo "sets the component along a direction" "set_along:mood=2.5@resid_pre.4";
    Swap "swap" TwoDirections "turns the component along one direction into one along another" "swap:mood>politeness@resid_pre.4";
    Replace "replace" Direction "puts a vector in the value's place" "replace:mood@resid_pre.4:last";
    Zero "zero" Units "sets units (neurons, heads, coordinates; all without a list) to 0" "zero:17,52@mlp_act.3";
    Mean "mean" UnitsMean "sets units to their mean over a text (`lmscope stats`), or over the prompt, first token excluded" "mean:3@z.1:last";
    Resample "resample" UnitsFrom "sets units to what they are on another text, at the same position" r#"resample:0,3="The king of Japan is"@z.2"#;
    Scale "scale" Units "multiplies units by the strength" "scale:17@mlp_act.3*2";
    Set "set" UnitsTo "sets units to a value" "set:17=3.5@mlp_act.3";
    Rewrite "rewrite" UnitsTurn "turns what neurons write from one token to another, as an overlay on the weights" r#"rewrite:17=" Paris">" Rome"@mlp_act.5"#;
    Cut "cut" Edges "keeps positions from reading other ones, in some heads or all (attention knockout); each still reads itself" r#"cut:2=text:" France"@attn_scores.*:last"#;
}

impl Op {
    /// Its row.
    pub fn spec(self) -> &'static OpSpec {
        &OPS[self as usize]
    }

    /// Whether it needs a direction.
    pub fn directed(self) -> bool {
        matches!(
            self.spec().takes,
            Takes::Direction | Takes::DirectionTo | Takes::DirectionWithin | Takes::TwoDirections
        )
    }

    /// The strength at which it does nothing.
    pub fn neutral(self) -> f32 {
        if matches!(self, Self::Scale | Self::ScaleAlong) {
            1.0
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_order_of_the_operations() {
        for (i, spec) in OPS.iter().enumerate() {
            assert_eq!(spec.op as usize, i, "{}", spec.name);
        }
    }
}
