//! IPAddress and ServiceCIDR: who has which address, and where addresses of services come from.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR, ServiceCIDRStatus};

use super::ingress_class::path_segment;
use crate::context::Context;
use crate::field::{Errors, Json, Path};
use crate::kind::{Kind, KindInfo, NameRule};
use crate::kinds::checks::{self, IMMUTABLE};
use crate::kinds::core::shared;
use crate::meta;
use crate::meta::format::parse_cidr_sloppy;
use crate::table::{Cell, Column};

/// One range of each family.
const MAX_CIDRS: usize = 2;

impl Kind for IPAddress {
    fn info() -> KindInfo {
        // The name is the address: `validate` has the stricter rule, which knows no generated names.
        KindInfo::of::<IPAddress>().short("ip").names(NameRule::PathSegment)
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        for message in meta::ip_errors(name) {
            errors.invalid(&Path::root("metadata").child("name"), name, &message);
        }
        let path = Path::root("spec");
        let path = path.child("parentRef");
        let parent = &self.spec.parent_ref;
        if *parent == Default::default() {
            errors.required(&path, "");
            return;
        }
        if let Some(group) = parent.group.as_deref().filter(|g| !g.is_empty()) {
            shared::dns_subdomain(group, &path.child("group"), errors);
        }
        path_segment(&parent.resource, &path.child("resource"), errors);
        path_segment(&parent.name, &path.child("name"), errors);
        if let Some(namespace) = parent.namespace.as_deref().filter(|n| !n.is_empty()) {
            path_segment(namespace, &path.child("namespace"), errors);
        }
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        self.validate(cx, errors);
        let path = Path::root("spec");
        checks::immutable(&self.spec.parent_ref, &old.spec.parent_ref, &path.child("parentRef"), errors);
    }

    fn columns() -> Vec<Column> {
        // No age: upstream's table has none.
        vec![Column::NAME, Column::string("ParentRef", "The object that has the address.")]
    }

    fn row(&self, _: Timestamp) -> Vec<Cell> {
        let parent = &self.spec.parent_ref;
        let shown = if *parent == Default::default() {
            "<none>".to_owned()
        } else {
            let mut text = parent.resource.to_lowercase();
            if let Some(group) = parent.group.as_deref().filter(|g| !g.is_empty()) {
                text = format!("{text}.{}", group.to_lowercase());
            }
            if let Some(namespace) = parent.namespace.as_deref().filter(|n| !n.is_empty()) {
                text = format!("{text}/{namespace}");
            }
            format!("{text}/{}", parent.name)
        };
        vec![meta::name_cell(&self.metadata), shown.into()]
    }
}

impl Kind for ServiceCIDR {
    fn info() -> KindInfo {
        KindInfo::of::<ServiceCIDR>().status()
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status = Some(ServiceCIDRStatus::default());
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            self.spec.clone_from(&old.spec);
            meta::keep_metadata(&mut self.metadata, &old.metadata);
        } else {
            self.status.clone_from(&old.status);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate_ranges(self, errors);
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            return;
        }
        let path = Path::root("spec");
        let path = path.child("cidrs");
        let (new, old) = (ranges(self), ranges(old));
        let unchanged = |n: usize, errors: &mut Errors| {
            for i in (0..n).filter(|i| new[*i] != old[*i]) {
                errors.invalid(&path.index(i), &new[i], IMMUTABLE);
            }
        };
        match (new.len(), old.len()) {
            (a, b) if a == b => unchanged(a, errors),
            // A second family may be added.
            (2, 1) => {
                unchanged(1, errors);
                validate_ranges(self, errors);
            }
            _ => errors.invalid(&path, Json(&new), IMMUTABLE),
        }
    }

    fn columns() -> Vec<Column> {
        vec![Column::NAME, Column::string("CIDRs", "The ranges, one of each family."), Column::AGE]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let shown = ranges(self).join(",");
        vec![meta::name_cell(&self.metadata), shown.into(), meta::age_cell(&self.metadata, now)]
    }
}

fn ranges(object: &ServiceCIDR) -> &[String] {
    object.spec.as_ref().and_then(|s| s.cidrs.as_deref()).unwrap_or_default()
}

