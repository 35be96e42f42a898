//! Manifests, tags, referrers, the catalogue.

use http::StatusCode;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::Answer;
use super::server::{Call, blocking, next_piece};
use crate::digest::{Algorithm, Digest};
use crate::error::{Code, RegistryError};
use crate::gate::Verb;
use crate::manifest::{INDEX, MANIFEST_MAX_BYTES, Manifest};
use crate::name::{Reference, RepositoryName, Space, Tag};
use crate::storage::{Condition, Owner, StoredManifest};

/// Largest page of tags or repositories. Who wants more follows the link.
const PAGE_MAX: usize = 10_000;
/// Largest page of referrers; each is read from its file.
const REFERRERS_PAGE_MAX: usize = 500;
/// A page of referrers ends after so many bytes of manifests, for their annotations are copied.
const REFERRERS_PAGE_BYTES: usize = MANIFEST_MAX_BYTES;
/// Tags that one request may set.
const TAGS_PER_PUT_MAX: usize = 100;

/// Text that can stand in a query.
fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// How large a page the request wants, and after what it begins.
fn page(call: &Call) -> Result<(usize, String), RegistryError> {
    let n = match call.query.get("n") {
        None => PAGE_MAX,
        Some(text) => text.parse::<usize>().map_err(|_| {
            RegistryError::new(
                Code::PaginationInvalid,
                format!("{text:?} is not how many there should be: write n=100"),
            )
        })?,
    };
    Ok((n.min(PAGE_MAX), call.query.get("last").unwrap_or("").to_owned()))
}

/// The page of sorted names, and how the next one is asked for.
fn cut(all: Vec<String>, path: &str, n: usize, last: &str) -> (Vec<String>, Option<String>) {
    let mut rest = all.into_iter().filter(|name| last.is_empty() || name.as_str() > last);
    let names: Vec<String> = rest.by_ref().take(n).collect();
    let link = match names.last() {
        Some(last) if rest.next().is_some() => {
            Some(format!("<{path}?n={n}&last={}>; rel=\"next\"", escaped(last)))
        }
        _ => None,
    };
    (names, link)
}

fn with_link(answer: Answer, link: Option<String>) -> Answer {
    match link {
        Some(link) => answer.header("link", link),
        None => answer,
    }
}

