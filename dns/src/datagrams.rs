//! Datagrams, many by one call: a call of the kernel takes longer than an answer to a question.

use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrLike as _, SockaddrStorage, recvmmsg, sendmmsg,
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    net::SocketAddr,
    os::fd::AsRawFd as _,
};
use tokio::{io::Interest, net::UdpSocket};

/// Datagrams of one call. More would make who is first wait for who is last, and calls are a small part of the cost
/// by then.
const BATCH: usize = 32;
/// The longest question over UDP, in bytes: one has a name, and options of EDNS.
const QUESTION_MAX: usize = 4_096;

/// What was received by one call.
pub(crate) struct Inbox {
    rooms: Box<[[u8; QUESTION_MAX]; BATCH]>,
    /// Lengths, and senders.
    taken: Vec<(usize, Option<SocketAddr>)>,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        // On the heap at once: it is too large for a stack.
        let rooms: Box<[_]> = vec![[0; QUESTION_MAX]; BATCH].into();
        Self {
            rooms: rooms.try_into().unwrap_or_else(|_| unreachable!()),
            taken: Vec::with_capacity(BATCH),
        }
    }

    /// Waits for datagrams, in the place of those before.
    pub(crate) async fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let take = || self.take(socket);
        socket.async_io(Interest::READABLE, take).await
    }

    fn take(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.taken.clear();
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
        let mut rooms = self.rooms.each_mut().map(|room| [IoSliceMut::new(room)]);
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let received = recvmmsg(fd, &mut headers, &mut rooms, flags, None)?;
        let received = received.map(|one| (one.bytes, one.address.and_then(address_of)));
        self.taken.extend(received);
        Ok(())
    }

    /// What was received, and from whom.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], SocketAddr)> {
        let all = self.rooms.iter().zip(&self.taken);
        all.filter_map(|(room, (length, from))| Some((room.get(..*length)?, (*from)?)))
    }
}

/// What is to be sent by one call: for what one [`Inbox`] has there is room.
pub(crate) struct Outbox {
    /// The first of them count.
    datagrams: Vec<Vec<u8>>,
    to: Vec<Option<SockaddrStorage>>,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self {
            datagrams: vec![Vec::new(); BATCH],
            to: Vec::with_capacity(BATCH),
        }
    }

    /// Where to write the next datagram. `None`: there is no room.
    pub(crate) fn next(&mut self) -> Option<&mut Vec<u8>> {
        self.datagrams.get_mut(self.to.len())
    }

    /// What was written there is for this address.
    pub(crate) fn push(&mut self, to: SocketAddr) {
        self.to.push(Some(to.into()));
    }

    /// Sends all of it; what cannot be sent is lost, as datagrams may be.
    pub(crate) async fn send(&mut self, socket: &UdpSocket) {
        let mut sent = 0;
        while sent < self.to.len() {
            let give = || self.give(socket, sent);
            match socket.async_io(Interest::WRITABLE, give).await {
                Ok(count) => sent += count,
                Err(error) => {
                    // It is of the first; those behind it were not tried.
                    let to = self.to[sent].and_then(address_of);
                    tracing::debug!(?to, %error, "cannot send a DNS reply");
                    sent += 1;
                }
            }
        }
        self.to.clear();
    }

    fn give(&self, socket: &UdpSocket, from: usize) -> io::Result<usize> {
        let to = &self.to[from..];
        let mut headers = MultiHeaders::preallocate(to.len(), None);
        let datagrams: [_; BATCH] = std::array::from_fn(|nth| {
            let datagram = self.datagrams.get(from + nth);
            [IoSlice::new(datagram.map_or(&[], Vec::as_slice))]
        });
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let sent = sendmmsg(fd, &mut headers, &datagrams, to, [], flags)?;
        Ok(sent.count())
    }
}

fn address_of(address: SockaddrStorage) -> Option<SocketAddr> {
    match address.family()? {
        nix::sys::socket::AddressFamily::Inet => {
            Some(SocketAddr::V4((*address.as_sockaddr_in()?).into()))
        }
        nix::sys::socket::AddressFamily::Inet6 => {
            Some(SocketAddr::V6((*address.as_sockaddr_in6()?).into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, time::Duration};
    use tokio::time::timeout;

    async fn pair(address: &str) -> [UdpSocket; 2] {
        let bind = || async { UdpSocket::bind((address, 0)).await.unwrap() };
        [bind().await, bind().await]
    }

    #[tokio::test]
    async fn more_than_one_call_takes_come_through_whole() {
        for address in ["127.0.0.1", "::1"] {
            let [server, client] = pair(address).await;
            let (to, own) = (server.local_addr().unwrap(), client.local_addr().unwrap());
            let count = BATCH * 2 + 3;
            for nth in 0..count {
                client.send_to(&vec![7; nth], to).await.unwrap();
            }
            let (mut inbox, mut outbox) = (Inbox::new(), Outbox::new());
            let mut back = BTreeSet::new();
            let mut room = [0; 256];
            while back.len() < count {
                let received = timeout(Duration::from_secs(10), inbox.receive(&server));
                received.await.expect("datagrams in time").unwrap();
                for (datagram, from) in inbox.iter() {
                    assert_eq!(from, own);
                    outbox.next().unwrap().clone_from(&datagram.to_vec());
                    outbox.push(from);
                }
                outbox.send(&server).await;
                assert!(outbox.to.is_empty());
                for _ in inbox.iter() {
                    let received = timeout(Duration::from_secs(10), client.recv(&mut room));
                    back.insert(received.await.expect("a datagram in time").unwrap());
                }
            }
            assert!(back.into_iter().eq(0..count));
        }
    }

    #[tokio::test]
    async fn what_cannot_be_sent_leaves_the_others_be() {
        let [server, client] = pair("127.0.0.1").await;
        let own = client.local_addr().unwrap();
        // Nobody is reached at port 0.
        let nobody = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut outbox = Outbox::new();
        for (nth, to) in [nobody, own, nobody, own, nobody].into_iter().enumerate() {
            outbox.next().unwrap().push(nth as u8);
            outbox.push(to);
        }
        outbox.send(&server).await;
        let mut room = [0; 8];
        for expected in [1, 3] {
            let received = timeout(Duration::from_secs(10), client.recv(&mut room));
            assert_eq!(received.await.expect("a datagram in time").unwrap(), 1);
            assert_eq!(room[0], expected);
        }
    }

    #[test]
    fn there_is_room_for_a_batch_and_no_more() {
        let mut outbox = Outbox::new();
        for _ in 0..BATCH {
            assert!(outbox.next().is_some());
            outbox.push(SocketAddr::from(([127, 0, 0, 1], 1)));
        }
        assert!(outbox.next().is_none());
    }
}