fn validate_ranges(object: &ServiceCIDR, errors: &mut Errors) {
    let path = Path::root("spec");
    let path = path.child("cidrs");
    let ranges = ranges(object);
    if ranges.is_empty() {
        errors.required(&path, "at least one CIDR required");
        return;
    }
    if ranges.len() > MAX_CIDRS {
        errors.invalid(&path, Json(&object.spec), "may only hold up to 2 values");
        return;
    }
    for (i, range) in ranges.iter().enumerate() {
        for message in meta::cidr_errors(range) {
            errors.invalid(&path.index(i), range, &message);
        }
    }
    let family = |i: usize| ranges.get(i).and_then(|r| parse_cidr_sloppy(r)).map(|(ip, _)| ip.is_ipv4());
    if family(0).is_some() && family(0) == family(1) {
        errors.invalid(
            &path,
            Json(&ranges),
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tables::{check_create, check_update, object, patched, row, with_context};
    use serde_json::{Value, json};

    #[test]
    fn addresses() {
        let good = json!({
            "metadata": {"name": "10.0.0.1", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"parentRef": {"resource": "services", "namespace": "n", "name": "s"}},
        });
        let parent = |patch: Value| json!({"spec": {"parentRef": patch}});
        let table = [
            (
                json!({"metadata": {"name": "10.0.0.01"}}),
                r#"metadata.name: Invalid value: "10.0.0.01": must not have leading 0s"#,
            ),
            (
                json!({"metadata": {"name": "2001:DB8::1"}}),
                r#"metadata.name: Invalid value: "2001:DB8::1": must be in canonical form ("2001:db8::1")"#,
            ),
            (json!({"metadata": {"name": "2001:db8::1"}}), ""),
            (json!({"spec": {"parentRef": null}}), "spec.parentRef: Required value"),
            (parent(json!({"resource": ""})), "spec.parentRef.resource: Required value"),
            (parent(json!({"name": "a/b"})), r#"spec.parentRef.name: Invalid value: "a/b": may not contain"#),
            (parent(json!({"namespace": ".."})), r#"spec.parentRef.namespace: Invalid value: "..": may not"#),
            (parent(json!({"group": "A"})), r#"spec.parentRef.group: Invalid value: "A": a lowercase"#),
        ];
        check_create::<IPAddress>(&good, &table);
        check_update::<IPAddress>(
            &good,
            "",
            &[(parent(json!({"name": "t"})), "spec.parentRef: Invalid value: {")],
        );
        assert_eq!(row::<IPAddress>(&good), json!(["10.0.0.1", "services/n/s"]));
        let grouped = patched(&good, &parent(json!({"group": "g.io", "namespace": null})));
        assert_eq!(row::<IPAddress>(&grouped)[1], "services.g.io/s");
        assert_eq!(row::<IPAddress>(&json!({}))[1], "<none>");
    }

    #[test]
    fn ranges_of_services() {
        let good = json!({
            "metadata": {"name": "c", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"cidrs": ["10.0.0.0/16"]},
        });
        let cidrs = |list: &[&str]| json!({"spec": {"cidrs": list}});
        check_create::<ServiceCIDR>(
            &good,
            &[
                (json!({"spec": null}), "spec.cidrs: Required value: at least one CIDR required"),
                (
                    cidrs(&["10.0.0.0/16", "fd00::/64", "10.1.0.0/16"]),
                    "spec.cidrs: Invalid value: {\"cidrs\":[\"10.0.0.0/16\",\"fd00::/64\",\"10.1.0.0/16\"]}: may only hold up to 2 values",
                ),
                (
                    cidrs(&["10.0.0.1/16"]),
                    r#"spec.cidrs[0]: Invalid value: "10.0.0.1/16": must not have bits"#,
                ),
                (
                    cidrs(&["10.0.0.0/16", "10.1.0.0/16"]),
                    r#"spec.cidrs: Invalid value: ["10.0.0.0/16","10.1.0.0/16"]: may specify no more than one IP"#,
                ),
                (cidrs(&["10.0.0.0/16", "fd00::/64"]), ""),
            ],
        );
        check_update::<ServiceCIDR>(
            &good,
            "",
            &[
                (cidrs(&["10.0.0.0/16", "fd00::/64"]), ""),
                (
                    cidrs(&["10.1.0.0/16"]),
                    r#"spec.cidrs[0]: Invalid value: "10.1.0.0/16": field is immutable"#,
                ),
                (
                    cidrs(&["10.0.0.0/16", "10.1.0.0/16"]),
                    r#"spec.cidrs: Invalid value: ["10.0.0.0/16","10.1.0.0/16"]: may specify"#,
                ),
                (cidrs(&[]), "spec.cidrs: Invalid value: []: field is immutable"),
            ],
        );
        assert_eq!(
            row::<ServiceCIDR>(&patched(&good, &cidrs(&["10.0.0.0/16", "fd00::/64"]))),
            json!(["c", "10.0.0.0/16,fd00::/64", "60s"])
        );
        let old: ServiceCIDR = object(&good);
        let mut new: ServiceCIDR = object(&patched(&good, &cidrs(&["10.1.0.0/16"])));
        with_context("status", |cx| new.prepare_update(&old, cx));
        assert_eq!(new.spec, old.spec);
    }
}
