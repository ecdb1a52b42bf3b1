//! Skein's kernel programs: thin entry points around the decisions of `skein-packet`.
//!
//! - `hooks/`: one file per place a packet is seen at.
//! - [`maps`]: the maps, and the view of them that decisions have.
//! - [`parse`]: headers to what decisions need.
//! - [`act`]: carries a verdict out at tc hooks, [`xdp`] at XDP hooks.
//! - [`tell`]: what those who watch are told.
#![no_std]
#![no_main]

mod act;
mod hooks;
mod maps;
mod parse;
mod tell;
mod xdp;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic: the verifier would refuse a program from which this is reached.
    // SAFETY: never reached, see above.
    unsafe { core::hint::unreachable_unchecked() }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
