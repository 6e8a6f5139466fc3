//! Services at connect time: a virtual address becomes a backend before there is a packet, so that policy sees the real
//! peer and no packet needs translating. Runs for the sockets of the node's own cgroup subtree.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::programs::SockAddrContext;
use common::net::{Addr, Be16};
use common::service::{BackendKey, ServiceKey, SocketKey};

use crate::maps::{BACKENDS, HAS_SET_RETVAL, SERVICE_SOCKETS, SERVICES};

#[derive(Clone, Copy)]
pub(crate) enum Family {
    V4,
    V6,
}

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;

/// connect(2), any protocol.
#[inline(always)]
pub(crate) fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    // SAFETY: reading a field of the context that the kernel lets these programs read.
    let protocol = unsafe { (*ctx.sock_addr).protocol } as u8;
    send(ctx, family, protocol)
}

/// connect(2), or sendmsg(2) to an address on an unconnected socket.
#[inline(always)]
pub(crate) fn send(ctx: &SockAddrContext, family: Family, protocol: u8) -> i32 {
    let (addr, port) = peer(ctx, family);
    let service = ServiceKey { addr, port, protocol, zero: 0 };
    // SAFETY: rows are replaced, never written in place, and freed only after an RCU grace period.
    let Some(row) = (unsafe { SERVICES.get(&service) }) else { return ALLOW };
    if row.count == 0 {
        return refuse();
    }
    // SAFETY: plain helper call.
    let index = unsafe { bpf_get_prandom_u32() } % row.count;
    // SAFETY: as above.
    let Some(backend) = (unsafe { BACKENDS.get(BackendKey { set: row.backends, index }) }) else {
        return refuse();
    };
    let socket = SocketKey { cookie: cookie(ctx), addr: backend.addr, port: backend.port, protocol, zero: 0 };
    // Without this row the socket works all the same; only getpeername(2) and recvmsg(2) name the backend.
    let _full = SERVICE_SOCKETS.insert(socket, service, 0);
    set_peer(ctx, family, &backend.addr, backend.port);
    ALLOW
}

/// getpeername(2) and recvmsg(2): back to the address that was asked for.
#[inline(always)]
pub(crate) fn restore(ctx: &SockAddrContext, family: Family) -> i32 {
    let (addr, port) = peer(ctx, family);
    // SAFETY: reading a field of the context that the kernel lets these programs read.
    let protocol = unsafe { (*ctx.sock_addr).protocol } as u8;
    let socket = SocketKey { cookie: cookie(ctx), addr, port, protocol, zero: 0 };
    // SAFETY: a row of an LRU may be reused under us; the worst outcome is another Service's address in a log.
    if let Some(service) = unsafe { SERVICE_SOCKETS.get(&socket) } {
        let service = *service;
        set_peer(ctx, family, &service.addr, service.port);
    }
    ALLOW
}

/// No backends: refused, not left to time out.
#[inline(always)]
fn refuse() -> i32 {
    // SAFETY: the loader sets this before the program is verified; volatile, or the compiler would take the 0 for good.
    if unsafe { core::ptr::read_volatile(&raw const HAS_SET_RETVAL) } != 0 {
        // SAFETY: plain helper call. Without it the caller sees EPERM.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    REFUSE
}

#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> [u32; 2] {
    // SAFETY: plain helper call on the program's own context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    [(cookie >> 32) as u32, cookie as u32]
}

#[inline(always)]
fn peer(ctx: &SockAddrContext, family: Family) -> (Addr, Be16) {
    let sock = ctx.sock_addr;
    // SAFETY: fields of the context that the kernel lets these programs read; each is read by its own width.
    unsafe {
        // The low half of `user_port` is the port in network order.
        let port = Be16::from_wire(((*sock).user_port as u16).to_ne_bytes());
        let addr = match family {
            Family::V4 => Addr::v4((*sock).user_ip4),
            Family::V6 => {
                Addr([(*sock).user_ip6[0], (*sock).user_ip6[1], (*sock).user_ip6[2], (*sock).user_ip6[3]])
            }
        };
        (addr, port)
    }
}

#[inline(always)]
fn set_peer(ctx: &SockAddrContext, family: Family, addr: &Addr, port: Be16) {
    let sock = ctx.sock_addr;
    // SAFETY: fields of the context that the kernel lets these programs write; each is written by its own width.
    unsafe {
        match family {
            Family::V4 => (*sock).user_ip4 = addr.0[3],
            Family::V6 => {
                (*sock).user_ip6[0] = addr.0[0];
                (*sock).user_ip6[1] = addr.0[1];
                (*sock).user_ip6[2] = addr.0[2];
                (*sock).user_ip6[3] = addr.0[3];
            }
        }
        (*sock).user_port = u32::from(u16::from_ne_bytes(port.wire()));
    }
}
