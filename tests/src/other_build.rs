//! Another build of the dataplane, for upgrades: its kernel programs do the same by other instructions, as
//! another compiler's would.

use anyhow::{Context as _, ensure};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Says another dataplane to upgrade to, of the same layout of the maps: one of another commit, for example.
const OTHER: &str = "SKEIN_OTHER_DATAPLANE";
/// What the dataplane has in it, below the workspace's root.
const OBJECT: &str = "ebpf/skein.bpf.o";
/// Of an instruction, in bytes: opcode, registers, offset, and a number of 32 bits.
const INSTRUCTION: usize = 8;
/// Sets 64 bits of a register to a number, whose sign goes on in the upper 32.
const MOV64: u8 = 0xb7;
/// Sets the lower 32 bits, and the upper ones to zero: the same where the number is not negative.
const MOV32: u8 = 0xb4;
/// A number of 64 bits, which takes two instructions' place.
const LOAD64: u8 = 0x18;

/// Another build of a dataplane: as `SKEIN_OTHER_DATAPLANE` says, else one that is made of `program`, and put
/// into `folder`.
///
/// # Errors
/// There is none, or `program` has not the object in it that is committed.
pub fn other_dataplane(program: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    if let Some(other) = std::env::var_os(OTHER) {
        return Ok(other.into());
    }
    let object = xtask::root().join(OBJECT);
    let object = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    let mut built =
        fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let mut other = object.clone();
    for section in code(&object)? {
        let code = other
            .get_mut(section)
            .context("a section out of its file")?;
        ensure!(rewrite(code), "no instruction can be another one");
    }
    let begin = built
        .windows(object.len())
        .position(|window| window == object)
        .with_context(|| format!("{} has not {OBJECT} in it", program.display()))?;
    built[begin..begin + other.len()].copy_from_slice(&other);
    let path = folder.join("other-skein-dataplane");
    // One that runs still, as of another test, stays what it is.
    if path.exists() {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    fs::write(&path, built).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Where the sections of an object are that have instructions (ELF, 64 bits, little endian).
fn code(object: &[u8]) -> anyhow::Result<Vec<std::ops::Range<usize>>> {
    const EXECUTABLE: u64 = 0x4;
    let number = |at: usize, bytes: usize| {
        let bytes = object.get(at..at + bytes).context("a short object")?;
        let digits = bytes.iter().rev();
        anyhow::Ok(digits.fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    let headers = number(0x28, 8)?;
    let (size, count) = (number(0x3a, 2)?, number(0x3c, 2)?);
    let mut sections = Vec::new();
    for nth in 0..count {
        let header = usize::try_from(headers + nth * size)?;
        if number(header + 0x8, 8)? & EXECUTABLE != 0 {
            let begin = usize::try_from(number(header + 0x18, 8)?)?;
            let end = begin + usize::try_from(number(header + 0x20, 8)?)?;
            if begin < end {
                sections.push(begin..end);
            }
        }
    }
    ensure!(!sections.is_empty(), "an object without instructions");
    Ok(sections)
}

/// Writes the first instruction that can be written in another way so; false: there is none.
fn rewrite(code: &mut [u8]) -> bool {
    let mut at = 0;
    while let Some([opcode, .., sign]) = code.get_mut(at..at + INSTRUCTION) {
        match *opcode {
            MOV64 if *sign < 0x80 => {
                *opcode = MOV32;
                return true;
            }
            LOAD64 => at += 2 * INSTRUCTION,
            _ => at += INSTRUCTION,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_written_in_another_way_where_it_stays_the_same() {
        let negative = [MOV64, 1, 0, 0, 0xff, 0xff, 0xff, 0xff];
        // What is in the second half is no instruction.
        let load = [LOAD64, 2, 0, 0, 7, 0, 0, 0, MOV64, 0, 0, 0, 0, 0, 0, 0];
        let set = [MOV64, 0, 0, 0, 2, 0, 0, 0];
        let mut code = [&negative[..], &load, &set, &set].concat();
        assert!(rewrite(&mut code));
        let rewritten = [MOV32, 0, 0, 0, 2, 0, 0, 0];
        assert_eq!(code, [&negative[..], &load, &rewritten, &set].concat());
        assert!(!rewrite(&mut negative.clone()));
    }

    #[test]
    fn every_program_of_the_object_can_be_another() {
        let mut object = fs::read(xtask::root().join(OBJECT)).unwrap();
        for section in code(&object).unwrap() {
            assert!(rewrite(&mut object[section]));
        }
    }
}
