//! Which form of answer a client wants, and in which form it sends.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

use crate::rest::write::yaml_to_json;
use crate::status::ApiError;

/// What the answer to a read looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The objects themselves.
    Object,
    /// `as=Table`: columns and rows.
    Table,
    /// `as=PartialObjectMetadata` or `as=PartialObjectMetadataList`.
    Metadata,
}

/// The answer's form and encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// What is sent.
    pub form: Form,
    /// YAML instead of JSON.
    pub yaml: bool,
}

impl Accept {
    /// Objects in JSON.
    pub const JSON: Accept = Accept { form: Form::Object, yaml: false };

    /// Reads the `Accept` header: the first alternative that can be served.
    ///
    /// # Errors
    /// 406 when none can.
    pub fn parse(headers: &HeaderMap) -> Result<Accept, ApiError> {
        let Some(value) = headers.get(ACCEPT) else { return Ok(Accept::JSON) };
        let text = value.to_str().unwrap_or("");
        if text.trim().is_empty() {
            return Ok(Accept::JSON);
        }
        text.split(',')
            .find_map(alternative)
            .ok_or_else(|| ApiError::not_acceptable("application/json, application/yaml"))
    }
}

fn alternative(text: &str) -> Option<Accept> {
    let mut parts = text.split(';').map(str::trim);
    let yaml = match parts.next()? {
        "application/json" | "*/*" | "application/*" => false,
        "application/yaml" => true,
        _ => return None,
    };
    let (mut form, mut group, mut version) = (Form::Object, "", "");
    for part in parts {
        match part.split_once('=')? {
            ("as", "Table") => form = Form::Table,
            ("as", "PartialObjectMetadata" | "PartialObjectMetadataList") => form = Form::Metadata,
            ("as", _) => return None,
            ("g", g) => group = g,
            ("v", v) => version = v,
            ("stream", "watch") | ("charset" | "q" | "pretty", _) => {}
            _ => return None,
        }
    }
    if form != Form::Object && (group != "meta.k8s.io" || version != "v1") {
        return None;
    }
    Some(Accept { form, yaml })
}

/// What a request body is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// JSON, also when nothing is said.
    Json,
    /// YAML.
    Yaml,
    /// Protobuf in Kubernetes' envelope, as clients with generated types send.
    Protobuf,
}

impl ContentType {
    /// Reads the `Content-Type` of a body that holds an object.
    ///
    /// # Errors
    /// 415 for anything that is not JSON, YAML or protobuf.
    pub fn parse(headers: &HeaderMap) -> Result<ContentType, ApiError> {
        match media_type(headers) {
            "" | "application/json" | "*/*" => Ok(ContentType::Json),
            "application/yaml" => Ok(ContentType::Yaml),
            skep_proto::MEDIA_TYPE => Ok(ContentType::Protobuf),
            _ => Err(ApiError::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
            )),
        }
    }
}

/// A body that holds an object, as JSON whatever it was written in.
///
/// # Errors
/// 415 for encodings that are not known, 400 for bodies that are not what their headers say.
pub fn json_body<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<Cow<'a, [u8]>, ApiError> {
    Ok(match ContentType::parse(headers)? {
        ContentType::Json => Cow::Borrowed(body),
        ContentType::Yaml => Cow::Owned(yaml_to_json(body)?),
        ContentType::Protobuf => {
            let decoded = skep_proto::decode(body).map_err(|e| ApiError::bad_request(e.to_string()))?;
            Cow::Owned(decoded.json)
        }
    })
}

/// The media type of the body, without parameters; empty when nothing is said.
#[must_use]
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> Result<Accept, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, text.parse().unwrap());
        Accept::parse(&headers)
    }

    #[test]
    fn bodies_of_every_encoding() {
        let read = |encoding: &str, body: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, encoding.parse().unwrap());
            json_body(&headers, body).map(|json| String::from_utf8(json.into_owned()).unwrap())
        };
        assert_eq!(read("application/json; charset=utf-8", b"{}").unwrap(), "{}");
        assert_eq!(read("application/yaml", b"a: 1").unwrap(), "{\"a\":1}");
        assert_eq!(
            read("application/yaml", b"a: &x {1: 2, b: ~}\nc: *x").unwrap(),
            r#"{"a":{"1":2,"b":null},"c":{"1":2,"b":null}}"#
        );
        for bad in ["a: [", "a: *b", "a: 1\nb: !x 1"] {
            assert_eq!(read("application/yaml", bad.as_bytes()).unwrap_err().code, 400, "{bad}");
        }
        let bomb = format!(
            "a: &a [{}]\nb: &b [{}]\nc: [{}]",
            "x,".repeat(1000),
            "*a,".repeat(1000),
            "*b,".repeat(1000)
        );
        let refused = read("application/yaml", bomb.as_bytes()).unwrap_err();
        assert!(refused.code == 400 && refused.message.contains("more than 3145728 bytes"), "{refused:?}");
        let namespace = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12\x05\x0a\x03\x0a\x01n";
        assert_eq!(
            read("application/vnd.kubernetes.protobuf", namespace).unwrap(),
            r#"{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"n"}}"#
        );
        assert_eq!(read("application/vnd.kubernetes.protobuf", b"{}").unwrap_err().code, 400);
        assert_eq!(read("application/cbor", b"").unwrap_err().code, 415);
    }

    #[test]
    fn kubectls_headers() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl).unwrap().form, Form::Table);
        assert_eq!(accept("application/vnd.kubernetes.protobuf,application/json").unwrap(), Accept::JSON);
        assert_eq!(
            accept("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").unwrap().form,
            Form::Metadata
        );
        assert_eq!(accept("*/*").unwrap(), Accept::JSON);
        assert_eq!(accept("application/vnd.kubernetes.protobuf").unwrap_err().code, 406);
        assert!(accept("application/yaml").unwrap().yaml);
    }
}
