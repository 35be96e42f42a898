use super::*;
use crate::kinds::tables::{
    check_create, check_update, defaulted, object, patched, row, update_errors, with_context,
};
use serde_json::{Value, json};

fn good() -> Value {
    json!({
        "metadata": {"name": "crontabs.example.com", "creationTimestamp": "1970-01-01T00:00:00Z"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"]},
            "versions": [version("v1", true)],
        },
    })
}

fn version(name: &str, storage: bool) -> Value {
    json!({
        "name": name, "served": true, "storage": storage,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "replicas": {"type": "integer", "default": 1},
                "schedule": {"type": "string", "pattern": "^.*$"},
                "any": {"x-kubernetes-preserve-unknown-fields": true},
                "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                "list": {"type": "array", "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}},
                         "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]},
            }},
        }}},
        "subresources": {"scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
        "additionalPrinterColumns": [{"name": "Schedule", "type": "string", "jsonPath": ".spec.schedule"}],
        "selectableFields": [{"jsonPath": ".spec.schedule"}],
    })
}

fn of_version(patch: &Value) -> Value {
    json!({"spec": {"versions": [patched(&version("v1", true), patch)]}})
}

/// The good version with a schema merged into its root.
fn schema(patch: &Value) -> Value {
    of_version(&json!({"schema": {"openAPIV3Schema": patch}}))
}

/// The good version with one more field in `spec`.
fn field(schema_of_field: Value) -> Value {
    schema(&json!({"properties": {"spec": {"properties": {"f": schema_of_field}}}}))
}

#[test]
fn names_groups_and_versions() {
    let spec = |patch: Value| json!({"spec": patch});
    let names = |patch: Value| json!({"spec": {"names": patch}});
    let table = [
        (
            json!({"metadata": {"name": "a.example.com"}}),
            r#"metadata.name: Invalid value: "a.example.com": must be spec.names.plural+"."+spec.group"#,
        ),
        (
            spec(json!({"scope": "x"})),
            r#"spec.scope: Unsupported value: "x": supported values: "Cluster", "Namespaced""#,
        ),
        (spec(json!({"scope": ""})), "spec.scope: Required value"),
        (
            names(json!({"kind": "Cron_Tab"})),
            "[spec.names.singular: Invalid value: \"cron_tab\": a DNS-1035 label",
        ),
        (
            names(json!({"kind": ""})),
            "[spec.names.singular: Required value, spec.names.kind: Required value, spec.names.listKind",
        ),
        (
            names(json!({"listKind": "CronTab"})),
            r#"spec.names.listKind: Invalid value: "CronTab": kind and listKind may not be the same"#,
        ),
        (
            names(json!({"shortNames": ["A"]})),
            r#"spec.names.shortNames[0]: Invalid value: "A": a DNS-1035 label"#,
        ),
        (
            names(json!({"categories": ["A"]})),
            r#"spec.names.categories[0]: Invalid value: "A": a DNS-1035 label"#,
        ),
        (names(json!({"singular": "A"})), r#"spec.names.singular: Invalid value: "A": a DNS-1035 label"#),
        (
            spec(json!({"preserveUnknownFields": true})),
            r#"[spec.preserveUnknownFields: Invalid value: true: must be false in order"#,
        ),
        (
            of_version(&json!({"name": "V1"})),
            "spec.versions[0].name: Invalid value: \"V1\": a DNS-1035 label",
        ),
        (of_version(&json!({"storage": false})), "[spec.versions: Invalid value: ["),
        (of_version(&json!({"schema": null})), "[spec.versions[0].schema.openAPIV3Schema: Required value"),
        (
            spec(json!({"versions": [version("v1", true), version("v1", false)]})),
            "spec.versions: Invalid value: [",
        ),
        (spec(json!({"versions": [version("v1", true), version("v2", false)]})), ""),
        (
            of_version(&json!({"deprecationWarning": "x"})),
            r#"spec.versions[0].deprecationWarning: Invalid value: "x": can only be set for deprecated versions"#,
        ),
        (
            of_version(&json!({"deprecated": true, "deprecationWarning": "a\u{7}"})),
            r#"spec.versions[0].deprecationWarning: Invalid value: "a\u{7}": must only contain printable UTF-8 characters; non-printable character found at index 1"#,
        ),
        (
            spec(json!({"conversion": {"strategy": "x"}})),
            r#"spec.conversion.strategy: Unsupported value: "x": supported values: "None", "Webhook""#,
        ),
        (
            spec(json!({"conversion": {"strategy": "Webhook"}})),
            "[spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook, spec.conversion.conversionReviewVersions: Required value",
        ),
        (
            spec(
                json!({"conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v2"], "clientConfig": {"url": "https://a.io"}}}}),
            ),
            r#"spec.conversion.conversionReviewVersions: Invalid value: ["v2"]: must include at least one of v1, v1beta1"#,
        ),
        (
            spec(
                json!({"conversion": {"strategy": "None", "webhook": {"conversionReviewVersions": ["v1"]}}}),
            ),
            "spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook",
        ),
    ];
    check_create::<CustomResourceDefinition>(&good(), &table);
    let group = |name: &str, annotations: Value| json!({"metadata": {"name": format!("crontabs.{name}"), "annotations": annotations}, "spec": {"group": name}});
    check_create::<CustomResourceDefinition>(
        &good(),
        &[
            (
                group("example", json!({})),
                r#"spec.group: Invalid value: "example": should be a domain with at least one dot"#,
            ),
            (
                group("a.k8s.io", json!({})),
                "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must",
            ),
            (
                group("a.k8s.io", json!({APPROVAL_ANNOTATION: "x"})),
                r#"metadata.annotations[api-approved.kubernetes.io]: Invalid value: "x": protected groups must"#,
            ),
            (group("a.k8s.io", json!({APPROVAL_ANNOTATION: "unapproved, test"})), ""),
            (group("a.k8s.io", json!({APPROVAL_ANNOTATION: "https://a.io/1"})), ""),
            (group("ak8s.io", json!({})), ""),
        ],
    );
}

