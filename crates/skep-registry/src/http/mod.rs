//! The protocol.

mod answer;
mod blobs;
mod manifests;
mod range;
mod route;
pub(crate) mod server;

pub(crate) use answer::{Answer, Body, empty as empty_body, file as file_body, streamed as streamed_body};
pub(crate) use server::blocking;
