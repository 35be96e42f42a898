//! The service-account signing keys: one per tenant, derived, not stored.
//!
//! Every key is a P-256 scalar taken by HKDF-SHA-256 from one master secret and the tenant's uid. So a
//! tenant costs nothing until it uses a token, a backup of one 32-byte file is a backup of all keys, and a
//! tenant that is deleted and made again under the same name (with another uid) has another key: tokens of
//! the old one are dead. The price is that whoever reads the master secret has every tenant's key; they
//! would equally have them from a store of keys.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hashbrown::HashMap;
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, UnparsedPublicKey};
use ring::{digest, hkdf};
use serde_json::json;

/// Bytes of the master secret, and of a P-256 scalar.
pub const SECRET_BYTES: usize = 32;
/// Bytes of an ES256 signature.
pub(super) const SIGNATURE_BYTES: usize = 64;
/// Derived keys that are kept: a derivation costs about 0.1 ms, a key about 400 bytes. When more tenants
/// than this use tokens at the same time, some keys are derived again.
const MAX_CACHED_KEYS: usize = 16_384;
/// A candidate scalar is outside the group with probability 2^-32; this many in a row do not happen.
const MAX_CANDIDATES: u8 = 8;
/// The DER of a P-256 SubjectPublicKeyInfo before the point.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A key could not be derived or used: a fault of this machine, never of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signing key cannot be used")]
pub struct KeyError;

/// One tenant's signing key.
pub struct TenantKey {
    pair: EcdsaKeyPair,
    /// Uncompressed point: 4, x, y.
    public: [u8; 65],
    kid: String,
}

impl std::fmt::Debug for TenantKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TenantKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl TenantKey {
    fn new(secret: &[u8; SECRET_BYTES], rng: &SystemRandom) -> Result<TenantKey, KeyError> {
        let scalar = p256::SecretKey::from_slice(secret).map_err(|_| KeyError)?;
        let point = scalar.public_key().to_sec1_bytes();
        // SEC 1 bytes may be compressed, depending on the crate's default; the key needs them in full.
        let public = full_point(&scalar, &point)?;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            secret,
            &public,
            rng,
        )
        .map_err(|_| KeyError)?;
        let mut spki = SPKI_PREFIX.to_vec();
        spki.extend_from_slice(&public);
        let kid = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &spki));
        Ok(TenantKey { pair, public, kid })
    }

    /// The key's id: the hash of the public key, as upstream's.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Signs.
    ///
    /// # Errors
    /// When the machine has no randomness.
    pub fn sign(&self, message: &[u8], rng: &SystemRandom) -> Result<[u8; SIGNATURE_BYTES], KeyError> {
        let signature = self.pair.sign(rng, message).map_err(|_| KeyError)?;
        signature.as_ref().try_into().map_err(|_| KeyError)
    }

    /// Whether the signature is this key's on this message.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, &self.public)
            .verify(message, signature)
            .is_ok()
    }

    /// The public key as a JSON Web Key Set.
    #[must_use]
    pub fn jwks(&self) -> serde_json::Value {
        json!({"keys": [{
            "use": "sig",
            "kty": "EC",
            "kid": self.kid,
            "crv": "P-256",
            "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(&self.public[1..33]),
            "y": URL_SAFE_NO_PAD.encode(&self.public[33..]),
        }]})
    }
}

fn full_point(scalar: &p256::SecretKey, sec1: &[u8]) -> Result<[u8; 65], KeyError> {
    use p256::elliptic_curve::sec1::ToSec1Point;
    if let Ok(full) = sec1.try_into() {
        return Ok(full);
    }
    scalar.public_key().to_sec1_point(false).as_bytes().try_into().map_err(|_| KeyError)
}

/// The keys of all tenants.
pub struct KeyRing {
    prk: hkdf::Prk,
    rng: SystemRandom,
    cache: Mutex<HashMap<Box<str>, Arc<TenantKey>>>,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRing").finish_non_exhaustive()
    }
}

impl KeyRing {
    /// Keys derived from this secret.
    #[must_use]
    pub fn new(master: &[u8; SECRET_BYTES]) -> KeyRing {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"skep service account signing keys v1");
        KeyRing { prk: salt.extract(master), rng: SystemRandom::new(), cache: Mutex::default() }
    }

    /// The key of the tenant with this uid.
    ///
    /// # Errors
    /// [`KeyError`], never because of the uid.
    pub fn key(&self, tenant_uid: &str) -> Result<Arc<TenantKey>, KeyError> {
        if let Some(key) = self.cache.lock().get(tenant_uid) {
            return Ok(key.clone());
        }
        let key = Arc::new(self.derive(tenant_uid)?);
        let mut cache = self.cache.lock();
        if cache.len() >= MAX_CACHED_KEYS
            && let Some(any) = cache.keys().next().cloned()
        {
            cache.remove(&any);
        }
        cache.insert(tenant_uid.into(), key.clone());
        Ok(key)
    }

    fn derive(&self, tenant_uid: &str) -> Result<TenantKey, KeyError> {
        for counter in 0..MAX_CANDIDATES {
            let mut secret = [0; SECRET_BYTES];
            self.prk
                .expand(&[tenant_uid.as_bytes(), &[0, counter]], hkdf::HKDF_SHA256)
                .and_then(|okm| okm.fill(&mut secret))
                .map_err(|_| KeyError)?;
            if let Ok(key) = TenantKey::new(&secret, &self.rng) {
                return Ok(key);
            }
        }
        Err(KeyError)
    }

    pub(super) fn rng(&self) -> &SystemRandom {
        &self.rng
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivation_is_stable_and_separates_tenants() {
        let ring = KeyRing::new(&[7; 32]);
        let a = ring.key("uid-a").unwrap();
        let again = KeyRing::new(&[7; 32]).key("uid-a").unwrap();
        assert_eq!(a.kid(), again.kid());
        let b = ring.key("uid-b").unwrap();
        assert_ne!(a.kid(), b.kid());
        assert_ne!(a.kid(), KeyRing::new(&[8; 32]).key("uid-a").unwrap().kid());
        let signature = a.sign(b"m", ring.rng()).unwrap();
        assert!(again.verifies(b"m", &signature));
        assert!(!again.verifies(b"n", &signature) && !b.verifies(b"m", &signature));
        assert!(!a.verifies(b"m", &[0; 64]) && !a.verifies(b"m", b""));
    }

    #[test]
    fn the_cache_is_bounded() {
        let ring = KeyRing::new(&[7; 32]);
        let key = ring.key("x").unwrap();
        {
            let mut cache = ring.cache.lock();
            for i in 0..MAX_CACHED_KEYS {
                cache.insert(i.to_string().into(), key.clone());
            }
        }
        ring.key("y").unwrap();
        assert!(ring.cache.lock().len() <= MAX_CACHED_KEYS + 1);
    }
}
