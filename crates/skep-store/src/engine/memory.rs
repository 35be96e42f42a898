//! An engine that keeps nothing: for tests, and for whoever needs a store that ends with the process.

use std::sync::Arc;

use skep_base::Revision;

use super::{AppendError, Engine, Loader, OpenError, Source};
use crate::txn::Change;

/// Acknowledges everything at once and forgets it.
#[derive(Debug, Default)]
pub struct Memory;

impl Engine for Memory {
    fn load(&mut self, _: &mut Loader<'_>) -> Result<Revision, OpenError> {
        Ok(Revision::ZERO)
    }

    fn append(&mut self, _: &[Arc<Change>]) -> Result<(), AppendError> {
        Ok(())
    }

    fn maintain(&mut self, _: &Arc<dyn Source>) {}

    fn close(&mut self) -> Result<(), AppendError> {
        Ok(())
    }
}
