//! `wan.csv`: links as text, one per line.
//!
//! ```text
//! # from, to, one-way ms, jitter ms, loss, rate
//! z1, z2, 10, 0.2, 0.1%, 100M
//! z1, z3, 40
//! ```
//!
//! Fields from the jitter on may be missing or empty. Loss is a share or a percentage, the rate
//! bits per second with K, M or G. `#` starts a comment; a first line of titles is skipped.

use super::shape::LinkShape;

/// One line of a `wan.csv`.
#[derive(Clone, Debug, PartialEq)]
pub struct WanRow {
    pub from: String,
    pub to: String,
    pub shape: LinkShape,
}

/// What is wrong with a `wan.csv`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct WanError {
    /// Counted from 1.
    pub line: usize,
    pub reason: String,
}

/// A link slower than the slowest satellite is a typing error.
const DELAY_MAX_MS: f64 = 60_000.0;

/// Reads a `wan.csv`.
pub fn parse(text: &str) -> Result<Vec<WanRow>, WanError> {
    let mut rows = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim();
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        if line.is_empty() || (rows.is_empty() && fields[..2.min(fields.len())] == ["from", "to"]) {
            continue;
        }
        rows.push(parse_row(&fields).map_err(|reason| WanError { line: at + 1, reason })?);
    }
    Ok(rows)
}

fn parse_row(fields: &[&str]) -> Result<WanRow, String> {
    let field = |at: usize| fields.get(at).copied().filter(|field| !field.is_empty());
    let needed = |at: usize, what: &str| field(at).ok_or(format!("{what} is missing"));
    if fields.len() > 6 {
        return Err(format!("{} fields, at most 6 have a meaning", fields.len()));
    }
    let shape = LinkShape {
        delay_us: parse_ms(needed(2, "the delay")?)?,
        jitter_us: field(3).map_or(Ok(0), parse_ms)?,
        loss: field(4).map_or(Ok(0.0), parse_loss)?,
        rate_bps: field(5).map_or(Ok(0), parse_rate)?,
        up: true,
    };
    let (from, to) = (needed(0, "the sender")?, needed(1, "the receiver")?);
    Ok(WanRow { from: from.into(), to: to.into(), shape })
}

fn number(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("'{text}' is not a number"))?;
    if number.is_finite() && number >= 0.0 {
        Ok(number)
    } else {
        Err(format!("'{text}' is not a number from 0 up"))
    }
}

fn parse_ms(text: &str) -> Result<u64, String> {
    let ms = number(text)?;
    if ms > DELAY_MAX_MS {
        return Err(format!("{text} ms is longer than a minute"));
    }
    Ok((ms * 1000.0).round() as u64)
}

fn parse_loss(text: &str) -> Result<f64, String> {
    let loss = match text.strip_suffix('%') {
        Some(percent) => number(percent.trim_end())? / 100.0,
        None => number(text)?,
    };
    if loss <= 1.0 { Ok(loss) } else { Err(format!("a loss of {text} is more than everything")) }
}

fn parse_rate(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 1e3),
        Some((at, 'M' | 'm')) => (&text[..at], 1e6),
        Some((at, 'G' | 'g')) => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    let rate = number(digits)? * unit;
    if rate < 1e15 { Ok(rate as u64) } else { Err(format!("a rate of {text} is none")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        let text = "from,to,one-way ms,jitter,loss,rate\n\
                    z1, z2, 10, 0.2, 0.1%, 100M # fibre\n\n# no more\nz1,z3,40.5\nz2,z3,45,,0.5,";
        let rows = parse(text).unwrap();
        let shape =
            LinkShape { delay_us: 10_000, jitter_us: 200, loss: 0.001, ..LinkShape::PERFECT };
        let shape = LinkShape { rate_bps: 100_000_000, ..shape };
        assert_eq!(rows[0], WanRow { from: "z1".into(), to: "z2".into(), shape });
        assert_eq!(rows[1].shape, LinkShape { delay_us: 40_500, ..LinkShape::PERFECT });
        assert_eq!(rows[2].shape.loss, 0.5);
        assert_eq!(rows.len(), 3);
    }

    #[test]
    fn mistakes_name_their_line() {
        for (line, text) in [
            (1, "z1,z2"),
            (2, "z1,z2,1\nz1,,1"),
            (1, "z1,z2,-1"),
            (1, "z1,z2,nan"),
            (1, "z1,z2,1e9"),
            (1, "z1,z2,1,0,150%"),
            (1, "z1,z2,1,0,0,10T"),
            (1, "z1,z2,1,0,0,1,1"),
        ] {
            assert_eq!(parse(text).unwrap_err().line, line, "{text}");
        }
    }
}
