//! An engine that forgets: for tests, and to keep the trait honest.

use std::sync::Arc;

use skep_base::Revision;

use super::{AppendError, Engine, Loader, OpenError, Source};
use crate::txn::Change;

/// Keeps nothing.
#[derive(Debug, Default)]
pub struct Memory;

impl Engine for Memory {
    fn load(&mut self, _: &mut dyn Loader) -> Result<Revision, OpenError> {
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