impl Call {
    /// Finds a manifest: here, or where a mirror's come from.
    async fn find(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<StoredManifest, RegistryError> {
        let access = self.access(name, Verb::Pull).await?;
        if let Space::Mirror(_) = name.space {
            return self.registry.mirrors.manifest(&access.repository, reference).await;
        }
        let (storage, reference) = (self.registry.storage.clone(), reference.clone());
        let repository = access.repository;
        blocking(move || match storage.manifest(&repository, &reference) {
            Err(e) if e.code == Code::ManifestUnknown && !storage.exists(&repository) => {
                Err(RegistryError::new(Code::NameUnknown, "there is no such repository"))
            }
            result => result,
        })
        .await
    }

    pub(super) async fn get_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<Answer, RegistryError> {
        let found = self.find(name, reference).await?;
        let etag = format!("\"{}\"", found.digest);
        if self.is_known(&found.digest) {
            return Ok(Answer::new(StatusCode::NOT_MODIFIED).header("etag", etag));
        }
        Ok(Answer::new(StatusCode::OK)
            .header("docker-content-digest", found.digest.to_string())
            .header("etag", etag)
            .bytes(&found.manifest.media_type, found.bytes))
    }

    fn condition(&self) -> Condition {
        if let Some(header) = self.header("if-match") {
            let tags = header.split(',').map(|t| t.trim().trim_matches('"').to_owned());
            return Condition::Is(tags.collect());
        }
        match self.header("if-none-match") {
            Some("*") => Condition::Absent,
            _ => Condition::Always,
        }
    }

    pub(super) async fn put_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        mut body: Incoming,
    ) -> Result<Answer, RegistryError> {
        let access = self.access(name, Verb::Push).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = next_piece(&mut body).await? {
            if bytes.len() + piece.len() > MANIFEST_MAX_BYTES {
                let message =
                    format!("a manifest of more than {MANIFEST_MAX_BYTES} bytes is not stored here");
                return Err(RegistryError::new(Code::ManifestTooLarge, message));
            }
            bytes.extend_from_slice(&piece);
        }
        let (algorithm, mut tags) = match reference {
            Reference::Digest(digest) => (digest.algorithm(), Vec::new()),
            Reference::Tag(tag) => (Algorithm::Sha256, vec![tag.clone()]),
        };
        let more = self.query.all("tag");
        if more.len() > TAGS_PER_PUT_MAX {
            let message = format!("a request may set {TAGS_PER_PUT_MAX} tags");
            return Err(RegistryError::new(Code::ManifestInvalid, message));
        }
        for tag in more {
            tags.push(tag.parse::<Tag>()?);
        }
        let digest = Digest::of(algorithm, &bytes);
        if let Reference::Digest(said) = reference
            && *said != digest
        {
            let message = format!("the manifest is {digest} and not {said}");
            return Err(RegistryError::new(Code::DigestInvalid, message).about(vec![said.to_string()]));
        }
        let manifest = Manifest::parse(&bytes, self.header("content-type").unwrap_or(""))?;
        let subject = manifest.subject.as_ref().map(|s| s.digest.to_string());
        let stored = StoredManifest { digest: digest.clone(), manifest, bytes };
        let (storage, condition) = (self.registry.storage.clone(), self.condition());
        let set = tags.clone();
        let quota = access.quota_bytes;
        blocking(move || storage.put_manifest(&access.repository, &stored, &set, &condition, false, quota))
            .await?;
        let mut answer = Answer::new(StatusCode::CREATED)
            .header("location", format!("/v2/{name}/manifests/{digest}"))
            .header("docker-content-digest", digest.to_string())
            .header("content-length", "0");
        if let Some(subject) = subject {
            answer = answer.header("oci-subject", subject);
        }
        for tag in self.query.all("tag") {
            answer = answer.header("oci-tag", tag);
        }
        Ok(answer)
    }

    pub(super) async fn delete_manifest(
        &self,
        name: &RepositoryName,
        reference: Reference,
    ) -> Result<Answer, RegistryError> {
        let access = self.access(name, Verb::Delete).await?;
        let storage = self.registry.storage.clone();
        blocking(move || storage.delete_manifest(&access.repository, &reference)).await?;
        Ok(Answer::new(StatusCode::ACCEPTED).header("content-length", "0"))
    }

    pub(super) async fn tags(&self, name: &RepositoryName) -> Result<Answer, RegistryError> {
        let access = self.access(name, Verb::Pull).await?;
        let (n, last) = page(self)?;
        let tags = match name.space {
            Space::Mirror(_) => self.registry.mirrors.tags(&access.repository).await?,
            Space::Tenant(_) => {
                let storage = self.registry.storage.clone();
                blocking(move || storage.tags(&access.repository)).await?
            }
        };
        let (tags, link) = cut(tags, &format!("/v2/{name}/tags/list"), n, &last);
        let body = json!({"name": name.to_string(), "tags": tags});
        Ok(with_link(Answer::json(StatusCode::OK, &body), link))
    }

