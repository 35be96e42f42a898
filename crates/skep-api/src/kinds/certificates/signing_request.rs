//! CertificateSigningRequest.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::pem;
use crate::context::Context;
use crate::field::{Errors, Json, Path};
use crate::kind::{Fields, Kind, KindInfo, NameRule, Subresource, Verb};
use crate::meta;
use crate::table::{Cell, Column};

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";
/// The signer of requests from before signers had names.
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
/// The shortest life of a certificate that may be asked for.
const MIN_EXPIRATION_S: i32 = 600;
/// The longest domain of a signer.
const SIGNER_DOMAIN_MAX_BYTES: usize = skep_base::name::SUBDOMAIN_MAX_LEN;
/// The path of a signer has room for a namespace and a name.
const SIGNER_NAME_MAX_BYTES: usize =
    SIGNER_DOMAIN_MAX_BYTES + 1 + skep_base::name::SUBDOMAIN_MAX_LEN + 1 + skep_base::name::LABEL_MAX_LEN;

/// Sorted, as messages list them.
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

impl Kind for CertificateSigningRequest {
    fn info() -> KindInfo {
        KindInfo::of::<CertificateSigningRequest>()
            .short("csr")
            .names(NameRule::PathSegment)
            .select("spec.signerName")
            .sub(Subresource::of_self("approval", Verb::READ_WRITE))
            .status()
    }

    fn prepare_create(&mut self, cx: &Context<'_>) {
        // Who asks is the server's to say: signers decide by it.
        let user = cx.user;
        let spec = &mut self.spec;
        spec.username = (!user.name.is_empty()).then(|| user.name.clone());
        spec.uid = (!user.uid.is_empty()).then(|| user.uid.clone());
        spec.groups = (!user.groups.is_empty()).then(|| user.groups.clone());
        spec.extra = (!user.extra.is_empty()).then(|| user.extra.clone());
        self.status = Some(CertificateSigningRequestStatus::default());
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        self.spec.clone_from(&old.spec);
        match cx.subresource {
            "status" => {
                for type_ in [APPROVED, DENIED] {
                    preserve(self, old, type_);
                }
                set_times(self, old, cx.now);
            }
            "approval" => {
                set_times(self, old, cx.now);
                let conditions = self.status.take().and_then(|s| s.conditions);
                let certificate = old.status.as_ref().and_then(|s| s.certificate.clone());
                self.status = Some(CertificateSigningRequestStatus { certificate, conditions });
            }
            _ => self.status.clone_from(&old.status),
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate(self, None, errors);
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        validate(self, Some(old), errors);
        validate_transition(self, old, cx, errors);
    }

    fn fields(&self, fields: &mut Fields) {
        fields.add("spec.signerName", self.spec.signer_name.as_str());
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::AGE,
            Column::string("SignerName", "Who is asked to sign."),
            Column::string("Requestor", "Who asks."),
            Column::string("RequestedDuration", "How long the certificate is wanted for."),
            Column::string("Condition", "Where the request stands."),
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let signer = Some(self.spec.signer_name.as_str()).filter(|s| !s.is_empty()).unwrap_or("<none>");
        let duration = self.spec.expiration_seconds.map_or_else(
            || "<none>".to_owned(),
            |s| match u64::try_from(s) {
                Ok(s) => meta::age(now, now.saturating_add(Duration::from_secs(s)).unwrap_or(now)),
                Err(_) => "<invalid>".to_owned(),
            },
        );
        vec![
            meta::name_cell(&self.metadata),
            meta::age_cell(&self.metadata, now),
            signer.into(),
            self.spec.username.clone().unwrap_or_default().into(),
            duration.into(),
            state(self).into(),
        ]
    }
}

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

fn of_type<'a>(
    request: &'a CertificateSigningRequest,
    type_: &str,
) -> impl Iterator<Item = &'a CertificateSigningRequestCondition> {
    conditions(request).iter().filter(move |c| c.type_ == type_)
}

fn certificate(request: &CertificateSigningRequest) -> &[u8] {
    request.status.as_ref().and_then(|s| s.certificate.as_ref()).map_or(&[], |c| c.0.as_slice())
}

