use super::*;
use crate::proxy::connection::tests::limits;
use crate::proxy::serve::Role;

fn listener(name: &str, address: SocketAddr) -> Listener {
    Listener {
        name: name.into(),
        address,
        proxy_protocol: None,
        source: Arc::default(),
        limits: limits(),
        role: Role::RedirectToHttps { port: 443 },
    }
}

fn socket() -> (SocketAddr, OwnedFd) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    (socket.local_addr().unwrap(), socket.into())
}

fn reachable(open: &Open) {
    let _client = std::net::TcpStream::connect(open.address).unwrap();
    let accepted = open.shares.iter().flatten().find_map(|socket| match socket.accept() {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
            None
        }
    });
    assert!(accepted.is_some(), "nobody can accept");
}

#[test]
fn a_passed_socket_is_the_listeners_of_its_name_and_every_worker_can_accept() {
    let (address, passed) = socket();
    let mut sockets = Sockets::passed(vec![("public".to_owned(), passed)]).unwrap();
    let open = sockets.open(vec![listener("public", address)], 3).unwrap();
    sockets.finish().unwrap();
    assert_eq!(open[0].shares.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(open[0].kept.len(), 1, "one socket, whatever the number of its descriptors");
    reachable(&open[0]);
}

#[test]
fn every_passed_socket_of_a_listener_is_accepted_from() {
    let (address, mut bound) = accept::bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
    let passed = bound.drain(..).map(|socket| ("public".to_owned(), socket.into())).collect();
    let mut sockets = Sockets::passed(passed).unwrap();
    let open = sockets.open(vec![listener("public", address)], 2).unwrap();
    assert_eq!(open[0].shares.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    for _ in 0..16 {
        reachable(&open[0]);
    }
}

#[test]
fn a_socket_whose_name_is_no_listeners_goes_by_its_address() {
    let (address, passed) = socket();
    let mut sockets = Sockets::passed(vec![("wicketgate.socket".to_owned(), passed)]).unwrap();
    let open = sockets.open(vec![listener("public", address)], 1).unwrap();
    sockets.finish().unwrap();
    reachable(&open[0]);
}

#[test]
fn a_socket_that_contradicts_the_configuration_is_refused() {
    let (found, passed) = socket();
    let mut sockets = Sockets::passed(vec![("public".to_owned(), passed)]).unwrap();
    let other = "127.0.0.1:1".parse().unwrap();
    let error = sockets.open(vec![listener("public", other)], 1).unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1`") && error.contains(&found.to_string()), "{error}");

    let (_, passed) = socket();
    let mut sockets = Sockets::passed(vec![("else".to_owned(), passed)]).unwrap();
    sockets.open(vec![listener("public", "127.0.0.1:0".parse().unwrap())], 1).unwrap();
    let error = sockets.finish().unwrap_err().to_string();
    assert!(error.contains("FileDescriptorName"), "{error}");

    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let error = Sockets::passed(vec![("public".to_owned(), datagrams.into())]).unwrap_err();
    assert!(error.to_string().contains("no listening TCP socket"), "{error}");
}

#[test]
fn what_is_handed_over_goes_by_address_and_a_removed_listeners_is_dropped() {
    let (kept, kept_socket) = socket();
    let (_, gone_socket) = socket();
    let handed = vec![("old".to_owned(), kept_socket), ("gone".to_owned(), gone_socket)];
    let mut sockets = Sockets::handed_over(handed).unwrap();
    let listeners = vec![listener("new", kept), listener("gone", "127.0.0.1:0".parse().unwrap())];
    let open = sockets.open(listeners, 1).unwrap();
    sockets.finish().unwrap();
    assert_eq!(open[0].address, kept);
    reachable(&open[0]);
    reachable(&open[1]);
}

#[test]
fn the_admin_listener_takes_its_socket_from_the_unit_too() {
    let (address, passed) = socket();
    let mut sockets = Sockets::passed(vec![(ADMIN.to_owned(), passed)]).unwrap();
    let open = sockets.open(vec![listener("public", "127.0.0.1:0".parse().unwrap())], 1).unwrap();
    let admin = sockets.admin(address, &[Arc::clone(&open[0].listener.name)]).unwrap();
    sockets.finish().unwrap();
    assert_eq!(admin.local_addr().unwrap(), address);
}
