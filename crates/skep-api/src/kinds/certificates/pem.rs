//! PEM blocks in signing requests and certificates, and whether they hold what they should.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

/// A block between `-----BEGIN label-----` and its end.
struct Block {
    label: String,
    has_headers: bool,
    der: Vec<u8>,
}

/// The first whole block of a text and what comes behind it. What is no block is skipped.
fn next_block(text: &str) -> Option<(Block, &str)> {
    const BEGIN: &str = "-----BEGIN ";
    const DASHES: &str = "-----";
    let mut rest = text;
    loop {
        let start = rest.find(BEGIN)?;
        let at_line_start = start == 0 || rest.as_bytes()[start - 1] == b'\n';
        rest = &rest[start + BEGIN.len()..];
        if !at_line_start {
            continue;
        }
        let Some((label, body)) = rest.split_once(DASHES) else { continue };
        if label.contains('\n') {
            continue;
        }
        let end = format!("-----END {label}-----");
        let Some(len) = body.find(&end) else { continue };
        let (body, after) = (&body[..len], &body[len + end.len()..]);
        let mut has_headers = false;
        let mut base64 = String::with_capacity(body.len());
        for line in body.lines() {
            if line.contains(':') {
                has_headers = true;
            } else {
                base64.extend(line.chars().filter(|c| !c.is_ascii_whitespace()));
            }
        }
        let Ok(der) = STANDARD.decode(base64) else { continue };
        return Some((Block { label: label.to_owned(), has_headers, der }, after));
    }
}

/// Checks that a text is a signing request with a valid signature of its own key.
pub(super) fn check_request(pem: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(pem);
    let block = next_block(&text).map(|(block, _)| block).filter(|b| b.label == "CERTIFICATE REQUEST");
    let Some(block) = block else {
        return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
    };
    let (rest, request) =
        X509CertificationRequest::from_der(&block.der).map_err(|e| format!("asn1: structure error: {e}"))?;
    if !rest.is_empty() {
        return Err("asn1: syntax error: trailing data".to_owned());
    }
    request.verify_signature().map_err(|_| {
        // The object identifiers of the families of signature algorithms.
        let algorithm = request.signature_algorithm.algorithm.to_id_string();
        let family = match algorithm.as_str() {
            "1.3.101.112" => "x509: Ed25519 verification failure",
            a if a.starts_with("1.2.840.10045.4.") => "x509: ECDSA verification failure",
            a if a.starts_with("1.2.840.113549.1.1.") => "crypto/rsa: verification error",
            _ => "x509: cannot verify signature: algorithm unimplemented",
        };
        family.to_owned()
    })
}

/// Checks that a text is nothing but certificates; an empty one is fine.
pub(super) fn check_certificates(pem: &[u8]) -> Result<(), String> {
    if pem.is_empty() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(pem);
    let mut rest: &str = &text;
    let mut blocks = 0;
    while let Some((block, after)) = next_block(rest) {
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        if block.has_headers {
            return Err("no PEM block headers are permitted".to_owned());
        }
        if block.der.is_empty() {
            return Err("found CERTIFICATE PEM block containing 0 certificates".to_owned());
        }
        let mut der: &[u8] = &block.der;
        while !der.is_empty() {
            (der, _) =
                X509Certificate::from_der(der).map_err(|_| "x509: malformed certificate".to_owned())?;
        }
        blocks += 1;
        rest = after;
    }
    if blocks == 0 {
        return Err("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    Ok(())
}
