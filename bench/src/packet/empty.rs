//! Programs that do nothing: what running a program at all takes here.

use anyhow::Context as _;
use aya::{
    Ebpf, EbpfLoader,
    programs::{SchedClassifier, Xdp},
};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Symbol, SymbolSection},
};

/// The sections by which aya tells what programs are of; and their names.
const SECTION_XDP: &str = "xdp";
const SECTION_TC: &str = "classifier";
const NAME_XDP: &str = "empty_xdp";
const NAME_TC: &str = "empty_tc";
/// What they return: XDP_PASS, and TC_ACT_OK.
const PASS: u8 = 2;
const OK: u8 = 0;
/// Instructions have eight bytes (RFC 9669, section 3).
const INSTRUCTION: u64 = 8;

/// See the module.
pub struct Empty {
    ebpf: Ebpf,
}

impl Empty {
    /// Loads them.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub fn load() -> anyhow::Result<Self> {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        add(&mut object, SECTION_XDP, NAME_XDP, PASS);
        add(&mut object, SECTION_TC, NAME_TC, OK);
        let object = object.write().context("cannot write an object")?;
        let mut ebpf = EbpfLoader::new()
            .load(&object)
            .context("cannot read the object of empty programs")?;
        let program: &mut Xdp = ebpf
            .program_mut(NAME_XDP)
            .context("the XDP program is not in it")?
            .try_into()?;
        program
            .load()
            .context("the kernel refused an empty XDP program")?;
        let program: &mut SchedClassifier = ebpf
            .program_mut(NAME_TC)
            .context("the tc program is not in it")?
            .try_into()?;
        program
            .load()
            .context("the kernel refused an empty tc program")?;
        Ok(Self { ebpf })
    }

    /// The one of XDP.
    ///
    /// # Errors
    /// None in fact.
    pub fn xdp(&self) -> anyhow::Result<&Xdp> {
        let program = self.ebpf.program(NAME_XDP);
        Ok(program.context("it was loaded")?.try_into()?)
    }

    /// The one of tc.
    ///
    /// # Errors
    /// None in fact.
    pub fn tc(&self) -> anyhow::Result<&SchedClassifier> {
        let program = self.ebpf.program(NAME_TC);
        Ok(program.context("it was loaded")?.try_into()?)
    }
}

/// Adds a program that returns a number.
fn add(object: &mut Object<'_>, section: &str, name: &str, returned: u8) {
    // r0 = returned; exit
    let code = [0xb7, 0, 0, 0, returned, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let section = object.add_section(Vec::new(), section.into(), SectionKind::Text);
    let value = object.append_section_data(section, &code, INSTRUCTION);
    object.add_symbol(Symbol {
        name: name.into(),
        value,
        size: code.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Linkage,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
}
