//! Hands a transaction to the kernel and reads its verdict.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
        netlink::{NETFILTER, SocketAddrNetlink},
        recv, sendto, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

const NLMSG_ERROR: u16 = 2;
/// Bytes of the header before the error code.
const HEADER: usize = 16;
/// How long the kernel may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Sends `batch` and waits for the answer to its message number `last`; the inner error is the kernel's refusal.
pub(super) fn transact(batch: &[u8], last: u32) -> io::Result<Result<(), Errno>> {
    let socket: OwnedFd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(DEADLINE))?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    let kernel = SocketAddrNetlink::new(0, 0);
    match sendto(&socket, batch, SendFlags::empty(), &kernel) {
        Ok(sent) if sent == batch.len() => {}
        Ok(_) => return Err(io::Error::other("the transaction was cut short")),
        Err(e) => return Err(e.into()),
    }
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        for answer in answers(&buffer[..length]) {
            match answer {
                (_, error) if error != 0 => return Ok(Err(Errno::from_raw_os_error(-error))),
                (sequence, _) if sequence == last => return Ok(Ok(())),
                _ => {}
            }
        }
    }
}

/// Number and error code of every acknowledgement in a datagram; anything malformed ends it.
fn answers(mut bytes: &[u8]) -> Vec<(u32, i32)> {
    let mut out = Vec::new();
    while let Some(header) = bytes.first_chunk::<HEADER>() {
        let [a, b, c, d, e, f, _, _, g, h, i, j, ..] = *header;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let (kind, sequence) = (u16::from_ne_bytes([e, f]), u32::from_ne_bytes([g, h, i, j]));
        let Some(body) = bytes.get(HEADER..length) else { break };
        if let (NLMSG_ERROR, Some(code)) = (kind, body.first_chunk::<4>()) {
            out.push((sequence, i32::from_ne_bytes(*code)));
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(sequence: u32, error: i32) -> Vec<u8> {
        let mut m = 36_u32.to_ne_bytes().to_vec();
        m.extend(NLMSG_ERROR.to_ne_bytes());
        m.extend([0; 2]);
        m.extend(sequence.to_ne_bytes());
        m.extend([0; 4]);
        m.extend(error.to_ne_bytes());
        m.extend([0; 16]);
        m
    }

    #[test]
    fn every_acknowledgement_is_read() {
        let bytes = [answer(3, -1), answer(9, 0)].concat();
        assert_eq!(answers(&bytes), [(3, -1), (9, 0)]);
        assert_eq!(answers(&bytes[..40]), [(3, -1)]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = answers(&bytes);
        }
    }
}
