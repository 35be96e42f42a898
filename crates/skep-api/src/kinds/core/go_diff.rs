//! Differences as upstream shows them in a few messages: a unified diff of Go structs written as JSON.
//!
//! Upstream prints its internal types there, whose fields have Go's names and are never left out; a
//! [`Shape`] says which.

use std::fmt::Write;

use serde::Serialize;
use serde_json::{Map, Value};

/// Unchanged lines around a change.
const CONTEXT: usize = 3;

/// What stands for an absent field.
#[derive(Clone, Copy)]
enum Absent {
    Null,
    Text,
    False,
    /// A struct that is not behind a pointer.
    Struct,
}

/// The fields of a Go struct in their order.
pub(super) struct Shape {
    fields: &'static [Field],
}

struct Field {
    go_name: &'static str,
    json_name: &'static str,
    absent: Absent,
    shape: Option<&'static Shape>,
}

const fn field(go_name: &'static str, json_name: &'static str, absent: Absent) -> Field {
    Field { go_name, json_name, absent, shape: None }
}

const fn nested(
    go_name: &'static str,
    json_name: &'static str,
    absent: Absent,
    shape: &'static Shape,
) -> Field {
    Field { go_name, json_name, absent, shape: Some(shape) }
}

const SECRET: Shape =
    Shape { fields: &[field("Name", "name", Absent::Text), field("Namespace", "namespace", Absent::Text)] };

const CSI: Shape = Shape {
    fields: &[
        field("Driver", "driver", Absent::Text),
        field("VolumeHandle", "volumeHandle", Absent::Text),
        field("ReadOnly", "readOnly", Absent::False),
        field("FSType", "fsType", Absent::Text),
        field("VolumeAttributes", "volumeAttributes", Absent::Null),
        nested("ControllerPublishSecretRef", "controllerPublishSecretRef", Absent::Null, &SECRET),
        nested("NodeStageSecretRef", "nodeStageSecretRef", Absent::Null, &SECRET),
        nested("NodePublishSecretRef", "nodePublishSecretRef", Absent::Null, &SECRET),
        nested("ControllerExpandSecretRef", "controllerExpandSecretRef", Absent::Null, &SECRET),
        nested("NodeExpandSecretRef", "nodeExpandSecretRef", Absent::Null, &SECRET),
    ],
};

const HOST_PATH: Shape =
    Shape { fields: &[field("Path", "path", Absent::Text), field("Type", "type", Absent::Null)] };

const NFS: Shape = Shape {
    fields: &[
        field("Server", "server", Absent::Text),
        field("Path", "path", Absent::Text),
        field("ReadOnly", "readOnly", Absent::False),
    ],
};

const LOCAL: Shape =
    Shape { fields: &[field("Path", "path", Absent::Text), field("FSType", "fsType", Absent::Null)] };

const REQUIREMENT: Shape = Shape {
    fields: &[
        field("Key", "key", Absent::Text),
        field("Operator", "operator", Absent::Text),
        field("Values", "values", Absent::Null),
    ],
};

const TERM: Shape = Shape {
    fields: &[
        nested("MatchExpressions", "matchExpressions", Absent::Null, &REQUIREMENT),
        nested("MatchFields", "matchFields", Absent::Null, &REQUIREMENT),
    ],
};

const NODE_SELECTOR: Shape =
    Shape { fields: &[nested("NodeSelectorTerms", "nodeSelectorTerms", Absent::Null, &TERM)] };

const LISTS: Shape =
    Shape { fields: &[field("Limits", "limits", Absent::Null), field("Requests", "requests", Absent::Null)] };

const LOCAL_REFERENCE: Shape = Shape {
    fields: &[
        field("APIGroup", "apiGroup", Absent::Null),
        field("Kind", "kind", Absent::Text),
        field("Name", "name", Absent::Text),
    ],
};

const REFERENCE: Shape = Shape {
    fields: &[
        field("APIGroup", "apiGroup", Absent::Null),
        field("Kind", "kind", Absent::Text),
        field("Name", "name", Absent::Text),
        field("Namespace", "namespace", Absent::Null),
    ],
};

