//! The wire format: tags, numbers, lengths.

use crate::ProtoError;

/// The largest field number there is.
const MAX_NUMBER: u64 = (1 << 29) - 1;

/// A field's value as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    /// A varint.
    Number(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Four bytes; no message of Kubernetes has any.
    Fixed32,
    /// A string, bytes, a message or packed numbers.
    Bytes(&'a [u8]),
    /// A group, left behind; no message of Kubernetes has any.
    Group,
}

/// Reads one message's fields in order.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Reader<'a> {
        Reader { rest: message }
    }

    /// The next field's number and value; nothing at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, ProtoError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (number, wire_type) = self.tag()?;
        let value = match wire_type {
            3 => {
                self.skip_group(number)?;
                Value::Group
            }
            4 => return Err(ProtoError::BadTag),
            _ => self.value(wire_type)?,
        };
        Ok(Some((number, value)))
    }

    /// A bare number, as in packed lists; nothing at the end.
    pub(crate) fn packed(&mut self) -> Result<Option<u64>, ProtoError> {
        if self.rest.is_empty() { Ok(None) } else { self.varint().map(Some) }
    }

    fn tag(&mut self) -> Result<(u32, u8), ProtoError> {
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 || number > MAX_NUMBER {
            return Err(ProtoError::BadTag);
        }
        Ok((u32::try_from(number).map_err(|_| ProtoError::BadTag)?, (tag & 7) as u8))
    }

    fn value(&mut self, wire_type: u8) -> Result<Value<'a>, ProtoError> {
        Ok(match wire_type {
            0 => Value::Number(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                let bytes: [u8; 8] = bytes.try_into().map_err(|_| ProtoError::Truncated)?;
                Value::Fixed64(u64::from_le_bytes(bytes))
            }
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(usize::try_from(length).map_err(|_| ProtoError::Truncated)?)?)
            }
            5 => {
                self.take(4)?;
                Value::Fixed32
            }
            _ => return Err(ProtoError::BadTag),
        })
    }

    /// Groups may nest: the open ones are counted, not followed, so that no depth is too much.
    fn skip_group(&mut self, number: u32) -> Result<(), ProtoError> {
        let mut open: u64 = 1;
        loop {
            let (inner, wire_type) = self.tag()?;
            match wire_type {
                3 => open += 1,
                4 => {
                    open -= 1;
                    if open == 0 {
                        return if inner == number { Ok(()) } else { Err(ProtoError::BadTag) };
                    }
                }
                other => {
                    self.value(other)?;
                }
            }
        }
    }

    fn varint(&mut self) -> Result<u64, ProtoError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(ProtoError::Truncated)?;
            self.rest = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(ProtoError::Overflow)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtoError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(ProtoError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}
