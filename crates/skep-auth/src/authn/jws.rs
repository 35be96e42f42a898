//! JSON Web Signatures in compact form, ES256 only.
//!
//! Written out instead of taken from a crate because it is little: there is one algorithm, the key is never
//! chosen by the token, and the cases that go wrong elsewhere (`alg: none`, an HMAC keyed with a public
//! key, embedded keys) cannot be expressed: whatever `alg` says other than `ES256` is refused.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::keys::{KeyError, SIGNATURE_BYTES, TenantKey};

/// The longest token that is looked at. Ours are under 2 KiB, unless somebody asks for many audiences.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
const ALGORITHM: &str = "ES256";

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    kid: String,
    /// Extensions that must be understood; none are.
    #[serde(default, skip_serializing)]
    crit: Option<serde_json::Value>,
}

/// A token taken apart; nothing of it is verified yet.
pub(super) struct Unverified<'a, C> {
    pub(super) kid: String,
    pub(super) claims: C,
    message: &'a [u8],
    signature: Vec<u8>,
}

impl<C> Unverified<'_, C> {
    pub(super) fn verified_by(&self, key: &TenantKey) -> bool {
        key.kid() == self.kid && key.verifies(self.message, &self.signature)
    }
}

/// Takes a token apart. `None` for what is not an ES256 token with such claims.
pub(super) fn parse<C: DeserializeOwned>(token: &str) -> Option<Unverified<'_, C>> {
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let (message, signature) = token.rsplit_once('.')?;
    let (header, payload) = message.split_once('.')?;
    let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    if header.alg != ALGORITHM || header.kid.is_empty() || header.crit.is_some() {
        return None;
    }
    // A second dot in the payload fails here: it is not of the alphabet.
    let claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    (signature.len() == SIGNATURE_BYTES).then(|| Unverified {
        kid: header.kid,
        claims,
        message: message.as_bytes(),
        signature,
    })
}

/// Signs claims.
pub(super) fn sign<C: Serialize>(
    claims: &C,
    key: &TenantKey,
    rng: &ring::rand::SystemRandom,
) -> Result<String, KeyError> {
    let header = Header { alg: ALGORITHM.to_owned(), kid: key.kid().to_owned(), crit: None };
    let json = |r: Result<Vec<u8>, serde_json::Error>| r.map_err(|_| KeyError);
    let mut token = URL_SAFE_NO_PAD.encode(json(serde_json::to_vec(&header))?);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(json(serde_json::to_vec(claims))?, &mut token);
    let signature = key.sign(token.as_bytes(), rng)?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}
