//! The UDP side: every datagram is answered, whatever it says.

use tokio::net::UdpSocket;

use crate::answer::Identity;

/// Answers datagrams for ever; ends only when receiving fails.
pub async fn serve(socket: UdpSocket, identity: &Identity) -> std::io::Error {
    // The content does not matter: what is longer is cut off by the kernel.
    let mut buffer = [0; 64];
    loop {
        let client = match socket.recv_from(&mut buffer).await {
            Ok((_, client)) => client,
            // An ICMP error about an earlier answer: that client is gone, others are not.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return error,
        };
        let answer = identity.answer("udp", client).to_line();
        if let Err(error) = socket.send_to(&answer, client).await {
            eprintln!("answer {client}: {error}");
        }
    }
}
