//! X.509 certificates, written out in DER.
//!
//! Written here, and not by a certificate builder, because a request's subject must come out as it went in:
//! builders keep one value per attribute, and a user in several groups has several organizations.

use std::net::IpAddr;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use yasna::models::ObjectIdentifier;
use yasna::{DERWriter, Tag};

use super::ca::AltName;

const OID_ECDSA_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];
const OID_COMMON_NAME: &[u64] = &[2, 5, 4, 3];
const OID_ORGANIZATION: &[u64] = &[2, 5, 4, 10];
const OID_SUBJECT_KEY_ID: &[u64] = &[2, 5, 29, 14];
const OID_KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const OID_SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
const OID_BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const OID_AUTHORITY_KEY_ID: &[u64] = &[2, 5, 29, 35];
const OID_EXT_KEY_USAGE: &[u64] = &[2, 5, 29, 37];

/// Bits of the key usage extension, numbered as in RFC 5280.
pub(super) mod usage {
    pub(crate) const DIGITAL_SIGNATURE: u16 = 1 << 0;
    pub(crate) const CONTENT_COMMITMENT: u16 = 1 << 1;
    pub(crate) const KEY_ENCIPHERMENT: u16 = 1 << 2;
    pub(crate) const DATA_ENCIPHERMENT: u16 = 1 << 3;
    pub(crate) const KEY_AGREEMENT: u16 = 1 << 4;
    pub(crate) const CERT_SIGN: u16 = 1 << 5;
    pub(crate) const CRL_SIGN: u16 = 1 << 6;
    pub(crate) const ENCIPHER_ONLY: u16 = 1 << 7;
    pub(crate) const DECIPHER_ONLY: u16 = 1 << 8;
}

/// What a certificate says.
pub(super) struct Tbs<'a> {
    pub(super) serial: [u8; 16],
    pub(super) issuer_der: &'a [u8],
    pub(super) subject_der: &'a [u8],
    pub(super) spki_der: &'a [u8],
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    pub(super) is_ca: bool,
    pub(super) key_usage: u16,
    pub(super) extended_key_usage: &'a [&'a [u64]],
    pub(super) alt_names: &'a [AltName],
    pub(super) subject_key_id: Option<&'a [u8]>,
    pub(super) authority_key_id: &'a [u8],
}

