//! Completions and manual pages, from the command line itself.

use crate::args::Args;
use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;
use std::path::Path;

/// The script for a shell.
pub fn completion(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "skein", &mut script);
    script
}

/// Writes one page for the command, and one for each of its commands.
///
/// # Errors
/// The folder or a page cannot be written.
pub fn man(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    clap_mangen::generate_to(Args::command(), dir)
        .with_context(|| format!("cannot write the manual pages into {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        let pages = dir.path().join("man1");
        man(&pages).unwrap();
        let script = String::from_utf8(completion(Shell::Bash)).unwrap();
        for command in Args::command().get_subcommands() {
            let name = command.get_name();
            let page = std::fs::read_to_string(pages.join(format!("skein-{name}.1"))).unwrap();
            assert!(page.contains("NAME"), "{page}");
            assert!(script.contains(name), "{name} is not completed");
        }
        assert!(pages.join("skein.1").exists());
    }

    #[test]
    fn values_are_completed_too() {
        for (shell, expected) in [
            (Shell::Bash, ["no_task", "delivered", "icmp"]),
            (Shell::Zsh, ["no_task", "delivered", "_files"]),
            (Shell::Fish, ["no_task", "delivered", "icmp"]),
        ] {
            let script = String::from_utf8(completion(shell)).unwrap();
            for value in expected {
                assert!(
                    script.contains(value),
                    "{value} is not completed in {shell}"
                );
            }
        }
    }
}