impl Shape {
    /// The spec of a claim.
    pub(super) const CLAIM_SPEC: Shape = Shape {
        fields: &[
            field("AccessModes", "accessModes", Absent::Null),
            field("Selector", "selector", Absent::Null),
            nested("Resources", "resources", Absent::Struct, &LISTS),
            field("VolumeName", "volumeName", Absent::Text),
            field("StorageClassName", "storageClassName", Absent::Null),
            field("VolumeMode", "volumeMode", Absent::Null),
            nested("DataSource", "dataSource", Absent::Null, &LOCAL_REFERENCE),
            nested("DataSourceRef", "dataSourceRef", Absent::Null, &REFERENCE),
            field("VolumeAttributesClassName", "volumeAttributesClassName", Absent::Null),
        ],
    };

    /// The source of a persistent volume. Inside those that no longer work, fields are named by rule and
    /// left out when absent.
    pub(super) const VOLUME_SOURCE: Shape = Shape {
        fields: &[
            field("GCEPersistentDisk", "gcePersistentDisk", Absent::Null),
            field("AWSElasticBlockStore", "awsElasticBlockStore", Absent::Null),
            nested("HostPath", "hostPath", Absent::Null, &HOST_PATH),
            field("Glusterfs", "glusterfs", Absent::Null),
            nested("NFS", "nfs", Absent::Null, &NFS),
            field("RBD", "rbd", Absent::Null),
            field("Quobyte", "quobyte", Absent::Null),
            field("ISCSI", "iscsi", Absent::Null),
            field("FlexVolume", "flexVolume", Absent::Null),
            field("Cinder", "cinder", Absent::Null),
            field("CephFS", "cephfs", Absent::Null),
            field("FC", "fc", Absent::Null),
            field("Flocker", "flocker", Absent::Null),
            field("AzureFile", "azureFile", Absent::Null),
            field("VsphereVolume", "vsphereVolume", Absent::Null),
            field("AzureDisk", "azureDisk", Absent::Null),
            field("PhotonPersistentDisk", "photonPersistentDisk", Absent::Null),
            field("PortworxVolume", "portworxVolume", Absent::Null),
            field("ScaleIO", "scaleIO", Absent::Null),
            nested("Local", "local", Absent::Null, &LOCAL),
            field("StorageOS", "storageos", Absent::Null),
            nested("CSI", "csi", Absent::Null, &CSI),
        ],
    };

    /// The nodes that a volume can be reached from.
    pub(super) const NODE_AFFINITY: Shape =
        Shape { fields: &[nested("Required", "required", Absent::Null, &NODE_SELECTOR)] };
}

/// The value as Go would write its internal form.
pub(super) fn go_json<T: Serialize>(value: &T, shape: &Shape) -> Value {
    apply(serde_json::to_value(value).unwrap_or_default(), shape)
}

fn apply(value: Value, shape: &Shape) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(|item| apply(item, shape)).collect(),
        Value::Object(mut map) => {
            let mut out = Map::new();
            for field in shape.fields {
                let inner = match (map.remove(field.json_name), field.shape) {
                    (Some(inner), Some(shape)) => apply(inner, shape),
                    (Some(inner), None) => inner,
                    (None, shape) => match (field.absent, shape) {
                        (Absent::Null, _) | (Absent::Struct, None) => Value::Null,
                        (Absent::Text, _) => Value::String(String::new()),
                        (Absent::False, _) => Value::Bool(false),
                        (Absent::Struct, Some(shape)) => apply(Value::Object(Map::new()), shape),
                    },
                };
                out.insert(field.go_name.to_owned(), inner);
            }
            Value::Object(out)
        }
        other => other,
    }
}

/// A unified diff of two values written as JSON with an indent of one.
pub(super) fn unified(a: &Value, b: &Value) -> String {
    let (a, b) = (pretty(a), pretty(b));
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    let mut matches = Vec::new();
    match_blocks(&a, &b, (0, a.len()), (0, b.len()), &mut matches);
    let mut out = String::new();
    for hunk in hunks(&a, &b, &matches) {
        hunk.write(&a, &b, &mut out);
    }
    out
}

fn pretty(value: &Value) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    // A tree of JSON has a JSON form, and writing to memory does not fail.
    let _ = value.serialize(&mut serializer);
    String::from_utf8(bytes).unwrap_or_default()
}

type Range = (usize, usize);

