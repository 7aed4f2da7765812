//! The join token: one string that a person copies from a member to a new machine.
//!
//! `FUS1-<authority hash>-<id>-<secret>@host:port[,host:port..]`: hash and secret in lower-case
//! base32 (RFC 4648 alphabet, no padding, any case accepted), the id in decimal.

use std::fmt;
use std::str::FromStr;

/// Bytes of the secret: 160 bits can't be guessed, and make a whole number of base32 digits.
pub const SECRET_BYTES: usize = 20;
/// Bytes kept of the BLAKE3 of the authority's certificate. Who could make a second
/// certificate of the same 160 bits could break the certificate's own signature.
pub const AUTHORITY_HASH_BYTES: usize = 20;
const PREFIX: &str = "FUS1";
const ADDRESSES_MAX: usize = 16;

/// The right to join a cluster, once.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub authority_hash: [u8; AUTHORITY_HASH_BYTES],
    pub id: u64,
    pub secret: [u8; SECRET_BYTES],
    /// `host:port` of members that admit, tried in order.
    pub addresses: Vec<String>,
}

/// Why a text is not a join token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error(
        "a join token starts with '{PREFIX}-': copy the whole text that `fusion token create` printed"
    )]
    Prefix,
    #[error("this join token is of a newer kind than {PREFIX}: upgrade this program first")]
    Newer,
    #[error(
        "the join token has {have} of its 4 parts: copy the whole text that `fusion token create` printed"
    )]
    Parts { have: usize },
    #[error("the join token's {part} is not intact ({have} of {want} characters): copy it again")]
    Length { part: &'static str, have: usize, want: usize },
    #[error("the join token's {part} has the character '{character}', which a token never has")]
    Character { part: &'static str, character: char },
    #[error("the join token names no address: expected '@host:port' at its end")]
    NoAddress,
    #[error("'{0}' in the join token is not an address: expected host:port")]
    Address(String),
}

impl JoinToken {
    /// A token with a new random secret.
    pub fn generate(
        id: u64,
        authority_hash: [u8; AUTHORITY_HASH_BYTES],
        addresses: Vec<String>,
    ) -> JoinToken {
        JoinToken { authority_hash, id, secret: crate::identity::random(), addresses }
    }

    /// BLAKE3 of the secret: what the agreed state keeps.
    pub fn secret_hash(&self) -> [u8; 32] {
        secret_hash(&self.secret)
    }
}

/// BLAKE3 of a join token's secret.
pub fn secret_hash(secret: &[u8; SECRET_BYTES]) -> [u8; 32] {
    *blake3::hash(secret).as_bytes()
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hash, secret) = (base32(&self.authority_hash), base32(&self.secret));
        write!(f, "{PREFIX}-{hash}-{}-{secret}@{}", self.id, self.addresses.join(","))
    }
}

// By hand: secrets don't get into logs.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({} at {:?})", self.id, self.addresses)
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<JoinToken, TokenError> {
        // People copy with line breaks and blanks around, and inside from a wrapped terminal.
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (token, addresses) = text.split_once('@').unwrap_or((&text, ""));
        let parts: Vec<&str> = token.split('-').collect();
        match parts[0].to_ascii_uppercase().as_str() {
            PREFIX => {}
            other if is_newer(other) => return Err(TokenError::Newer),
            _ => return Err(TokenError::Prefix),
        }
        let [_, hash, id, secret] = parts[..] else {
            return Err(TokenError::Parts { have: parts.len() });
        };
        Ok(JoinToken {
            authority_hash: parse_base32("authority hash", hash)?,
            id: parse_id(id)?,
            secret: parse_base32("secret", secret)?,
            addresses: parse_addresses(addresses)?,
        })
    }
}

fn is_newer(prefix: &str) -> bool {
    prefix.strip_prefix("FUS").and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n > 1)
}

fn parse_id(id: &str) -> Result<u64, TokenError> {
    let part = "number";
    if let Some(character) = id.chars().find(|c| !c.is_ascii_digit()) {
        return Err(TokenError::Character { part, character });
    }
    id.parse().map_err(|_| TokenError::Length { part, have: id.len(), want: 1 })
}

fn parse_addresses(text: &str) -> Result<Vec<String>, TokenError> {
    let addresses: Vec<String> =
        text.split(',').filter(|a| !a.is_empty()).map(str::to_owned).collect();
    if addresses.is_empty() {
        return Err(TokenError::NoAddress);
    }
    for address in &addresses {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(TokenError::Address(address.clone()));
        }
    }
    Ok(addresses.into_iter().take(ADDRESSES_MAX).collect())
}

const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Base32 of bytes whose bits make a whole number of digits.
fn base32(bytes: &[u8]) -> String {
    assert_eq!(bytes.len() % 5, 0, "five bytes make eight digits");
    let group = |five: &[u8]| five.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    let digits = |n: u64| (0..8).rev().map(move |at| DIGITS[(n >> (5 * at) & 31) as usize] as char);
    bytes.chunks(5).flat_map(|five| digits(group(five))).collect()
}

fn parse_base32<const N: usize>(part: &'static str, text: &str) -> Result<[u8; N], TokenError> {
    let mut values = Vec::with_capacity(text.len());
    for character in text.chars() {
        let lower = character.to_ascii_lowercase();
        let value = DIGITS.iter().position(|digit| *digit as char == lower);
        values.push(value.ok_or(TokenError::Character { part, character })? as u64);
    }
    let want = N * 8 / 5;
    if values.len() != want {
        return Err(TokenError::Length { part, have: values.len(), want });
    }
    let mut bytes = [0; N];
    for (five, eight) in bytes.chunks_mut(5).zip(values.chunks(8)) {
        let group = eight.iter().fold(0u64, |n, value| n << 5 | value);
        five.copy_from_slice(&group.to_be_bytes()[3..]);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        let addresses = vec!["a.example:7432".into(), "[::1]:7".into()];
        JoinToken::generate(42, *b"12345678901234567890", addresses)
    }

    #[test]
    fn a_token_survives_being_copied() {
        let token = token();
        let text = token.to_string();
        assert_eq!(text.parse(), Ok(token.clone()));
        assert_eq!(format!("  {}\n {}", &text[..30], &text[30..]).parse(), Ok(token.clone()));
        assert_eq!(text.to_ascii_uppercase().to_lowercase().parse(), Ok(token));
    }

    #[test]
    fn base32_is_that_of_the_rfc() {
        assert_eq!(base32(b"fooba"), "mzxw6ytb");
        assert_eq!(parse_base32::<5>("text", "MZXW6YTB"), Ok(*b"fooba"));
    }

    #[test]
    fn a_damaged_token_says_what_is_wrong() {
        let text = token().to_string();
        let parse = |text: &str| text.parse::<JoinToken>().unwrap_err();
        assert_eq!(parse("hello"), TokenError::Prefix);
        assert_eq!(parse("FUS2-a-b-c@h:1"), TokenError::Newer);
        assert_eq!(parse(&text[..20]), TokenError::Parts { have: 2 });
        assert_eq!(parse(text.split('@').next().unwrap()), TokenError::NoAddress);
        assert_eq!(parse(&text.replace(":7432", "")), TokenError::Address("a.example".into()));
        assert!(matches!(parse(&text.replace("-42-", "-4x-")), TokenError::Character { .. }));
        assert!(matches!(parse(&text.replacen("FUS1-", "FUS1-a", 1)), TokenError::Length { .. }));
        assert!(matches!(
            parse(&text.replacen("FUS1-", "FUS1-1", 1)),
            TokenError::Character { .. }
        ));
    }
}
