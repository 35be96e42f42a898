//! From stored bytes to answers: objects, lists, tables, metadata, in one tenant's view or across all.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value as Json, json};
use skep_api::{DynKind, codec};
use skep_base::{Revision, TenantName};
use skep_store::Value;

use crate::negotiate::{Accept, Form};
use crate::status::ApiError;

/// The annotation that says, in the cross-tenant view, whose an object is. It is never stored.
pub const TENANT_ANNOTATION: &str = "tenancy.skep.io/tenant";

/// A list is sent in pieces of at most this size, but for objects that are larger: large enough that the cost of a piece does not
/// count, small enough that a slow reader of a long list holds no memory to speak of. A piece is a frame for those who take such
/// (`FRAME_BYTES`, skep-client); a little more would make a second, small one of each, which is copied once more.
const PIECE_BYTES: usize = 128 * 1024;

/// What an object may need beside its stored bytes: a comma, a revision, the tenant's annotation. More is right, too, and then makes a
/// piece larger.
const BESIDE_BYTES: usize = 256;

/// Turns stored values of one kind into what one request asked for.
#[derive(Clone)]
pub struct Output {
    kind: Arc<dyn DynKind>,
    accept: Accept,
    now: Timestamp,
    /// Where `"metadata":` begins in the stored bytes.
    head_len: usize,
    /// Whether each object is to say whose it is.
    all_tenants: bool,
    /// What a table row carries of its object.
    include: Include,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Include {
    None,
    Metadata,
    Object,
}

/// A value and whose it is.
#[derive(Clone)]
pub struct Item {
    /// The tenant.
    pub tenant: TenantName,
    /// The stored value.
    pub value: Arc<Value>,
}

fn damaged(e: impl std::fmt::Display) -> ApiError {
    ApiError::internal(format_args!("a stored object cannot be read: {e}"))
}

impl Output {
    /// # Errors
    /// 400 for an `includeObject` that does not exist.
    pub fn new(
        kind: &Arc<dyn DynKind>,
        accept: Accept,
        include_object: &str,
        now: Timestamp,
        all_tenants: bool,
    ) -> Result<Output, ApiError> {
        let (api_version, name) = kind.stored_as();
        let include = match include_object {
            "" | "Metadata" => Include::Metadata,
            "None" => Include::None,
            "Object" => Include::Object,
            other => return Err(ApiError::bad_request(format!("invalid includeObject value: {other:?}"))),
        };
        Ok(Output {
            head_len: codec::head_len(api_version, name),
            kind: kind.clone(),
            accept,
            now,
            all_tenants,
            include,
        })
    }

    /// The encoding's content type.
    #[must_use]
    pub fn content_type(&self) -> &'static str {
        if self.accept.yaml { "application/yaml" } else { "application/json" }
    }

    /// The stored bytes in the served version, with the revision that an event gave them and, across
    /// tenants, with the tenant's annotation.
    fn object(&self, item: &Item, revision: Option<Revision>, out: &mut Vec<u8>) -> Result<(), ApiError> {
        let stored = item.value.json();
        let converted = self.kind.convert(stored).map_err(damaged)?;
        let (json, head_len) = match &converted {
            Some(json) => {
                let info = self.kind.info();
                (json.as_slice(), codec::head_len(&info.api_version(), &info.kind))
            }
            None => (stored, self.head_len),
        };
        splice(json, head_len, revision, self.all_tenants.then_some(&item.tenant), out);
        Ok(())
    }

    fn metadata(&self, item: &Item, revision: Option<Revision>, out: &mut Vec<u8>) {
        out.extend_from_slice(
            br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":"#,
        );
        let tenant = self.all_tenants.then_some(&item.tenant);
        splice_meta(item.value.meta(), revision, tenant, out);
        out.push(b'}');
    }

    fn row(&self, item: &Item, revision: Option<Revision>) -> Result<Json, ApiError> {
        let mut cells = self.kind.row(item.value.json(), self.now).map_err(damaged)?;
        if self.all_tenants {
            cells.insert(0, item.tenant.as_str().into());
        }
        let object = match self.include {
            Include::None => Json::Null,
            Include::Metadata => {
                let mut bytes = Vec::new();
                self.metadata(item, revision, &mut bytes);
                serde_json::from_slice(&bytes).map_err(damaged)?
            }
            Include::Object => {
                let mut bytes = Vec::new();
                self.object(item, revision, &mut bytes)?;
                serde_json::from_slice(&bytes).map_err(damaged)?
            }
        };
        Ok(json!({"cells": cells, "object": object}))
    }

    fn columns(&self) -> Json {
        let mut columns: Vec<Json> = Vec::new();
        if self.all_tenants {
            columns.push(json!({"name": "Tenant", "type": "string", "format": "", "description": "Whose the object is.", "priority": 0}));
        }
        columns.extend(self.kind.columns().iter().map(|c| {
            json!({"name": c.name, "type": c.ty, "format": c.format, "description": c.description, "priority": c.priority})
        }));
        columns.into()
    }

