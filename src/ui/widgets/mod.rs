//! Small drawings that panes share. Each is text of an exact width, or a mark at the edge of an area.
//!
//! Invariant: no widget is wider than requested, whatever the number. To add one, add a file here.

pub mod bar;
pub mod scroll;
pub mod sparkline;
pub mod spinner;
