//! Who is one client, and how many connections each has.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Most connections of a client on another machine where nothing is said.
const CONNECTIONS_MAX: usize = 1000;

/// One of those who share what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// Whoever has the key of this number.
    Key(u64),
    /// Whoever is at this address.
    Address(IpAddr),
}

impl Client {
    /// The client at an address. In IPv6 everybody has a network of addresses, which count as one.
    pub(crate) fn at(address: IpAddr) -> Client {
        Client::Address(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                Ipv6Addr::from_bits(network).into()
            }
            address => address,
        })
    }
}

/// How many connections each client has. There is an entry for each client that has one, and so never more than connections.
#[derive(Debug)]
pub(crate) struct Crowd {
    max: Option<usize>,
    connections: Mutex<HashMap<Client, usize>>,
}

/// A client's place for one connection.
#[derive(Debug)]
pub(crate) struct Place {
    crowd: Arc<Crowd>,
    client: Client,
}

impl Crowd {
    /// `max` is for every client; where nothing is said, those on this machine have no limit of their own, since one of them may be a proxy
    /// that many others come through.
    pub(crate) fn new(max: Option<usize>) -> Arc<Crowd> {
        Arc::new(Crowd {
            max,
            connections: Mutex::default(),
        })
    }

    /// A place for one more connection from this address; `None` where it has as many as it may.
    pub(crate) fn enter(self: &Arc<Crowd>, address: IpAddr) -> Option<Place> {
        let local = address.to_canonical().is_loopback();
        let unsaid = if local { usize::MAX } else { CONNECTIONS_MAX };
        let client = Client::at(address);
        let mut connections = self.lock();
        let count = connections.entry(client).or_default();
        if *count >= self.max.unwrap_or(unsaid) {
            return None;
        }
        *count += 1;
        Some(Place {
            crowd: Arc::clone(self),
            client,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Client, usize>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connections = self.crowd.lock();
        if let Some(count) = connections.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_is_one_client() {
        let same = [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("2001:db8::1", "2001:db8::2:3", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ];
        for (first, second, expected) in same {
            let [first, second] = [first, second].map(|text| Client::at(address(text)));
            assert_eq!(first == second, expected, "{first:?} {second:?}");
        }
    }

    #[test]
    fn places_are_given_back() {
        let crowd = Crowd::new(Some(2));
        let (here, there) = (address("127.0.0.1"), address("10.0.0.1"));
        let first = crowd.enter(here).unwrap();
        let second = crowd.enter(here).unwrap();
        assert!(crowd.enter(here).is_none());
        let third = crowd.enter(there).unwrap();
        drop(first);
        let fourth = crowd.enter(here).unwrap();
        assert!(crowd.enter(here).is_none());
        drop((second, third, fourth));
        assert!(crowd.lock().is_empty());
    }

    #[test]
    fn this_machine_has_no_limit_that_was_not_said() {
        let crowd = Crowd::new(None);
        for (text, expected) in [
            ("127.0.0.1", CONNECTIONS_MAX + 1),
            ("::1", CONNECTIONS_MAX + 1),
            ("::ffff:127.0.0.1", CONNECTIONS_MAX + 1),
            ("10.0.0.1", CONNECTIONS_MAX),
        ] {
            let all = (0..=CONNECTIONS_MAX).map(|_| crowd.enter(address(text)));
            let places: Vec<_> = all.flatten().collect();
            assert_eq!(places.len(), expected, "{text}");
        }
    }
}
