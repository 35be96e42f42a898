//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction: who may approve and sign, and what
//! may not be asked for.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::refusal::Refusal;
use crate::review::{Attributes, Operation, Review};

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const ADMINISTRATORS: &str = "system:masters";

pub(crate) fn validate(review: &Review<'_>, request: &CertificateSigningRequest) -> Result<(), Refusal> {
    let old = review.old_as::<CertificateSigningRequest>();
    match (review.operation, review.subresource, old) {
        (Operation::Update, "approval", Some(old)) => may(review, "approve", &old.spec.signer_name),
        (Operation::Update, "status", Some(old)) => {
            let issued =
                |r: &CertificateSigningRequest| r.status.as_ref().and_then(|s| s.certificate.clone());
            let conditions = |r: &CertificateSigningRequest| {
                r.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default()
            };
            if issued(old) == issued(request) && conditions(old) == conditions(request) {
                return Ok(());
            }
            may(review, "sign", &old.spec.signer_name)
        }
        (Operation::Create, "", _) if request.spec.signer_name == CLIENT_SIGNER => {
            let subject =
                Subject::of(request).map_err(|why| review.forbid(format!("failed to parse CSR: {why}")))?;
            if subject.organizations.iter().any(|o| o == ADMINISTRATORS) {
                return Err(review.forbid(format!(
                    "use of {CLIENT_SIGNER} signer with {ADMINISTRATORS} group is not allowed"
                )));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Asks for the signer itself, then for all signers of its domain.
fn may(review: &Review<'_>, verb: &str, signer: &str) -> Result<(), Refusal> {
    let domain = format!("{}/*", signer.split('/').next().unwrap_or(""));
    let granted = |name: &str| {
        (review.authorize)(&Attributes {
            verb,
            group: "certificates.k8s.io",
            resource: "signers",
            namespace: "",
            name,
        })
    };
    if granted(signer) || granted(&domain) {
        return Ok(());
    }
    Err(review.forbid(format!("user not permitted to {verb} requests with signerName {signer:?}")))
}

/// Whom a certificate is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) common_name: String,
    pub(crate) organizations: Vec<String>,
}

impl Subject {
    /// Reads the PEM in a request.
    pub(crate) fn of(request: &CertificateSigningRequest) -> Result<Subject, String> {
        const WRONG_TYPE: &str = "PEM block type must be CERTIFICATE REQUEST";
        let (_, pem) =
            x509_parser::pem::parse_x509_pem(&request.spec.request.0).map_err(|_| WRONG_TYPE.to_owned())?;
        if pem.label != "CERTIFICATE REQUEST" {
            return Err(WRONG_TYPE.to_owned());
        }
        let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).map_err(|e| e.to_string())?;
        let name = &parsed.certification_request_info.subject;
        let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().unwrap_or("").to_owned();
        Ok(Subject {
            // The last one counts, as in Go.
            common_name: name.iter_common_name().last().map(text).unwrap_or_default(),
            organizations: name.iter_organization().map(text).collect(),
        })
    }
}
