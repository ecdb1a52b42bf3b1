//! The host's own sockets: what calls a published port of this node by one of its addresses, or by
//! loopback, calls the reserved address instead, which leads into the local pair.
//!
//! A program on the cgroup root sees every container, too; they are left alone, by the network
//! namespace's cookie: containers are served at their veth.

use crate::maps::{Maps, SOCKETS};
use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_ANY,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use skein_abi::{
    Addr, Port,
    flow::{SocketKey, Tuple},
};
use skein_packet::{Tables as _, offered};

/// Let the call go on.
const ALLOW: i32 = 1;
/// 127.0.0.0/8, in network byte order.
const LOOPBACK: Addr = u32::from_ne_bytes([127, 0, 0, 0]);
const LOOPBACK_MASK: Addr = u32::from_ne_bytes([255, 0, 0, 0]);

/// See [`skein_abi::names::PROG_CONNECT4`].
#[cgroup_sock_addr(connect4)]
pub fn skein_connect4(ctx: SockAddrContext) -> i32 {
    redirect(&ctx);
    ALLOW
}

/// See [`skein_abi::names::PROG_SENDMSG4`].
#[cgroup_sock_addr(sendmsg4)]
pub fn skein_sendmsg4(ctx: SockAddrContext) -> i32 {
    redirect(&ctx);
    ALLOW
}

/// See [`skein_abi::names::PROG_RECVMSG4`].
#[cgroup_sock_addr(recvmsg4)]
pub fn skein_recvmsg4(ctx: SockAddrContext) -> i32 {
    restore(&ctx);
    ALLOW
}

/// See [`skein_abi::names::PROG_GETPEER4`].
#[cgroup_sock_addr(getpeername4)]
pub fn skein_getpeer4(ctx: SockAddrContext) -> i32 {
    restore(&ctx);
    ALLOW
}

#[inline(always)]
fn redirect(ctx: &SockAddrContext) -> Option<()> {
    let maps = Maps::open(ctx.as_ptr())?;
    let config = *maps.config();
    // SAFETY: the context is this program's own.
    let (dst, dport, proto, cookie, netns) = unsafe {
        let call = ctx.sock_addr;
        (
            (*call).user_ip4,
            (*call).user_port as u16,
            (*call).protocol as u8,
            bpf_get_socket_cookie(ctx.as_ptr()),
            bpf_get_netns_cookie(ctx.as_ptr()),
        )
    };
    if netns != config.host_cookie || config.local_addr == 0 {
        return None;
    }
    if dst & LOOPBACK_MASK != LOOPBACK && !maps.is_local(dst) {
        return None;
    }
    let meant = Tuple {
        dst,
        dport,
        proto,
        ..Tuple::default()
    };
    offered(&maps, &meant)?;
    let key = key(cookie, dport);
    SOCKETS.insert(&key, &meant, u64::from(BPF_ANY)).ok()?;
    // SAFETY: as above; this field may be written.
    unsafe { (*ctx.sock_addr).user_ip4 = config.local_addr };
    Some(())
}

#[inline(always)]
fn key(cookie: u64, port: Port) -> SocketKey {
    SocketKey {
        cookie,
        port,
        pad: [0; 3],
    }
}

/// Shows the caller the address that it meant.
#[inline(always)]
fn restore(ctx: &SockAddrContext) -> Option<()> {
    let maps = Maps::open(ctx.as_ptr())?;
    // SAFETY: the context is this program's own; the address is copied at once.
    unsafe {
        let call = ctx.sock_addr;
        if (*call).user_ip4 != maps.config().local_addr || (*call).user_ip4 == 0 {
            return None;
        }
        let key = key(
            bpf_get_socket_cookie(ctx.as_ptr()),
            (*call).user_port as u16,
        );
        (*call).user_ip4 = SOCKETS.get(&key)?.dst;
    }
    Some(())
}