/// The DER of a SEQUENCE.
pub(super) fn sequence(f: impl FnOnce(&mut yasna::DERWriterSeq<'_>)) -> Vec<u8> {
    yasna::construct_der(|w| w.write_sequence(f))
}

fn oid(parts: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(parts)
}

/// A subject of a common name and organizations.
pub(super) fn name(common_name: &str, organizations: &[String]) -> Vec<u8> {
    sequence(|w| {
        let mut attribute = |kind: &[u64], value: &str| {
            w.next().write_set(|w| {
                w.next().write_sequence(|w| {
                    w.next().write_oid(&oid(kind));
                    w.next().write_utf8_string(value);
                });
            });
        };
        for o in organizations {
            attribute(OID_ORGANIZATION, o);
        }
        attribute(OID_COMMON_NAME, common_name);
    })
}

/// The SubjectPublicKeyInfo of a P-256 key, given as an uncompressed point.
pub(super) fn p256_spki(point: &[u8]) -> Vec<u8> {
    sequence(|w| {
        w.next().write_sequence(|w| {
            w.next().write_oid(&oid(&[1, 2, 840, 10045, 2, 1]));
            w.next().write_oid(&oid(&[1, 2, 840, 10045, 3, 1, 7]));
        });
        w.next().write_bitvec_bytes(point, point.len() * 8);
    })
}

/// A time: UTCTime up to 2049, GeneralizedTime after, as RFC 5280 wants.
fn write_time(w: DERWriter<'_>, time: Timestamp) {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let z = time.to_zoned(TimeZone::UTC);
    let (tag, text) = if z.year() < 2050 {
        (UTC_TIME, z.strftime("%y%m%d%H%M%SZ").to_string())
    } else {
        (GENERALIZED_TIME, z.strftime("%Y%m%d%H%M%SZ").to_string())
    };
    // 13 or 15 bytes: the length is one byte.
    let mut der = vec![tag, text.len() as u8];
    der.extend_from_slice(text.as_bytes());
    w.write_der(&der);
}

fn write_algorithm(w: DERWriter<'_>) {
    w.write_sequence(|w| w.next().write_oid(&oid(OID_ECDSA_SHA256)));
}

/// The part of a certificate that is signed.
pub(super) fn tbs(t: &Tbs<'_>) -> Vec<u8> {
    sequence(|w| {
        w.next().write_tagged(Tag::context(0), |w| w.write_u8(2));
        w.next().write_bigint_bytes(&t.serial, true);
        write_algorithm(w.next());
        w.next().write_der(t.issuer_der);
        w.next().write_sequence(|w| {
            write_time(w.next(), t.not_before);
            write_time(w.next(), t.not_after);
        });
        w.next().write_der(t.subject_der);
        w.next().write_der(t.spki_der);
        w.next().write_tagged(Tag::context(3), |w| w.write_sequence(|w| write_extensions(w, t)));
    })
}

fn write_extensions(w: &mut yasna::DERWriterSeq<'_>, t: &Tbs<'_>) {
    let mut extension = |kind: &[u64], critical: bool, value: Vec<u8>| {
        w.next().write_sequence(|w| {
            w.next().write_oid(&oid(kind));
            if critical {
                w.next().write_bool(true);
            }
            w.next().write_bytes(&value);
        });
    };
    if t.key_usage != 0 {
        extension(OID_KEY_USAGE, true, key_usage_der(t.key_usage));
    }
    if !t.extended_key_usage.is_empty() {
        let der = sequence(|w| {
            for usage in t.extended_key_usage {
                w.next().write_oid(&oid(usage));
            }
        });
        extension(OID_EXT_KEY_USAGE, false, der);
    }
    let constraints = sequence(|w| {
        if t.is_ca {
            w.next().write_bool(true);
        }
    });
    extension(OID_BASIC_CONSTRAINTS, true, constraints);
    if let Some(id) = t.subject_key_id {
        extension(OID_SUBJECT_KEY_ID, false, yasna::construct_der(|w| w.write_bytes(id)));
    }
    let authority = sequence(|w| {
        w.next().write_tagged_implicit(Tag::context(0), |w| w.write_bytes(t.authority_key_id));
    });
    extension(OID_AUTHORITY_KEY_ID, false, authority);
    if !t.alt_names.is_empty() {
        extension(OID_SUBJECT_ALT_NAME, false, alt_names_der(t.alt_names));
    }
}

fn key_usage_der(bits: u16) -> Vec<u8> {
    // RFC 5280 numbers bits from the most significant one; trailing zeros are left out.
    let reversed = bits.reverse_bits().to_be_bytes();
    let length = 16 - bits.leading_zeros() as usize;
    let bytes = if length > 8 { &reversed[..] } else { &reversed[..1] };
    yasna::construct_der(|w| w.write_bitvec_bytes(bytes, length))
}

fn alt_names_der(names: &[AltName]) -> Vec<u8> {
    sequence(|w| {
        for name in names {
            let (tag, bytes) = match name {
                AltName::Email(s) => (1, s.as_bytes().to_vec()),
                AltName::Dns(s) => (2, s.as_bytes().to_vec()),
                AltName::Uri(s) => (6, s.as_bytes().to_vec()),
                AltName::Ip(IpAddr::V4(ip)) => (7, ip.octets().to_vec()),
                AltName::Ip(IpAddr::V6(ip)) => (7, ip.octets().to_vec()),
            };
            w.next().write_tagged_implicit(Tag::context(tag), |w| w.write_bytes(&bytes));
        }
    })
}

/// The certificate: the signed part, the algorithm, the signature.
pub(super) fn certificate(tbs: &[u8], signature: &[u8]) -> Vec<u8> {
    sequence(|w| {
        w.next().write_der(tbs);
        write_algorithm(w.next());
        w.next().write_bitvec_bytes(signature, signature.len() * 8);
    })
}
