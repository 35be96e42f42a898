//! Digests: what content is called.

use std::fmt;
use std::str::FromStr;

use ring::digest::{Context, SHA256, SHA512};

/// How a digest is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256: what everybody uses.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// As it stands before the colon.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

/// Why a text is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a digest: use sha256: or sha512: and the hash in lower-case hexadecimal digits")]
pub struct DigestError(pub String);

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Algorithm, DigestError> {
        match text {
            "sha256" => Ok(Algorithm::Sha256),
            "sha512" => Ok(Algorithm::Sha512),
            _ => Err(DigestError(text.to_owned())),
        }
    }
}

/// A digest: an algorithm and the hash in hexadecimal digits. Nothing else gets in, so it is safe as a file's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// How it is computed.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let bad = || DigestError(text.to_owned());
        let (algorithm, hex) = text.split_once(':').ok_or_else(bad)?;
        let algorithm: Algorithm = algorithm.parse().map_err(|_| bad())?;
        let digits = hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if hex.len() != algorithm.hex_len() || !digits {
            return Err(bad());
        }
        Ok(Digest { algorithm, hex: hex.into() })
    }
}

/// Computes a digest piece by piece. By the library that TLS uses: its machine code is fast in every build.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    context: Context,
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hasher({})", self.algorithm.as_str())
    }
}

impl Hasher {
    /// Of nothing yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Hasher {
        let of = match algorithm {
            Algorithm::Sha256 => &SHA256,
            Algorithm::Sha512 => &SHA512,
        };
        Hasher { algorithm, context: Context::new(of) }
    }

    /// What it computes.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// More of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// The digest of everything so far.
    #[must_use]
    pub fn finish(self) -> Digest {
        let hash = self.context.finish();
        let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Digest { algorithm: self.algorithm, hex: hex.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lower_case_hashes_are_digests() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(Algorithm::Sha256, b"").to_string(), empty);
        assert_eq!(empty.parse::<Digest>().unwrap().to_string(), empty);
        let long = Digest::of(Algorithm::Sha512, b"x");
        assert_eq!(long.to_string().parse::<Digest>().unwrap(), long);
        assert_eq!(long.hex().len(), 128);
        for bad in [
            "",
            "sha256",
            "sha256:",
            "sha256:baddigeststring",
            "sha256:../../../etc/passwd",
            &empty[..empty.len() - 1],
            &format!("{empty}0"),
            &empty.to_uppercase(),
            &empty.replace("sha256", "md5"),
            &empty.replace('e', "E"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
