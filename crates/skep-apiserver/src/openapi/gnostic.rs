//! OpenAPI v2 in protobuf, which client-go asks for: the messages of gnostic's `openapi.v2` package, as far
//! as documents made here use them.
//!
//! Every function takes a piece of the JSON document and gives the bytes of its message. What a message has
//! no field for is left out; keys that begin with `x-` are vendor extensions.

use serde_json::Value as Json;

/// The media type of the answer.
pub const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What clients ask for, which is no media type by the rules.
pub const ASKED_FOR: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// A message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn tag(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.tag(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u32, message: Message) {
        self.bytes(field, &message.0);
    }

    fn text(&mut self, field: u32, json: Option<&Json>) {
        if let Some(text) = json.and_then(Json::as_str).filter(|t| !t.is_empty()) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u32, json: Option<&Json>) {
        for text in json.and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn flag(&mut self, field: u32, json: Option<&Json>) {
        if json == Some(&Json::Bool(true)) {
            self.tag(field, 0);
            self.varint(1);
        }
    }

    fn number(&mut self, field: u32, json: Option<&Json>) {
        if let Some(number) = json.and_then(Json::as_i64).filter(|n| *n != 0) {
            self.tag(field, 0);
            // Two's complement: what protobuf does with negative numbers.
            self.varint(number as u64);
        }
    }

    fn double(&mut self, field: u32, json: Option<&Json>) {
        if let Some(number) = json.and_then(Json::as_f64).filter(|n| *n != 0.0) {
            self.tag(field, 1);
            self.0.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn any(&mut self, field: u32, json: Option<&Json>) {
        if let Some(json) = json {
            self.message(field, any(json));
        }
    }

    fn anys(&mut self, field: u32, json: Option<&Json>) {
        for json in json.and_then(Json::as_array).into_iter().flatten() {
            self.message(field, any(json));
        }
    }

    /// A map, as a list of names and values.
    fn map(&mut self, field: u32, json: Option<&Json>, of: impl Fn(&Json) -> Message) {
        for (name, value) in json.and_then(Json::as_object).into_iter().flatten() {
            self.message(field, named(name, of(value)));
        }
    }

    fn extensions(&mut self, field: u32, json: &Json) {
        let fields = json.as_object().into_iter().flatten();
        for (name, value) in fields.filter(|(name, _)| name.starts_with("x-")) {
            self.message(field, named(name, any(value)));
        }
    }
}

fn named(name: &str, value: Message) -> Message {
    let mut message = Message::default();
    message.bytes(1, name.as_bytes());
    message.message(2, value);
    message
}

/// Anything at all, as YAML, which JSON is.
fn any(json: &Json) -> Message {
    let mut message = Message::default();
    message.bytes(2, json.to_string().as_bytes());
    message
}

/// The whole document.
#[must_use]
pub fn encode(document: &Json) -> Vec<u8> {
    let mut message = Message::default();
    message.text(1, document.get("swagger"));
    let mut info = Message::default();
    info.text(1, document.pointer("/info/title"));
    info.text(2, document.pointer("/info/version"));
    message.message(2, info);
    let mut paths = Message::default();
    paths.map(2, document.get("paths"), path_item);
    message.message(8, paths);
    let mut definitions = Message::default();
    definitions.map(1, document.get("definitions"), schema);
    message.message(9, definitions);
    message.0
}

fn path_item(json: &Json) -> Message {
    let mut message = Message::default();
    for (name, field) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if let Some(json) = json.get(name) {
            message.message(field, operation(json));
        }
    }
    parameters(&mut message, 9, json.get("parameters"));
    message
}

fn operation(json: &Json) -> Message {
    let mut message = Message::default();
    message.texts(1, json.get("tags"));
    message.text(3, json.get("description"));
    message.text(5, json.get("operationId"));
    message.texts(6, json.get("produces"));
    message.texts(7, json.get("consumes"));
    parameters(&mut message, 8, json.get("parameters"));
    let mut responses = Message::default();
    responses.map(1, json.get("responses"), |json| {
        let mut response = Message::default();
        response.text(1, json.get("description"));
        if let Some(json) = json.get("schema") {
            let mut item = Message::default();
            item.message(1, schema(json));
            response.message(2, item);
        }
        let mut value = Message::default();
        value.message(1, response);
        value
    });
    message.message(9, responses);
    message.texts(10, json.get("schemes"));
    message.extensions(13, json);
    message
}

fn parameters(message: &mut Message, field: u32, json: Option<&Json>) {
    for json in json.and_then(Json::as_array).into_iter().flatten() {
        let mut parameter = Message::default();
        match json.get("in").and_then(Json::as_str) {
            Some("body") => {
                let mut body = Message::default();
                body.text(2, json.get("name"));
                body.text(3, json.get("in"));
                body.flag(4, json.get("required"));
                if let Some(json) = json.get("schema") {
                    body.message(5, schema(json));
                }
                parameter.message(1, body);
            }
            place => {
                // The fields of parameters in queries stand one behind those in paths from the fifth on.
                let (number, shift) = if place == Some("path") { (4, 0) } else { (3, 1) };
                let mut plain = Message::default();
                plain.flag(1, json.get("required"));
                plain.text(2, json.get("in"));
                plain.text(3, json.get("description"));
                plain.text(4, json.get("name"));
                plain.text(5 + shift, json.get("type"));
                plain.text(6 + shift, json.get("format"));
                plain.flag(19 + shift, json.get("uniqueItems"));
                let mut other = Message::default();
                other.message(number, plain);
                parameter.message(2, other);
            }
        }
        let mut item = Message::default();
        item.message(1, parameter);
        message.message(field, item);
    }
}

fn schema(json: &Json) -> Message {
    let mut message = Message::default();
    message.text(1, json.get("$ref"));
    message.text(2, json.get("format"));
    message.text(3, json.get("title"));
    message.text(4, json.get("description"));
    message.any(5, json.get("default"));
    message.double(6, json.get("multipleOf"));
    message.double(7, json.get("maximum"));
    message.double(9, json.get("minimum"));
    message.number(11, json.get("maxLength"));
    message.number(12, json.get("minLength"));
    message.text(13, json.get("pattern"));
    message.number(14, json.get("maxItems"));
    message.number(15, json.get("minItems"));
    message.flag(16, json.get("uniqueItems"));
    message.number(17, json.get("maxProperties"));
    message.number(18, json.get("minProperties"));
    message.texts(19, json.get("required"));
    message.anys(20, json.get("enum"));
    if let Some(json) = json.get("additionalProperties") {
        let mut item = Message::default();
        match json {
            Json::Bool(_) => item.flag(2, Some(json)),
            json => item.message(1, schema(json)),
        }
        message.message(21, item);
    }
    if let Some(kind) = json.get("type").and_then(Json::as_str) {
        let mut item = Message::default();
        item.bytes(1, kind.as_bytes());
        message.message(22, item);
    }
    if let Some(json) = json.get("items") {
        let mut item = Message::default();
        item.message(1, schema(json));
        message.message(23, item);
    }
    for json in json.get("allOf").and_then(Json::as_array).into_iter().flatten() {
        message.message(24, schema(json));
    }
    if let Some(properties) = json.get("properties") {
        let mut all = Message::default();
        all.map(1, Some(properties), schema);
        message.message(25, all);
    }
    message.extensions(31, json);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bytes_are_those_of_the_messages() {
        let of = schema(&json!({
            "$ref": "#/d/A", "type": "object", "maxLength": 300, "required": ["a"],
            "additionalProperties": true, "x-k": [1],
        }));
        let mut want = vec![0x0a, 5];
        want.extend(b"#/d/A");
        // maxLength 300, required ["a"]
        want.extend([0x58, 0xac, 0x02, 0x9a, 0x01, 1, b'a']);
        // additionalProperties {boolean: true}, type {value: ["object"]}
        want.extend([0xaa, 0x01, 2, 0x10, 1, 0xb2, 0x01, 8, 0x0a, 6]);
        want.extend(b"object");
        // vendor_extension {name: "x-k", value: {yaml: "[1]"}}
        want.extend([0xfa, 0x01, 12, 0x0a, 3]);
        want.extend(b"x-k");
        want.extend([0x12, 5, 0x12, 3]);
        want.extend(b"[1]");
        assert_eq!(of.0, want);
    }

    #[test]
    fn documents_have_paths_and_definitions() {
        let bytes = encode(&json!({
            "swagger": "2.0", "info": {"title": "K", "version": "v"},
            "paths": {"/a": {"post": {"parameters": [{"name": "q", "in": "query", "type": "string"}]}}},
            "definitions": {"A": {"type": "string"}},
        }));
        let mut want = vec![0x0a, 3];
        want.extend(b"2.0");
        want.extend([0x12, 6, 0x0a, 1, b'K', 0x12, 1, b'v']);
        let parameter = [0x12, 5, b'q', b'u', b'e', b'r', b'y', 0x22, 1, b'q', 0x32, 6];
        let mut query = parameter.to_vec();
        query.extend(b"string");
        let wrap = |tag: u8, inner: &[u8]| {
            let mut out = vec![tag, u8::try_from(inner.len()).unwrap()];
            out.extend(inner);
            out
        };
        // ParametersItem.parameter.non_body_parameter.query_parameter_sub_schema
        let item = wrap(0x42, &wrap(0x0a, &wrap(0x12, &wrap(0x1a, &query))));
        let mut operation = item;
        operation.extend([0x4a, 0]);
        let mut named = vec![0x0a, 2, b'/', b'a'];
        named.extend(wrap(0x12, &wrap(0x22, &operation)));
        want.extend(wrap(0x42, &wrap(0x12, &named)));
        let mut named = vec![0x0a, 1, b'A'];
        let kind = wrap(0xb2, &[]);
        assert_eq!(kind.len(), 2);
        let mut of_type = vec![0xb2, 0x01, 8, 0x0a, 6];
        of_type.extend(b"string");
        named.extend(wrap(0x12, &of_type));
        want.extend(wrap(0x4a, &wrap(0x0a, &named)));
        assert_eq!(bytes, want);
    }
}
