//! SPDY's header blocks: names and values, compressed by one zlib stream per direction that begins with a known dictionary.

use bytes::Buf;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Longest block when unpacked. Kubernetes' clients send three short headers.
const MAX_BLOCK_BYTES: usize = 64 * 1024;

/// Window of the zlib streams, in bits: what Go's implementation, and the specification's dictionary, take.
const WINDOW_BITS: u8 = 15;

/// The words of the dictionary, each preceded by its length; then [`DICTIONARY_TAIL`]. From the specification of SPDY/3,
/// section 2.6.10.1.
const DICTIONARY_WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language content-length \
    content-location content-md5 content-range content-type date etag expect expires from host if-match if-modified-since \
    if-none-match if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate \
    proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning \
    www-authenticate method get status 200\u{a0}OK version HTTP/1.1 url public set-cookie keep-alive origin";

const DICTIONARY_TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 \
    Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
    Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
    application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,\
    utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in DICTIONARY_WORDS.split(' ') {
        // One word has a space in it.
        let word = word.replace('\u{a0}', " ");
        // The cast is exact: words are short.
        bytes.extend_from_slice(&(word.len() as u32).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(DICTIONARY_TAIL.as_bytes());
    bytes
}

/// Why a block makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadHeaders {
    #[error("headers that are longer than {MAX_BLOCK_BYTES} bytes")]
    TooLong,
    #[error("headers that cannot be unpacked")]
    Packed,
    #[error("headers that are cut off, or not text")]
    Malformed,
}

/// Unpacks the blocks of one direction, in order.
pub(crate) struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Inflater {
        Inflater(Decompress::new_with_window_bits(true, WINDOW_BITS))
    }
}

impl Inflater {
    pub(crate) fn read(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, BadHeaders> {
        let mut out = Vec::with_capacity(1024);
        let mut rest = block;
        loop {
            if out.len() == out.capacity() {
                if out.len() >= MAX_BLOCK_BYTES {
                    return Err(BadHeaders::TooLong);
                }
                out.reserve(out.len());
            }
            let (before_in, before_out) = (self.0.total_in(), out.len());
            let result = self.0.decompress_vec(rest, &mut out, FlushDecompress::Sync);
            // The cast is exact: no more than the rest's length.
            rest = &rest[(self.0.total_in() - before_in) as usize..];
            match result {
                Ok(Status::StreamEnd) => return Err(BadHeaders::Packed),
                Ok(_) => {
                    let idle = self.0.total_in() == before_in && out.len() == before_out;
                    if rest.is_empty() && out.len() < out.capacity() {
                        break;
                    }
                    if idle && out.len() < out.capacity() {
                        return Err(BadHeaders::Packed);
                    }
                }
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).map_err(|_| BadHeaders::Packed)?;
                }
                Err(_) => return Err(BadHeaders::Packed),
            }
        }
        parse(&out)
    }
}

fn parse(mut block: &[u8]) -> Result<Vec<(String, String)>, BadHeaders> {
    fn text(block: &mut &[u8]) -> Result<String, BadHeaders> {
        let len = block.try_get_u32().map_err(|_| BadHeaders::Malformed)? as usize;
        let bytes = block.get(..len).ok_or(BadHeaders::Malformed)?;
        let text = std::str::from_utf8(bytes).map_err(|_| BadHeaders::Malformed)?.to_owned();
        *block = &block[len..];
        Ok(text)
    }
    let count = block.try_get_u32().map_err(|_| BadHeaders::Malformed)?;
    let mut headers = Vec::new();
    for _ in 0..count {
        headers.push((text(&mut block)?, text(&mut block)?));
    }
    Ok(headers)
}

/// Packs the blocks of one direction, in order.
pub(crate) struct Deflater {
    zlib: Compress,
    begun: bool,
}

impl Deflater {
    pub(crate) fn new() -> Deflater {
        Deflater {
            zlib: Compress::new_with_window_bits(Compression::fast(), true, WINDOW_BITS),
            begun: false,
        }
    }

    pub(crate) fn block(&mut self, headers: &[(&str, &str)]) -> Result<Vec<u8>, BadHeaders> {
        if !self.begun {
            self.zlib.set_dictionary(&dictionary()).map_err(|_| BadHeaders::Packed)?;
            self.begun = true;
        }
        let mut plain = Vec::new();
        // The casts are exact: headers are short.
        plain.extend_from_slice(&(headers.len() as u32).to_be_bytes());
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        let mut rest = plain.as_slice();
        loop {
            let before = self.zlib.total_in();
            self.zlib.compress_vec(rest, &mut out, FlushCompress::Sync).map_err(|_| BadHeaders::Packed)?;
            rest = &rest[(self.zlib.total_in() - before) as usize..];
            // A flush is complete when it leaves room.
            if rest.is_empty() && out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(256);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_specifications() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        // Adler-32, as zlib streams name it.
        let (mut a, mut b) = (1u32, 0u32);
        for byte in &dictionary {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_follow_on_each_other() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::default());
        for n in 0..50 {
            let port = n.to_string();
            let headers = [("streamtype", "data"), ("port", port.as_str()), ("requestid", "7")];
            let block = deflater.block(&headers).unwrap();
            let read = inflater.read(&block).unwrap();
            let read: Vec<(&str, &str)> = read.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            assert_eq!(read, headers);
        }
        assert_eq!(inflater.read(&deflater.block(&[]).unwrap()), Ok(Vec::new()));
    }

    #[test]
    fn a_bomb_is_refused() {
        let long = "x".repeat(10 * MAX_BLOCK_BYTES);
        let block = Deflater::new().block(&[("a", &long)]).unwrap();
        assert!(block.len() < 10_000);
        assert_eq!(Inflater::default().read(&block), Err(BadHeaders::TooLong));
        assert_eq!(Inflater::default().read(b"nonsense"), Err(BadHeaders::Packed));
    }
}
