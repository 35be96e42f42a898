//! `skep image push`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use skep_registry::layout::{Layout, Top};
use skep_registry::push::{Progress as Step, push};
use skep_runtime::images::Reference;

use super::login::Login;
use crate::exit::{Code, failure};
use crate::operator::Operator;
use crate::progress::Progress;

/// Which image of several is meant.
fn choose<'a>(tops: &'a [Top], name: Option<&str>) -> anyhow::Result<&'a Top> {
    let names =
        || tops.iter().flat_map(|t| t.names.iter().map(String::as_str)).collect::<Vec<_>>().join(", ");
    match (tops, name) {
        ([one], None) => Ok(one),
        (_, None) => Err(failure(
            Code::Usage,
            format!("there are {} images in it ({}); say which with --name", tops.len(), names()),
        )),
        (all, Some(name)) => all.iter().find(|top| top.names.iter().any(|n| n == name)).ok_or_else(|| {
            failure(Code::NotFound, format!("no image in it is called {name}; there are: {}", names()))
        }),
    }
}

/// Sends an image.
///
/// # Errors
/// What could not be read or sent.
pub(super) fn run(
    operator: &Operator,
    login: &Login,
    file: &Path,
    to: &Reference,
    name: Option<&str>,
) -> anyhow::Result<()> {
    if to.digest.is_some() {
        return Err(failure(
            Code::Usage,
            format!("{to}: an image is pushed under a tag, not under a digest"),
        ));
    }
    let tag = to.tag.clone().unwrap_or_else(|| "latest".to_owned());
    let work = tempfile::tempdir().context("making a folder to unpack the image in")?;
    let layout = Layout::open(file, work.path())?;
    let top = choose(&layout.tops, name)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        let client = login.client(operator, &to.registry).await?;
        let progress = Progress::new(format!("pushing {to}"));
        let bar = progress.clone();
        let hear = Arc::new(move |step: Step| match step {
            Step::Total(bytes) => bar.total(bytes),
            Step::More(bytes) => bar.more(bytes),
        });
        let pushed = push(&client, &to.repository, &tag, &layout, top, hear).await;
        progress.end(if pushed.is_ok() { "pushed" } else { "failed" });
        // An error of the registry keeps its type: it decides the exit code.
        pushed.map_err(|error| match error {
            skep_registry::push::PushError::Client(error) => anyhow::Error::from(error),
            error => error.into(),
        })?;
        crate::output::print(&format!("{to} {}\n", top.digest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_registry::digest::{Algorithm, Digest};

    #[test]
    fn one_image_needs_no_name_and_several_do() {
        let top = |name: &str| Top {
            names: vec![name.to_owned()],
            digest: Digest::of(Algorithm::Sha256, name.as_bytes()),
            media_type: String::new(),
        };
        let two = [top("a:1"), top("b:1")];
        assert_eq!(choose(&two[..1], None).unwrap(), &two[0]);
        assert_eq!(choose(&two, Some("b:1")).unwrap(), &two[1]);
        let error = choose(&two, None).unwrap_err();
        assert_eq!(crate::exit::code(&error), Code::Usage);
        assert!(error.to_string().contains("a:1, b:1"), "{error}");
        assert_eq!(crate::exit::code(&choose(&two, Some("c")).unwrap_err()), Code::NotFound);
    }
}