/// `Approved,Issued`
fn state(request: &CertificateSigningRequest) -> String {
    let has = |type_: &str| conditions(request).iter().any(|c| c.type_ == type_);
    let mut state = match () {
        () if has(DENIED) => "Denied",
        () if has(APPROVED) => "Approved",
        () => "Pending",
    }
    .to_owned();
    if has(FAILED) {
        state.push_str(",Failed");
    }
    if !certificate(request).is_empty() {
        state.push_str(",Issued");
    }
    state
}

/// Keeps the conditions of a type as they were. If there are more or fewer than before, they stay as they
/// are, for validation to refuse.
fn preserve(new: &mut CertificateSigningRequest, old: &CertificateSigningRequest, type_: &str) {
    let before: Vec<_> = conditions(old).iter().filter(|c| c.type_ == type_).collect();
    let list = new.status.get_or_insert_default().conditions.iter_mut().flatten();
    let now: Vec<_> = list.filter(|c| c.type_ == type_).collect();
    if before.len() == now.len() {
        for (now, before) in now.into_iter().zip(before) {
            now.clone_from(before);
        }
    }
}

/// Fills in when conditions were set, and since when they have been so.
fn set_times(new: &mut CertificateSigningRequest, old: &CertificateSigningRequest, now: Timestamp) {
    // API times have whole seconds.
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let list = new.status.get_or_insert_default().conditions.iter_mut().flatten();
    for condition in list {
        condition.last_update_time.get_or_insert_with(|| now.clone());
        if condition.last_transition_time.is_none() {
            let before = conditions(old)
                .iter()
                .filter(|c| c.type_ == condition.type_ && c.status == condition.status)
                .find_map(|c| c.last_transition_time.clone());
            condition.last_transition_time = Some(before.unwrap_or_else(|| now.clone()));
        }
    }
}

fn has_duplicates<'a>(values: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = BTreeSet::new();
    !values.into_iter().all(|v| seen.insert(v))
}

fn usages(request: &CertificateSigningRequest) -> &[String] {
    request.spec.usages.as_deref().unwrap_or_default()
}

/// Checks a request; what was wrong in the old one already may stay wrong.
fn validate(
    request: &CertificateSigningRequest,
    old: Option<&CertificateSigningRequest>,
    errors: &mut Errors,
) {
    let path = Path::root("spec");
    let spec = &request.spec;
    if let Err(e) = pem::check_request(&spec.request.0) {
        errors.invalid(&path.child("request"), Json(&spec.request), &e);
    }
    let usages_path = path.child("usages");
    if usages(request).is_empty() {
        errors.required(&usages_path, "");
    }
    let known = |usage: &String| USAGES.contains(&usage.as_str());
    if old.is_none_or(|old| usages(old).iter().all(known)) {
        for (i, usage) in usages(request).iter().enumerate() {
            if !known(usage) {
                errors.not_supported(&usages_path.index(i), usage, USAGES);
            }
        }
    }
    if !old.is_some_and(|old| has_duplicates(usages(old).iter().map(String::as_str))) {
        let mut seen = BTreeSet::new();
        for (i, usage) in usages(request).iter().enumerate() {
            if !seen.insert(usage) {
                errors.duplicate(&usages_path.index(i), usage);
            }
        }
    }
    let signer_path = path.child("signerName");
    let legacy_before = old.is_some_and(|old| old.spec.signer_name == LEGACY_SIGNER);
    if spec.signer_name == LEGACY_SIGNER && !legacy_before {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.invalid(&signer_path, &spec.signer_name, detail);
    } else {
        validate_signer_name(&spec.signer_name, &signer_path, errors);
    }
    if let Some(seconds) = spec.expiration_seconds
        && seconds < MIN_EXPIRATION_S
    {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(&path.child("expirationSeconds"), seconds, detail);
    }
    let status = Path::root("status");
    validate_conditions(request, old, &status.child("conditions"), errors);
    let tolerated = old.is_some_and(|old| {
        certificate(old) == certificate(request) || pem::check_certificates(certificate(old)).is_err()
    });
    if !tolerated && let Err(e) = pem::check_certificates(certificate(request)) {
        errors.invalid(&status.child("certificate"), "<certificate data>", &e);
    }
}