/// The longest common run of lines, then the same on either side of it: the order in which Python's
/// difflib, and so upstream, finds matches.
fn match_blocks(a: &[&str], b: &[&str], ra: Range, rb: Range, out: &mut Vec<(usize, usize)>) {
    let mut best = (0, 0, 0);
    for i in ra.0..ra.1 {
        for j in rb.0..rb.1 {
            let len = a[i..ra.1].iter().zip(&b[j..rb.1]).take_while(|(x, y)| x == y).count();
            if len > best.2 {
                best = (i, j, len);
            }
        }
    }
    let (i, j, len) = best;
    if len == 0 {
        return;
    }
    match_blocks(a, b, (ra.0, i), (rb.0, j), out);
    out.extend((0..len).map(|k| (i + k, j + k)));
    match_blocks(a, b, (i + len, ra.1), (j + len, rb.1), out);
}

/// Lines of both sides that go together, with context.
struct Hunk {
    a: Range,
    b: Range,
    /// Matching lines inside.
    matches: Vec<(usize, usize)>,
}

fn hunks(a: &[&str], b: &[&str], matches: &[(usize, usize)]) -> Vec<Hunk> {
    // Runs of changed lines, as ranges of both sides.
    let mut changes: Vec<(Range, Range)> = Vec::new();
    let (mut i, mut j) = (0, 0);
    for &(ma, mb) in matches.iter().chain([&(a.len(), b.len())]) {
        if (i, j) != (ma, mb) {
            changes.push(((i, ma), (j, mb)));
        }
        (i, j) = (ma + 1, mb + 1);
    }
    let mut hunks: Vec<Hunk> = Vec::new();
    for (ca, cb) in changes {
        let before = ca.0.min(cb.0).min(CONTEXT);
        let start = (ca.0 - before, cb.0 - before);
        let after = (a.len() - ca.1).min(b.len() - cb.1).min(CONTEXT);
        let end = (ca.1 + after, cb.1 + after);
        match hunks.last_mut() {
            Some(last) if start.0 <= last.a.1 => (last.a.1, last.b.1) = end,
            _ => hunks.push(Hunk { a: (start.0, end.0), b: (start.1, end.1), matches: Vec::new() }),
        }
    }
    for hunk in &mut hunks {
        let inside = |m: &&(usize, usize)| (hunk.a.0..hunk.a.1).contains(&m.0);
        hunk.matches = matches.iter().filter(inside).copied().collect();
    }
    hunks
}

impl Hunk {
    fn write(&self, a: &[&str], b: &[&str], out: &mut String) {
        let range = |(start, end): Range| match end - start {
            0 => format!("{start},0"),
            1 => (start + 1).to_string(),
            len => format!("{},{len}", start + 1),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "@@ -{} +{} @@", range(self.a), range(self.b));
        let (mut i, mut j) = (self.a.0, self.b.0);
        let end = (self.a.1, self.b.1);
        for &(ma, mb) in self.matches.iter().chain([&end]) {
            for line in &a[i..ma] {
                let _ = writeln!(out, "-{line}");
            }
            for line in &b[j..mb] {
                let _ = writeln!(out, "+{line}");
            }
            if (ma, mb) != end {
                let _ = writeln!(out, " {}", a[ma]);
            }
            (i, j) = (ma + 1, mb + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn diffs_are_difflibs() {
        let a: Value = (0..20).collect();
        let mut b = a.clone();
        b[4] = json!("x");
        b.as_array_mut().unwrap().remove(15);
        assert_eq!(
            unified(&a, &b),
            "@@ -3,7 +3,7 @@\n  1,\n  2,\n  3,\n- 4,\n+ \"x\",\n  5,\n  6,\n  7,\n\
             @@ -14,7 +14,6 @@\n  12,\n  13,\n  14,\n- 15,\n  16,\n  17,\n  18,\n"
        );
        assert_eq!(unified(&a, &a), "");
    }

    #[test]
    fn go_writes_absent_fields() {
        let json = json!({"accessModes": ["ReadWriteOnce"], "dataSource": {"kind": "A", "name": "b"}});
        let go = go_json(&json, &Shape::CLAIM_SPEC);
        assert_eq!(
            go.to_string(),
            r#"{"AccessModes":["ReadWriteOnce"],"Selector":null,"Resources":{"Limits":null,"Requests":null},"VolumeName":"","StorageClassName":null,"VolumeMode":null,"DataSource":{"APIGroup":null,"Kind":"A","Name":"b"},"DataSourceRef":null,"VolumeAttributesClassName":null}"#
        );
    }
}