#[test]
fn columns_subresources_and_selectable_fields() {
    let column = |patch: Value| {
        let column = &version("v1", true)["additionalPrinterColumns"][0];
        of_version(&json!({"additionalPrinterColumns": [patched(column, &patch)]}))
    };
    let scale = |patch: Value| of_version(&json!({"subresources": {"scale": patch}}));
    let select = |paths: &[&str]| {
        let fields: Vec<Value> = paths.iter().map(|p| json!({"jsonPath": p})).collect();
        of_version(&json!({"selectableFields": fields}))
    };
    check_create::<CustomResourceDefinition>(
        &good(),
        &[
            (column(json!({"name": ""})), "spec.additionalPrinterColumns[0].name: Required value"),
            (
                column(json!({"type": "x"})),
                r#"spec.additionalPrinterColumns[0].type: Invalid value: "x": must be one of boolean,date,integer,number,string"#,
            ),
            (
                column(json!({"format": "x"})),
                r#"spec.additionalPrinterColumns[0].format: Invalid value: "x": must be one of byte,date,date-time,"#,
            ),
            (
                column(json!({"jsonPath": "spec"})),
                r#"spec.additionalPrinterColumns[0].JSONPath: Invalid value: "spec": must be a simple json path starting with ."#,
            ),
            (
                scale(json!({"specReplicasPath": ".status.x"})),
                r#"spec.subresources.scale.specReplicasPath: Invalid value: ".status.x": should be a json path under .spec"#,
            ),
            (
                scale(json!({"statusReplicasPath": ""})),
                "spec.subresources.scale.statusReplicasPath: Required value",
            ),
            (
                scale(json!({"labelSelectorPath": ".x"})),
                r#"spec.subresources.scale.labelSelectorPath: Invalid value: ".x": should be a json path under either .spec or .status"#,
            ),
            (
                select(&[".metadata.name"]),
                r#"spec.selectableFields[0].jsonPath: Invalid value: ".metadata.name": is an invalid path: does not refer to a valid field"#,
            ),
            (
                select(&[".spec.list"]),
                r#"spec.selectableFields[0].jsonPath: Invalid value: ".spec.list": must point to a field of type string"#,
            ),
            (
                select(&[".spec.schedule", ".spec.schedule"]),
                r#"spec.selectableFields[1].jsonPath: Duplicate value: ".spec.schedule""#,
            ),
        ],
    );
    // Versions that differ are reported one by one.
    let mut second = version("v2", false);
    second["additionalPrinterColumns"][0]["type"] = "x".into();
    check_create::<CustomResourceDefinition>(
        &good(),
        &[(
            json!({"spec": {"versions": [version("v1", true), second]}}),
            r#"spec.versions[1].additionalPrinterColumns[0].type: Invalid value: "x""#,
        )],
    );
}