    fn table(&self, meta: Json, rows: &[Json], with_columns: bool) -> Json {
        let columns = if with_columns { self.columns() } else { Json::Null };
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": columns, "rows": rows})
    }

    /// One object as the client asked for it.
    ///
    /// # Errors
    /// 500 when the stored bytes are damaged.
    pub fn one(&self, item: &Item) -> Result<Bytes, ApiError> {
        let mut out = Vec::with_capacity(item.value.json().len() + 64);
        match self.accept.form {
            Form::Object => self.object(item, None, &mut out)?,
            Form::Metadata => self.metadata(item, None, &mut out),
            Form::Table => {
                let meta = json!({"resourceVersion": item.value.revision().to_string()});
                let table = self.table(meta, &[self.row(item, None)?], true);
                out = table.to_string().into_bytes();
            }
        }
        self.encode(out)
    }

    /// JSON as the client wants it encoded.
    ///
    /// # Errors
    /// 500 when the JSON is damaged.
    pub fn encode(&self, json: Vec<u8>) -> Result<Bytes, ApiError> {
        if !self.accept.yaml {
            return Ok(json.into());
        }
        let tree: Json = serde_json::from_slice(&json).map_err(damaged)?;
        Ok(serde_yaml_ng::to_string(&tree).map_err(damaged)?.into())
    }

    /// The object of a watch event, in one line of JSON.
    ///
    /// # Errors
    /// 500 when the stored bytes are damaged.
    pub fn event(
        &self,
        item: &Item,
        revision: Option<Revision>,
        first: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), ApiError> {
        match self.accept.form {
            Form::Object => self.object(item, revision, out)?,
            Form::Metadata => self.metadata(item, revision, out),
            Form::Table => {
                let at = revision.unwrap_or(item.value.revision());
                let table = self.table(
                    json!({"resourceVersion": at.to_string()}),
                    &[self.row(item, revision)?],
                    first,
                );
                out.extend_from_slice(table.to_string().as_bytes());
            }
        }
        Ok(())
    }

    /// The object of a bookmark event.
    #[must_use]
    pub fn bookmark(&self, revision: Revision, initial_events_end: bool) -> Json {
        let mut meta = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_events_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        match self.accept.form {
            Form::Object => {
                json!({"kind": self.kind.info().kind, "apiVersion": self.kind.info().api_version(), "metadata": meta})
            }
            Form::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta})
            }
            Form::Table => {
                let object = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta});
                let list_meta = json!({"resourceVersion": revision.to_string()});
                self.table(list_meta, &[json!({"cells": [], "object": object})], false)
            }
        }
    }

    /// A list, made piece by piece while it is sent.
    ///
    /// # Errors
    /// 500 when the stored bytes are damaged; only tables, converted versions and YAML read them.
    pub fn list(&self, items: Vec<Item>, meta: &ListMeta) -> Result<crate::body::Body, ApiError> {
        let list_meta = meta.to_json();
        if self.accept.form == Form::Table {
            let rows: Result<Vec<Json>, ApiError> = items.iter().map(|i| self.row(i, None)).collect();
            let table = self.table(list_meta, &rows?, true);
            return Ok(crate::body::Body::Full(self.encode(table.to_string().into_bytes())?));
        }
        let (api_version, kind) = match self.accept.form {
            Form::Metadata => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned()),
            _ => (self.kind.info().api_version(), self.kind.info().list_kind.to_string()),
        };
        let head =
            format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{list_meta},"items":["#);
        let pieces = Pieces {
            output: self.clone(),
            items: items.into_iter(),
            head: Some(head),
            first: true,
            done: false,
        };
        if self.accept.yaml || self.kind.info().api_version() != self.kind.stored_as().0 {
            // Converted objects may turn out damaged, so these are made before the answer begins.
            let whole: Vec<u8> = pieces.flatten().collect();
            return Ok(crate::body::Body::Full(self.encode(whole)?));
        }
        Ok(crate::body::Body::Pieces(Box::new(pieces)))
    }
}

/// The metadata of a list.
#[derive(Clone, Debug, Default)]
pub struct ListMeta {
    /// The revision at which the list is exact.
    pub revision: Revision,
    /// Where the next page begins.
    pub continue_token: Option<String>,
    /// How many items follow on later pages, where it is known.
    pub remaining: Option<usize>,
}

