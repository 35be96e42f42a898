//! Answers that were given, for who asks the same again.

use rustc_hash::FxHashMap;

use crate::answer::Reply;
use crate::server::Shared;

/// Where a message's number ends, which is each question's own.
const NUMBER_BYTES: usize = 2;
/// Most answers that are kept: with questions of 60 bytes and answers of 100, which is usual, less than a MiB. When there are more, all
/// are forgotten: a client that asks for thousands of names gains nothing, and takes nothing from others for long.
const MAX_KEPT: usize = 4096;
/// The longest question whose answer is kept: that for the longest name, of 255 bytes, with what resolvers add to it. What is longer is padded,
/// and a client that pads thousands of questions would have the node's agent hold several MiB for nothing.
const MAX_QUESTION_BYTES: usize = 320;

/// Answers by their questions, both without their numbers, as long as no name changes.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    kept: FxHashMap<Box<[u8]>, Vec<u8>>,
    changes: u64,
}

/// What becomes of a question.
pub(crate) enum Kept<'a> {
    /// It was asked before.
    Answer(&'a [u8]),
    /// Anything else.
    Other(Reply),
}

impl Answered {
    /// The answer to a question in a packet.
    pub(crate) fn answer(&mut self, query: &[u8], shared: &Shared) -> Kept<'_> {
        let Some((number, question)) = query.split_at_checked(NUMBER_BYTES) else {
            return Kept::Other(Reply::Nothing);
        };
        if self.changes != shared.changes() {
            self.kept.clear();
        }
        if !self.kept.contains_key(question) {
            let (reply, changes, stays) = shared.answer_packet(query);
            let Reply::Answer(bytes) = reply else { return Kept::Other(reply) };
            if self.changes != changes || self.kept.len() >= MAX_KEPT {
                self.kept.clear();
                self.changes = changes;
            }
            if !stays || question.len() > MAX_QUESTION_BYTES || bytes.len() < NUMBER_BYTES {
                return Kept::Other(Reply::Answer(bytes));
            }
            self.kept.insert(question.into(), bytes);
        }
        match self.kept.get_mut(question) {
            Some(answer) => {
                answer[..NUMBER_BYTES].copy_from_slice(number);
                Kept::Answer(answer)
            }
            None => Kept::Other(Reply::Nothing),
        }
    }
}
