//! Determines the layers of a table's rows, if its file does not give them, from the number of the model's blocks.
//!
//! Invariant: as many rows as blocks are block outputs (assistant axis); one more row means transformers' hidden states
//! (persona vectors), the last of which is normed and left out; any other number is refused. The interpretation is reported. To
//! read another convention, add it here.

use super::{Direction, arrays, sidecar};
use crate::error::{Error, Result};
use crate::model::Card;
use crate::model::network::site::Site;

impl Direction {
    /// The direction on a model: if its file does not say which states the rows of its table belong to, the number of the
    /// model's blocks decides.
    pub fn with_row_layers(mut self, card: &Card) -> Result<Self> {
        let (layers, anywhere) = (card.layers, self.origin.anywhere);
        let counted = self
            .rows
            .iter()
            .enumerate()
            .all(|(i, (a, _))| usize::from(a.layer) == i);
        let rows = match self.origin.rows {
            // Numbered layers from 0 on, one more than the blocks.
            0 if anywhere && counted && self.rows.len() == layers + 1 => layers + 1,
            rows => rows,
        };
        let site = self.rows.first().map(|(a, _)| a.site);
        if rows < 2 || !counted {
            return Ok(self);
        }
        let states = rows == layers + 1 && (anywhere || site == Some(Site::ResidPre));
        if states {
            self.rows.truncate(layers);
            let places = self.rows.iter_mut().enumerate();
            places.for_each(|(l, (at, _))| *at = Site::ResidPre.at(l));
            self.open_as(format!(
                "it has {rows} rows, one more than this model has blocks, like transformers' hidden states (persona vectors): row L is read as the input of block L, resid_pre.L, which is the output of block L-1; row 0 is the embedding; the last row, taken after the final norm, is left out"
            ));
        } else if anywhere && rows == layers {
            self.open_as(format!(
                "it has {rows} rows, as many as this model has blocks (assistant axis): row L is read as the output of block L, resid_post.L"
            ));
        } else if anywhere || rows == layers + 1 {
            let site = site.filter(|_| !anywhere);
            let of = site.map_or(String::new(), |s| format!(" of {}", s.spec().name));
            return Err(Error::argument(
                "direction",
                format!("a table of {rows} rows{of}"),
                format!(
                    "{layers} rows, the outputs of this model's blocks, or {}, transformers' hidden states, which without a JSON file are read as resid_pre",
                    layers + 1
                ),
            ));
        }
        Ok(self)
    }

    /// Reports how the rows were interpreted.
    fn open_as(&mut self, caution: String) {
        self.origin.anywhere = false;
        let open = [sidecar::OPEN, arrays::BY_LAYER];
        self.origin.cautions.retain(|c| !open.contains(&c.as_str()));
        self.origin.cautions.push(caution);
    }
}