impl ListMeta {
    fn to_json(&self) -> Json {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if let Some(token) = &self.continue_token {
            meta["continue"] = token.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
        meta
    }
}

struct Pieces {
    output: Output,
    items: std::vec::IntoIter<Item>,
    head: Option<String>,
    first: bool,
    done: bool,
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = Vec::with_capacity(PIECE_BYTES);
        if let Some(head) = self.head.take() {
            out.extend_from_slice(head.as_bytes());
        }
        let begun = out.len();
        loop {
            let fits = |item: &Item| out.len() + item.value.json().len() + BESIDE_BYTES <= PIECE_BYTES;
            match self.items.as_slice().first() {
                Some(item) if out.len() > begun && !fits(item) => break,
                _ => {}
            }
            let Some(item) = self.items.next() else {
                out.extend_from_slice(b"]}");
                self.done = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                out.push(b',');
            }
            let start = out.len();
            if self.output.accept.form == Form::Metadata {
                self.output.metadata(&item, None, &mut out);
            } else if let Err(error) = self.output.object(&item, None, &mut out) {
                // The head is sent: all that is left is to say it in the log and end the list early.
                tracing::error!(%error, "list cut short");
                out.truncate(start);
                self.done = true;
                break;
            }
        }
        Some(out.into())
    }
}

/// Copies an object's JSON, replacing its revision and adding the tenant annotation where asked.
/// `head_len` is where `"metadata":` begins.
fn splice(
    json: &[u8],
    head_len: usize,
    revision: Option<Revision>,
    tenant: Option<&TenantName>,
    out: &mut Vec<u8>,
) {
    const METADATA: &[u8] = br#""metadata":"#;
    if revision.is_none() && tenant.is_none() {
        out.extend_from_slice(json);
        return;
    }
    let (head, rest) = json.split_at(head_len + METADATA.len());
    out.extend_from_slice(head);
    splice_meta(rest, revision, tenant, out);
}

/// As [`splice`], for bytes that begin with the metadata's `{"resourceVersion":"N"`.
fn splice_meta(meta: &[u8], revision: Option<Revision>, tenant: Option<&TenantName>, out: &mut Vec<u8>) {
    const BEFORE: &[u8] = br#"{"resourceVersion":""#;
    const ANNOTATIONS: &[u8] = br#","annotations":{"#;
    let digits_end = BEFORE.len() + meta[BEFORE.len()..].iter().position(|&b| b == b'"').unwrap_or(0);
    match revision {
        Some(revision) => {
            out.extend_from_slice(BEFORE);
            out.extend_from_slice(itoa::Buffer::new().format(revision.0).as_bytes());
        }
        None => out.extend_from_slice(&meta[..digits_end]),
    }
    out.push(b'"');
    let rest = &meta[digits_end + 1..];
    let Some(tenant) = tenant else {
        out.extend_from_slice(rest);
        return;
    };
    out.extend_from_slice(ANNOTATIONS);
    out.push(b'"');
    out.extend_from_slice(TENANT_ANNOTATION.as_bytes());
    out.extend_from_slice(b"\":\"");
    out.extend_from_slice(tenant.as_str().as_bytes());
    out.push(b'"');
    // The encoder writes annotations right behind the revision when there are any.
    match rest.strip_prefix(ANNOTATIONS) {
        Some(more) => {
            if more.first() != Some(&b'}') {
                out.push(b',');
            }
            out.extend_from_slice(more);
        }
        None => {
            out.push(b'}');
            out.extend_from_slice(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spliced(json: &str, revision: Option<u64>, tenant: Option<&str>) -> Json {
        let tenant = tenant.map(|t| TenantName::new(t).unwrap());
        let mut out = Vec::new();
        splice(
            json.as_bytes(),
            codec::head_len("v1", "Pod"),
            revision.map(Revision),
            tenant.as_ref(),
            &mut out,
        );
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn splicing_keeps_everything_else() {
        let plain = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"7","name":"x"},"spec":{"a":[1]}}"#;
        let annotated = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"7","annotations":{"k":"v"},"name":"x"}}"#;
        let emptied = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"7","annotations":{},"name":"x"}}"#;
        assert_eq!(spliced(plain, None, None), serde_json::from_str::<Json>(plain).unwrap());
        let v = spliced(plain, Some(123), Some("shop"));
        assert_eq!(v["metadata"]["resourceVersion"], "123");
        assert_eq!(v["metadata"]["annotations"][TENANT_ANNOTATION], "shop");
        assert_eq!(v["metadata"]["name"], "x");
        assert_eq!(v["spec"]["a"][0], 1);
        let v = spliced(annotated, None, Some("shop"));
        assert_eq!(v["metadata"]["annotations"], json!({TENANT_ANNOTATION: "shop", "k": "v"}));
        assert_eq!(v["metadata"]["resourceVersion"], "7");
        let v = spliced(emptied, None, Some("shop"));
        assert_eq!(v["metadata"]["annotations"], json!({TENANT_ANNOTATION: "shop"}));
    }
}