fn validate_conditions(
    request: &CertificateSigningRequest,
    old: Option<&CertificateSigningRequest>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let old_conditions = old.map(conditions).unwrap_or_default();
    let had = |type_: &str| old_conditions.iter().any(|c| c.type_ == type_);
    let was_both = had(APPROVED) && had(DENIED);
    let was_duplicate = has_duplicates(old_conditions.iter().map(|c| c.type_.as_str()));
    let mut seen: Vec<&str> = Vec::new();
    for (i, condition) in conditions(request).iter().enumerate() {
        let item = path.index(i);
        let type_ = condition.type_.as_str();
        if type_.is_empty() && !had("") {
            errors.required(&item.child("type"), "");
        }
        let allowed: &[&str] = if matches!(type_, APPROVED | DENIED | FAILED) {
            &["True"]
        } else {
            &["False", "True", "Unknown"]
        };
        if condition.status.is_empty() {
            errors.required(&item.child("status"), "");
        } else if !allowed.contains(&condition.status.as_str()) {
            errors.not_supported(&item.child("status"), &condition.status, allowed);
        }
        let opposite = match type_ {
            APPROVED => Some(DENIED),
            DENIED => Some(APPROVED),
            _ => None,
        };
        if !was_both && opposite.is_some_and(|o| seen.contains(&o)) {
            errors.invalid(path, type_, "Approved and Denied conditions are mutually exclusive");
        }
        if seen.contains(&type_) && !was_duplicate {
            errors.duplicate(&item.child("type"), type_);
        }
        seen.push(type_);
    }
}

/// What approvers, signers and others may change.
fn validate_transition(
    new: &CertificateSigningRequest,
    old: &CertificateSigningRequest,
    cx: &Context<'_>,
    errors: &mut Errors,
) {
    let status = Path::root("status");
    let path = status.child("conditions");
    for type_ in [APPROVED, DENIED, FAILED] {
        if of_type(new, type_).count() < of_type(old, type_).count() {
            errors.forbidden(&path, &format!("updates may not remove a condition of type {type_:?}"));
        }
    }
    if cx.subresource != "approval" {
        for type_ in [APPROVED, DENIED] {
            let (before, now) = (of_type(old, type_).count(), of_type(new, type_).count());
            if now > before {
                errors.forbidden(&path, &format!("updates may not add a condition of type {type_:?}"));
            } else if now == before && !of_type(old, type_).eq(of_type(new, type_)) {
                errors.forbidden(&path, &format!("updates may not modify a condition of type {type_:?}"));
            }
        }
    }
    if certificate(new) != certificate(old) {
        let path = status.child("certificate");
        if !cx.is_status() {
            errors.forbidden(&path, "updates may not set certificate content");
        } else if !certificate(old).is_empty() {
            errors.forbidden(&path, "updates may not modify existing certificate content");
        }
    }
}

/// A domain and a path: `example.com/signer`.
fn validate_signer_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    let mut parts = name.split('/');
    let (Some(domain), Some(rest), None) = (parts.next(), parts.next(), parts.next()) else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.invalid(path, name, detail);
        return;
    };
    if domain.len() > SIGNER_DOMAIN_MAX_BYTES {
        errors.too_long(path, SIGNER_DOMAIN_MAX_BYTES);
    }
    // Only the first bad label is reported.
    if let Some(label) = domain.split('.').find(|l| !skep_base::name::is_dns1123_label(l)) {
        for message in meta::dns1123_label_errors(label) {
            errors.invalid(path, domain, &format!("validating label {label:?}: {message}"));
        }
    }
    if !domain.contains('.') {
        errors.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    if let Some(label) = rest.split('.').find(|l| !skep_base::name::is_dns1123_subdomain(l)) {
        for message in meta::dns1123_subdomain_errors(label) {
            errors.invalid(path, rest, &format!("validating label {label:?}: {message}"));
        }
    }
    if name.len() > SIGNER_NAME_MAX_BYTES {
        errors.too_long(path, SIGNER_NAME_MAX_BYTES);
    }
}
