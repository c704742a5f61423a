//! How many requests one client may send in a second.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::clients::Client;

/// Clients that are remembered at most. Those beyond it are let in: so many at once are not held back by a limit for each.
const CLIENTS_MAX: usize = 64 * 1024;
/// How much of its rate a client may use at once.
const BURST: Duration = Duration::from_secs(1);

/// The rate of every client, each a bucket of tokens that fills with time.
#[derive(Debug)]
pub(super) struct Rates {
    /// In which time one more request is allowed.
    every: Duration,
    /// When the bucket of each client is full again. A client that is not here has a full one.
    full: Mutex<HashMap<Client, Instant>>,
}

impl Rates {
    pub(super) fn new(per_second: NonZeroUsize) -> Rates {
        let per_second = u32::try_from(per_second.get()).unwrap_or(u32::MAX);
        Rates {
            every: Duration::from_secs(1) / per_second,
            full: Mutex::default(),
        }
    }

    /// Takes a token of a client, or says when there will be one.
    pub(super) fn take(&self, client: Client, now: Instant) -> Result<(), Duration> {
        let mut clients = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        if !clients.contains_key(&client) && clients.len() >= CLIENTS_MAX {
            clients.retain(|_, full| *full > now);
            if clients.len() >= CLIENTS_MAX {
                return Ok(());
            }
        }
        let full = clients.entry(client).or_insert(now);
        let after = (*full).max(now) + self.every;
        let over = after.duration_since(now).saturating_sub(BURST);
        if over > Duration::ZERO {
            return Err(over);
        }
        *full = after;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(per_second: usize) -> Rates {
        Rates::new(NonZeroUsize::new(per_second).unwrap())
    }

    fn client(number: u64) -> Client {
        Client::Key(number)
    }

    #[test]
    fn a_client_has_its_rate_and_a_burst_of_one_second() {
        let (rates, start) = (rates(10), Instant::now());
        let allowed = |millis: u64| {
            let now = start + Duration::from_millis(millis);
            (0..100)
                .take_while(|_| rates.take(client(1), now).is_ok())
                .count()
        };
        // At each time in milliseconds, how many are let through.
        let table = [
            (0, 10),
            (50, 0),
            (100, 1),
            (199, 0),
            (200, 1),
            (700, 5),
            (9000, 10),
        ];
        for (millis, expected) in table {
            assert_eq!(allowed(millis), expected, "at {millis} ms");
        }
        let wait = rates.take(client(1), start + Duration::from_millis(9025));
        assert_eq!(wait, Err(Duration::from_millis(75)));
        assert_eq!(rates.take(client(2), start), Ok(()));
    }

    #[test]
    fn one_a_second_is_one() {
        let (rates, start) = (rates(1), Instant::now());
        assert_eq!(rates.take(client(1), start), Ok(()));
        assert!(rates.take(client(1), start).is_err());
        assert_eq!(rates.take(client(1), start + BURST), Ok(()));
    }

    #[test]
    fn the_table_is_bounded_and_those_who_are_in_it_stay_limited() {
        let (rates, start) = (rates(1), Instant::now());
        for number in 0..CLIENTS_MAX as u64 + 100 {
            assert_eq!(rates.take(client(number), start), Ok(()));
        }
        assert_eq!(rates.full.lock().unwrap().len(), CLIENTS_MAX);
        assert!(rates.take(client(0), start).is_err());
        let later = start + 2 * BURST;
        assert_eq!(rates.take(client(u64::MAX), later), Ok(()));
        assert_eq!(rates.full.lock().unwrap().len(), 1);
    }
}