    pub(super) async fn referrers(
        &self,
        name: &RepositoryName,
        subject: Digest,
    ) -> Result<Answer, RegistryError> {
        let access = self.access(name, Verb::Pull).await?;
        let wanted = self.query.get("artifactType").map(str::to_owned);
        let (manifests, link) = match name.space {
            Space::Mirror(_) => (self.registry.mirrors.referrers(&access.repository, &subject).await?, None),
            Space::Tenant(_) => {
                let last = self.query.get("last").unwrap_or("").to_owned();
                let storage = self.registry.storage.clone();
                let of = subject.clone();
                let found =
                    blocking(move || storage.referrers(&access.repository, &of, &last, REFERRERS_PAGE_MAX))
                        .await?;
                self.referrers_page(name, &subject, &found)
            }
        };
        let manifests: Vec<Value> = manifests
            .into_iter()
            .filter(|m| wanted.as_ref().is_none_or(|w| m["artifactType"].as_str() == Some(w)))
            .collect();
        let body = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let mut answer = Answer::new(StatusCode::OK).bytes(INDEX, body.to_string().into_bytes());
        if wanted.is_some() {
            answer = answer.header("oci-filters-applied", "artifactType");
        }
        Ok(with_link(answer, link))
    }

    /// As many entries as fit, and where the rest is.
    fn referrers_page(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        found: &[StoredManifest],
    ) -> (Vec<Value>, Option<String>) {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for stored in found {
            if !entries.is_empty() && bytes + stored.bytes.len() > REFERRERS_PAGE_BYTES {
                break;
            }
            bytes += stored.bytes.len();
            entries.push(stored.manifest.descriptor(&stored.digest, &stored.bytes));
        }
        let cut = entries.len() < found.len() || found.len() == REFERRERS_PAGE_MAX;
        let last = found.get(entries.len().wrapping_sub(1)).filter(|_| cut);
        let link = last.map(|last| {
            let filter = self.query.get("artifactType").map(|t| format!("&artifactType={}", escaped(t)));
            let last = escaped(&last.digest.to_string());
            format!(
                "</v2/{name}/referrers/{subject}?last={last}{}>; rel=\"next\"",
                filter.unwrap_or_default()
            )
        });
        (entries, link)
    }

    /// The repositories that the caller may know of: its tenant's; for an operator everybody's.
    pub(super) async fn catalog(&self) -> Result<Answer, RegistryError> {
        let (n, last) = page(self)?;
        let operator = self.caller.is_operator();
        let space = Space::Tenant(self.caller.tenant.clone());
        let own = match self.registry.gate.tenant(&self.caller.tenant).await? {
            Some(tenant) if tenant.uid == self.caller.tenant_uid => Some(Owner::of(&space, &tenant.uid)),
            _ => None,
        };
        let storage = self.registry.storage.clone();
        let mut names = blocking(move || {
            let owners = if operator { storage.owners()? } else { own.into_iter().collect() };
            let mut all = Vec::new();
            for owner in owners {
                let first = match &owner {
                    Owner::Tenant(name, _) | Owner::Mirror(name) => name.clone(),
                };
                all.extend(storage.repositories(&owner)?.into_iter().map(|path| format!("{first}/{path}")));
            }
            Ok(all)
        })
        .await?;
        names.sort_unstable();
        names.dedup();
        if !operator {
            let mut allowed = Vec::new();
            for name in names {
                if let Ok(parsed) = name.parse::<RepositoryName>()
                    && self.registry.gate.authorize(&self.caller, Verb::Pull, &parsed).await?
                {
                    allowed.push(name);
                }
            }
            names = allowed;
        }
        let (names, link) = cut(names, "/v2/_catalog", n, &last);
        Ok(with_link(Answer::json(StatusCode::OK, &json!({ "repositories": names })), link))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let all: Vec<String> = ["a", "b", "c", "d/e"].map(str::to_owned).into();
        let (mut last, mut seen, mut pages) = (String::new(), Vec::new(), 0);
        loop {
            let (names, link) = cut(all.clone(), "/p", 2, &last);
            pages += 1;
            last = names.last().cloned().unwrap_or_default();
            seen.extend(names);
            match link {
                Some(link) => assert_eq!(link, "</p?n=2&last=b>; rel=\"next\""),
                None => break,
            }
        }
        assert_eq!((seen, pages), (all.clone(), 2));
        assert_eq!(cut(all.clone(), "/p", 0, ""), (vec![], None));
        assert_eq!(cut(all, "/p", 5, "d/e"), (vec![], None));
    }
}
