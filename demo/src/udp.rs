//! The UDP side: every datagram is answered, whatever it says, by one at least as long.

use tokio::net::UdpSocket;

use crate::answer::Identity;

/// The longest datagram there is.
const DATAGRAM_MAX: usize = 65_507;

/// Answers datagrams for ever; ends only when receiving fails.
pub async fn serve(socket: UdpSocket, identity: &Identity) -> std::io::Error {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let (asked, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error about an earlier answer: that client is gone, others are not.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return error,
        };
        let mut answer = identity.answer("udp", client).to_line();
        // Blanks behind JSON say nothing: a path that carries only small ones shows.
        answer.resize(answer.len().max(asked), b' ');
        if let Err(error) = socket.send_to(&answer, client).await {
            eprintln!("answer {client}: {error}");
        }
    }
}
