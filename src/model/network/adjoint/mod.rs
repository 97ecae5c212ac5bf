//! The way back through a block: from gradients with respect to the stream that leaves it to those with respect to the stream that
//! enters it, computed by the CPU kernels.
//!
//! A block is run forwards once for a text; any number of gradients, such as the rows of a Jacobian, go back through it together.
//! Automatic differentiation would need a graph, and a run of the block, for each of them.
//! Invariant: what comes out is what automatic differentiation of [`super::transformer::Transformer`]'s block gives, to rounding, at
//! every site. A block that this cannot do (a mixture of experts, a device that is not the CPU) is left to automatic
//! differentiation. To change the arrangement of a block, change both.

mod attention;
mod block;
mod mlp;
mod norms;
mod receivers;
mod values;

pub use block::{BlockAdjoint, serves};
pub use receivers::ReceiverAdjoint;
pub use values::{AdjointTap, BlockValues};
