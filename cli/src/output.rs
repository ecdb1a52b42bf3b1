//! Tables, and standard output.

use anyhow::Context as _;
use std::io::{ErrorKind, Write as _};

/// Blanks between two columns.
const PADDING: usize = 3;

/// Writes to standard output. Whoever reads no further has seen enough.
///
/// # Errors
/// It cannot be written.
pub fn print(text: &[u8]) -> anyhow::Result<()> {
    write(text).map(|_| ())
}

/// Writes one line. False: whoever read them reads no further.
///
/// # Errors
/// It cannot be written.
pub fn print_line(line: &str) -> anyhow::Result<bool> {
    write(format!("{line}\n").as_bytes())
}

fn write(text: &[u8]) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}

/// A table: rows of cells, the first row the names of the columns.
#[derive(Default)]
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// With the names of its columns.
    pub fn new(columns: &[&str]) -> Self {
        Self(vec![
            columns.iter().map(|name| (*name).to_owned()).collect(),
        ])
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.push(cells.into_iter().collect());
    }

    /// Its lines, each column as wide as its widest cell.
    pub fn text(&self) -> String {
        let mut writer = tabwriter::TabWriter::new(Vec::new()).padding(PADDING);
        for row in &self.0 {
            // Into memory: never fails.
            let _ = writeln!(writer, "{}", row.join("\t"));
        }
        let bytes = writer.into_inner().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().map(|line| format!("{}\n", line.trim_end()));
        lines.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["NODE", "STATE"]);
        table.row(["a-long-name".to_owned(), "up".to_owned()]);
        table.row(["b".to_owned(), String::new()]);
        assert_eq!(table.text(), "NODE          STATE\na-long-name   up\nb\n");
    }
}