#[test]
fn schemas_are_structural() {
    let at = "spec.validation.openAPIV3Schema.properties[spec].properties[f]";
    let wrong_fields: [(Value, &str); 30] = [
        (json!({}), ".type: Required value: must not be empty for specified object fields"),
        (
            json!({"type": "x"}),
            r#".type: Unsupported value: "x": supported values: "array", "boolean", "integer", "number", "object", "string""#,
        ),
        (json!({"type": "array"}), ".items: Required value: must be specified"),
        (
            json!({"type": "array", "items": {}}),
            ".items.type: Required value: must not be empty for specified array items",
        ),
        (
            json!({"type": "array", "items": [{"type": "string"}]}),
            ".items: Forbidden: items must be a schema object and not an array",
        ),
        (
            json!({"type": "object", "uniqueItems": true}),
            ".uniqueItems: Forbidden: uniqueItems cannot be set to true since",
        ),
        (
            json!({"type": "string", "anyOf": [{"type": "string"}]}),
            ".anyOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            json!({"type": "string", "not": {"description": "x"}}),
            ".not.description: Forbidden: must be empty to be structural",
        ),
        (
            json!({"type": "object", "allOf": [{"additionalProperties": true}]}),
            ".allOf[0].additionalProperties: Forbidden: must be undefined to be structural",
        ),
        (
            json!({"type": "string", "pattern": "("}),
            r#".pattern: Invalid value: "(": must be a valid regular expression, but isn't"#,
        ),
        (
            json!({"type": "string", "x-kubernetes-embedded-resource": true}),
            r#".type: Invalid value: "string": must be object if x-kubernetes-embedded-resource is true"#,
        ),
        (
            json!({"x-kubernetes-int-or-string": true, "x-kubernetes-preserve-unknown-fields": true}),
            ".x-kubernetes-preserve-unknown-fields: Invalid value: true: must be false if x-kubernetes-int-or-string is true",
        ),
        (
            json!({"type": "object", "x-kubernetes-embedded-resource": true}),
            ".properties: Required value: must not be empty if x-kubernetes-embedded-resource",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
            ".additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ),
        (json!({"$ref": "x"}), ".$ref: Forbidden: $ref is not supported"),
        (
            json!({"type": "object", "patternProperties": {"a": {}}}),
            ".patternProperties: Forbidden: patternProperties is not supported",
        ),
        (
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": false}),
            ".x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined",
        ),
        (
            json!({"type": "string", "x-kubernetes-map-type": "atomic"}),
            r#".type: Invalid value: "string": must be object if x-kubernetes-map-type is specified"#,
        ),
        (
            json!({"type": "object", "x-kubernetes-map-type": "x"}),
            r#".x-kubernetes-map-type: Unsupported value: "x": supported values: "atomic", "granular""#,
        ),
        (
            json!({"type": "string", "x-kubernetes-list-type": "set"}),
            r#".type: Invalid value: "string": must be array if x-kubernetes-list-type is specified"#,
        ),
        (
            json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "set"}),
            ".items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-map-keys": ["a"]}),
            ".x-kubernetes-list-type: Required value: must be map if",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"]}),
            r#".items.type: Invalid value: "string": must be object if parent array's"#,
        ),
        (
            json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"]}),
            r#".x-kubernetes-list-map-keys: Invalid value: ["a"]: entries must all be names of item properties"#,
        ),
        (
            json!({"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"]}),
            ".items.properties[a].default: Required value: this property is in x-kubernetes-list-map-keys, so",
        ),
        (
            json!({"type": "string", "x-kubernetes-validations": [{"rule": " "}]}),
            ".x-kubernetes-validations[0].rule: Required value: rule is not specified",
        ),
        (
            json!({"type": "string", "x-kubernetes-validations": [{"rule": "a\nb"}]}),
            ".x-kubernetes-validations[0].message: Required value: message must be specified if rule contains line breaks",
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "true", "fieldPath": ".x"}]}),
            r#".x-kubernetes-validations[0].fieldPath: Invalid value: ".x": must be a valid path"#,
        ),
        (json!({"type": "integer", "default": "x"}), ".default: Invalid value: \"string\": spec.validation"),
        (
            json!({"type": "object", "default": {"a": 1}}),
            ".default: Invalid value: {\"a\":1}: must not have unknown fields",
        ),
    ];
    for (wrong, why) in wrong_fields {
        let want = format!("{at}{why}");
        let errors = crate::kinds::tables::create_errors::<CustomResourceDefinition>(&patched(
            &good(),
            &field(wrong.clone()),
        ));
        assert!(errors.contains(&want), "{wrong}\n got {errors}\nwant {want}");
    }
    let root = "spec.validation.openAPIV3Schema";
    let wrong_roots = [
        (
            json!({"oneOf": [{"properties": {"spec": {"properties": {"z": {}}}}}]}),
            ".properties[spec].properties[z]: Required value: because it is defined in \
             spec.validation.openAPIV3Schema.oneOf[0].properties[spec].properties[z]",
        ),
        (json!({"type": "string"}), ".type: Invalid value: \"string\": must be object at the root"),
        (json!({"type": null}), ".type: Required value: must not be empty at the root"),
        (json!({"nullable": true}), ".nullable: Forbidden: nullable cannot be true at the root"),
        (
            json!({"properties": null, "additionalProperties": true}),
            ".additionalProperties: Forbidden: must not be used at the root",
        ),
        (
            json!({"properties": {"kind": {"type": "integer"}}}),
            ".properties[kind].type: Invalid value: \"integer\": must be string",
        ),
        (
            json!({"properties": {"metadata": {"type": "string"}}}),
            ".properties[metadata].type: Invalid value: \"string\": must be object",
        ),
        (
            json!({"properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            ".properties[metadata]: Forbidden: must not specify anything other than name and generateName",
        ),
        (
            json!({"properties": {"apiVersion": {"type": "string", "default": "x"}}}),
            ".properties[apiVersion].default: Forbidden: must not be set in top-level apiVersion",
        ),
    ];
    for (wrong, why) in wrong_roots {
        let want = format!("{root}{why}");
        let wrong = patched(&schema(&wrong), &json!({}));
        let mut tree = patched(&good(), &wrong);
        tree["spec"]["versions"][0].as_object_mut().unwrap().remove("selectableFields");
        let errors = crate::kinds::tables::create_errors::<CustomResourceDefinition>(&tree);
        assert!(errors.contains(&want), "{wrong}\n got {errors}\nwant {want}");
    }
    let named = schema(
        &json!({"properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}}}}}),
    );
    let apart = of_version(
        &json!({"subresources": {"status": {}}, "schema": {"openAPIV3Schema": {"oneOf": [{"required": ["spec"]}]}}}),
    );
    check_create::<CustomResourceDefinition>(
        &good(),
        &[
            (named, ""),
            (field(json!({"type": "string", "nullable": true, "allOf": [{"minLength": 1}]})), ""),
            (apart, "spec.validation.openAPIV3Schema: Invalid value: {"),
        ],
    );
}

#[test]
fn updates_status_and_warnings() {
    let value = defaulted::<CustomResourceDefinition>(&good());
    assert_eq!(value["spec"]["names"]["singular"], "crontab");
    assert_eq!(value["spec"]["names"]["listKind"], "CronTabList");
    assert_eq!(value["spec"]["conversion"]["strategy"], "None");
    assert_eq!(value["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(
        row::<CustomResourceDefinition>(&good()),
        json!(["crontabs.example.com", "1970-01-01T00:00:00Z"])
    );

    let mut created: CustomResourceDefinition = object(&good());
    with_context("", |cx| created.prepare_create(cx));
    let status = serde_json::to_value(&created.status).unwrap();
    assert_eq!(
        (&status["conditions"][0]["type"], &status["conditions"][0]["status"]),
        (&json!("Established"), &json!("False"))
    );

    check_update::<CustomResourceDefinition>(
        &good(),
        "",
        &[
            (json!({"spec": {"scope": "Cluster"}}), ""),
            (
                json!({"metadata": {"name": "b.example.com"}, "spec": {"names": {"plural": "b"}}}),
                r#"spec.names.plural: Invalid value: "b": field is immutable"#,
            ),
        ],
    );
    let established =
        patched(&good(), &json!({"status": {"conditions": [{"type": "Established", "status": "True"}]}}));
    let cluster = patched(&established, &json!({"spec": {"scope": "Cluster"}}));
    assert_eq!(
        update_errors::<CustomResourceDefinition>(&cluster, &established, ""),
        r#"spec.scope: Invalid value: "Cluster": field is immutable"#
    );

    // A version that objects may still be stored in cannot go.
    let old: CustomResourceDefinition = object(&good());
    let mut new: CustomResourceDefinition =
        object(&patched(&good(), &json!({"spec": {"versions": [version("v2", true)]}})));
    with_context("", |cx| {
        new.prepare_update(&old, cx);
        assert_eq!(new.status.as_ref().unwrap().stored_versions.as_ref().unwrap(), &["v1", "v2"]);
        let mut errors = Errors::new();
        new.validate_update(&old, cx, &mut errors);
        assert!(
            errors
                .to_string()
                .starts_with(r#"status.storedVersions[0]: Invalid value: "v1": missing from spec.versions"#),
            "{errors}"
        );
        assert_eq!(new.generation_changed(Some(&old)), Some(true));
        let odd: CustomResourceDefinition =
            object(&patched(&good(), &field(json!({"type": "string", "format": "x"}))));
        assert_eq!(odd.warnings(None, cx), [r#"unrecognized format "x""#]);
        assert!(odd.warnings(Some(&odd), cx).is_empty());
    });
    with_context("status", |cx| {
        let mut new = new.clone();
        new.prepare_update(&old, cx);
        assert_eq!(new.spec, old.spec);
    });
}
