//! Loading past the verifier, which gives up with EAGAIN when a signal waits for the thread that loads.

use aya::programs::ProgramError;
use std::io::ErrorKind;

/// How often a load that was interrupted is begun anew: what libbpf does, too. A load takes
/// milliseconds, and two in a row are rarely interrupted.
const TRIES: usize = 5;

/// Loads a program by `load`, again if that was interrupted.
///
/// # Errors
/// The kernel refuses the program.
pub fn load(load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    retry(load, |error| {
        matches!(error, ProgramError::LoadError { io_error, .. }
            if io_error.kind() == ErrorKind::WouldBlock)
    })
}

fn retry<E>(
    mut load: impl FnMut() -> Result<(), E>,
    is_interrupted: impl Fn(&E) -> bool,
) -> Result<(), E> {
    for _ in 1..TRIES {
        match load() {
            Err(error) if is_interrupted(&error) => {}
            ended => return ended,
        }
    }
    load()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often a load is tried whose tries end so; the last one's end is that of all later ones.
    fn tries(ends: &[Result<(), ErrorKind>]) -> (usize, Result<(), ErrorKind>) {
        let mut tries = 0;
        let load = || {
            tries += 1;
            ends[(tries - 1).min(ends.len() - 1)]
        };
        let ended = retry(load, |kind| *kind == ErrorKind::WouldBlock);
        (tries, ended)
    }

    #[test]
    fn only_what_was_interrupted_is_loaded_again() {
        let (interrupted, refused) = (Err(ErrorKind::WouldBlock), Err(ErrorKind::PermissionDenied));
        assert_eq!(tries(&[interrupted, Ok(())]), (2, Ok(())));
        assert_eq!(tries(&[refused]), (1, refused));
        assert_eq!(tries(&[interrupted]), (TRIES, interrupted));
    }
}
