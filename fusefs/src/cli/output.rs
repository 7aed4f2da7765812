//! How answers and errors look.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ColorChoice;
use serde::Serialize;

use super::Globals;
use crate::admin::control::ControlError;

/// Decided once, before anything is printed.
static COLOR: AtomicBool = AtomicBool::new(false);

pub fn set_color(choice: ColorChoice) {
    let on = match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        // https://no-color.org: present and not empty.
        ColorChoice::Auto => {
            std::io::stdout().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        }
    };
    COLOR.store(on, Ordering::Relaxed);
}

fn paint(code: &str, text: &str) -> String {
    if COLOR.load(Ordering::Relaxed) {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

pub fn bold(text: &str) -> String {
    paint("1", text)
}

pub fn good(text: &str) -> String {
    paint("32", text)
}

pub fn doubtful(text: &str) -> String {
    paint("33", text)
}

pub fn bad(text: &str) -> String {
    paint("31", text)
}

/// Prints an error and what to do; as JSON on stdout with `--json`, so that a script reads
/// every answer at one place.
pub fn print_error(globals: &Globals, error: &ControlError) {
    if globals.json {
        print_json(&serde_json::json!({ "error": error }));
        return;
    }
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "fusion: {}", error.message);
    for line in error.hint.lines() {
        let _ = writeln!(stderr, "  {line}");
    }
}

/// Asks at a terminal; elsewhere nobody can answer, and the call itself is the answer.
pub fn confirm(question: &str) -> bool {
    if !std::io::stdin().is_terminal() {
        return true;
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    let _ = std::io::stdin().read_line(&mut answer);
    matches!(answer.trim(), "y" | "Y" | "yes")
}

pub fn print_json(value: &impl Serialize) {
    let text = serde_json::to_string_pretty(value).expect("reports have JSON forms");
    println!("{text}");
}

/// One JSON value on one line, at once: for what follows.
pub fn print_json_line(value: &impl Serialize) {
    let text = serde_json::to_string(value).expect("reports have JSON forms");
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{text}");
    let _ = stdout.flush();
}

/// A table without borders.
pub struct Table {
    rows: Vec<Vec<String>>,
}

pub fn table(columns: &[&str]) -> Table {
    Table { rows: vec![columns.iter().map(|column| bold(column)).collect()] }
}

impl Table {
    pub fn add_row(&mut self, row: impl IntoIterator<Item = String>) {
        self.rows.push(row.into_iter().collect());
    }

    fn lines(&self) -> Vec<String> {
        let mut widths = vec![0; self.rows[0].len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(visible_width(cell));
            }
        }
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| {
                let padding = " ".repeat(width - visible_width(cell));
                format!("{cell}{padding}")
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

pub fn print_table(table: &Table) {
    for line in table.lines() {
        println!("{line}");
    }
}

/// Characters that take a place on the screen: all but our own colours.
fn visible_width(text: &str) -> usize {
    let mut in_escape = false;
    let visible = text.chars().filter(|character| {
        let shown = !in_escape && *character != '\x1b';
        in_escape = *character == '\x1b' || (in_escape && *character != 'm');
        shown
    });
    visible.count()
}

/// Bytes in binary units, three digits.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Milliseconds with as many digits as matter.
pub fn milliseconds(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 10.0 => format!("{value:.2} ms"),
        Some(value) => format!("{value:.1} ms"),
    }
}

/// A duration in the largest unit that leaves at least 2 of it.
pub fn seconds(value: f64) -> String {
    const UNITS: [(f64, &str); 3] = [(86_400.0, "days"), (3_600.0, "h"), (60.0, "min")];
    match UNITS.iter().find(|(unit, _)| value >= 2.0 * unit) {
        Some((unit, name)) => format!("{:.0} {name}", value / unit),
        None => format!("{value:.0} s"),
    }
}

/// What is behind: `-` when nothing is.
pub fn lag(lag: &crate::admin::report::Lag) -> String {
    if lag.files == 0 && lag.bytes == 0 {
        return "-".to_owned();
    }
    let files = if lag.files == 1 { "file" } else { "files" };
    format!("{:.1} s, {}, {} {files}", lag.seconds, bytes(lag.bytes), lag.files)
}

/// The first digits of a hash: enough to compare by eye.
pub fn short_hash(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_in_spite_of_colours() {
        let mut table = Table { rows: vec![vec!["a".to_owned(), "b".to_owned()]] };
        table.add_row(["\x1b[32mgreen\x1b[0m".to_owned(), "x".to_owned()]);
        assert_eq!(table.lines(), ["a      b", "\x1b[32mgreen\x1b[0m  x"]);
    }

    #[test]
    fn durations_have_a_fitting_unit() {
        assert_eq!(seconds(90.0), "90 s");
        assert_eq!(seconds(7_300.0), "2 h");
        assert_eq!(seconds(90.0 * 86_400.0), "90 days");
    }

    #[test]
    fn bytes_have_three_digits() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.00 KiB");
        assert_eq!(bytes(1_048_576 * 25), "25.0 MiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
    }
}
