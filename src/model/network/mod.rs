//! The network: the one forward pass, its sites, and the families.
//!
//! Invariant: one [`transformer::Transformer`], driven by a [`blueprint::Blueprint`], serves every family, with one line for
//! each site.
//! To add a family see [`families`]; to add a site see [`site`].

pub mod address;
pub mod adjoint;
pub mod attended;
pub mod attention;
pub mod blueprint;
pub mod cache;
pub mod context;
pub mod families;
pub mod finite;
pub mod head_circuits;
pub mod heads;
pub mod linear;
pub mod mlp;
pub mod names;
pub mod norm;
mod numbers;
pub mod placement;
pub mod quantized;
pub mod readout;
pub mod receivers;
pub mod reduced;
pub mod rope;
pub mod site;
pub mod statistics;
pub mod tap;
pub mod transformer;
pub mod value_overlay;
pub mod value_vectors;
