//! Inputs that are not run again for a while, because they were found to crash the model or to make it hang.
//!
//! Each costs the model a process, so whoever sends one again and again would keep it from its work.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jitney_engine::Tensor;
use jitney_engine::tensor::Data;

use crate::call::Call;

/// How long an input stays.
const TERM: Duration = Duration::from_secs(60);
/// Most inputs at a time; beyond it the oldest is let go.
const MOST: usize = 1024;

/// What an input did to the model when it was run alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The process that ran it died, twice.
    Crashes,
    /// It ran past the limit.
    Hangs,
}

/// The quarantine of one lane, as its threads share it.
#[derive(Debug, Default)]
pub(super) struct Ward {
    /// By chance, so that nobody can make an input that looks like another.
    keys: RandomState,
    quarantine: Mutex<Quarantine>,
    /// Whether anything is in it: as long as nothing is, requests cost no look.
    occupied: AtomicBool,
}

impl Ward {
    /// Puts the input of a call into quarantine.
    pub(super) fn put(&self, call: &Call, verdict: Verdict) {
        self.put_print(self.fingerprint(call), verdict);
    }

    /// The same by its fingerprint.
    pub(super) fn put_print(&self, print: Fingerprint, verdict: Verdict) {
        let mut quarantine = self.lock();
        quarantine.put(print, verdict, Instant::now());
        self.occupied.store(true, Ordering::Relaxed);
    }

    /// What the input of a call did, while it is in quarantine, and for how long it still is.
    pub(super) fn look_up(&self, call: &Call) -> Option<(Verdict, Duration)> {
        if !self.occupied.load(Ordering::Relaxed) {
            return None;
        }
        self.look_up_print(self.fingerprint(call))
    }

    /// The same by its fingerprint.
    pub(super) fn look_up_print(&self, print: Fingerprint) -> Option<(Verdict, Duration)> {
        if !self.occupied.load(Ordering::Relaxed) {
            return None;
        }
        let mut quarantine = self.lock();
        let found = quarantine.look_up(print, Instant::now());
        self.occupied
            .store(!quarantine.is_empty(), Ordering::Relaxed);
        found
    }

    /// By what the input of a call is known here: its tensors, and its parameters, which may be what the model cannot bear.
    pub(super) fn fingerprint(&self, call: &Call) -> Fingerprint {
        let parts: Vec<_> = call.inputs.iter().map(part).collect();
        Fingerprint(self.keys.hash_one((parts, &call.meta.parameters)))
    }

    fn lock(&self) -> MutexGuard<'_, Quarantine> {
        // Nothing in there can panic half-way but a failing allocation, which ends the process.
        self.quarantine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands for inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint(u64);

/// The inputs in quarantine.
#[derive(Debug, Default)]
struct Quarantine {
    verdicts: HashMap<Fingerprint, Verdict>,
    /// In the order in which they are let go.
    until: VecDeque<(Instant, Fingerprint)>,
}

impl Quarantine {
    /// Puts inputs into quarantine, from now on.
    fn put(&mut self, fingerprint: Fingerprint, verdict: Verdict, now: Instant) {
        self.release(now);
        if self.verdicts.insert(fingerprint, verdict).is_some() {
            return;
        }
        self.until.push_back((now + TERM, fingerprint));
        if self.until.len() > MOST {
            self.release_first();
        }
    }

    /// What these inputs did, while they are in quarantine, and for how long they still are.
    fn look_up(&mut self, fingerprint: Fingerprint, now: Instant) -> Option<(Verdict, Duration)> {
        self.release(now);
        let verdict = *self.verdicts.get(&fingerprint)?;
        let (until, _) = self.until.iter().find(|(_, held)| *held == fingerprint)?;
        Some((verdict, *until - now))
    }

    fn is_empty(&self) -> bool {
        self.until.is_empty()
    }

    fn release(&mut self, now: Instant) {
        while self.until.front().is_some_and(|(until, _)| *until <= now) {
            self.release_first();
        }
    }

    fn release_first(&mut self) {
        if let Some((_, fingerprint)) = self.until.pop_front() {
            self.verdicts.remove(&fingerprint);
        }
    }
}

/// What makes a tensor the same as another. Slices bring their length, so that no two tensors run into each other.
fn part(tensor: &Tensor) -> (&'static str, &[usize], Vec<&[u8]>) {
    let bytes = match tensor.data() {
        Data::Fixed(bytes) => vec![&**bytes],
        Data::Elements(elements) => elements.iter().map(|element| &**element).collect(),
    };
    (tensor.datatype().name(), tensor.shape(), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(number: usize) -> Fingerprint {
        Fingerprint(number as u64)
    }

    #[test]
    fn an_input_stays_for_its_term() {
        let now = Instant::now();
        let mut quarantine = Quarantine::default();
        assert_eq!(quarantine.look_up(item(0), now), None);
        quarantine.put(item(0), Verdict::Crashes, now);
        let later = now + Duration::from_secs(10);
        quarantine.put(item(1), Verdict::Hangs, later);
        // Said again, it does not stay longer.
        quarantine.put(item(0), Verdict::Crashes, later);
        assert_eq!(
            quarantine.look_up(item(0), later),
            Some((Verdict::Crashes, TERM - Duration::from_secs(10)))
        );
        assert_eq!(
            quarantine.look_up(item(1), later),
            Some((Verdict::Hangs, TERM))
        );
        assert_eq!(quarantine.look_up(item(2), later), None);
        assert_eq!(quarantine.look_up(item(0), now + TERM), None);
        assert!(quarantine.look_up(item(1), now + TERM).is_some());
        assert_eq!(quarantine.look_up(item(1), later + TERM), None);
        assert!(quarantine.is_empty() && quarantine.verdicts.is_empty());
    }

    #[test]
    fn the_oldest_makes_room() {
        let now = Instant::now();
        let mut quarantine = Quarantine::default();
        for n in 0..=MOST {
            quarantine.put(item(n), Verdict::Crashes, now);
        }
        assert_eq!(quarantine.verdicts.len(), MOST);
        assert_eq!(quarantine.look_up(item(0), now), None);
        assert!(quarantine.look_up(item(1), now).is_some());
    }

    #[test]
    fn what_differs_in_anything_is_another_input() {
        let floats = |shape: &[usize], values: &[f32]| {
            vec![Tensor::from_f32(shape, values.to_vec()).unwrap()]
        };
        let words = |words: &[&'static str]| {
            let elements = words.iter().map(|word| (*word).into()).collect();
            vec![Tensor::from_bytes([words.len()], elements).unwrap()]
        };
        let integers = vec![Tensor::from_vec([1, 2], vec![0_u32, 0]).unwrap()];
        let all = [
            floats(&[1, 2], &[0.0, 0.0]),
            floats(&[2, 1], &[0.0, 0.0]),
            floats(&[1, 2], &[0.0, 1.0]),
            integers,
            words(&["ab", ""]),
            words(&["a", "b"]),
            [floats(&[1], &[0.0]), floats(&[1], &[0.0])].concat(),
        ];
        let call = |inputs: &[Tensor], said: Option<&str>| {
            let mut call = Call::new(inputs.to_vec(), Instant::now());
            call.meta.parameters = said.map(str::to_owned);
            call
        };
        let said = [None, Some("{}"), Some(r#"{"max_tokens":1}"#)];
        let calls: Vec<Call> = all
            .iter()
            .flat_map(|inputs| said.map(|said| call(inputs, said)))
            .collect();
        for (index, guilty) in calls.iter().enumerate() {
            let ward = Ward::default();
            ward.put(guilty, Verdict::Hangs);
            for (other, call) in calls.iter().enumerate() {
                let found = ward.look_up(call).is_some();
                assert_eq!(found, index == other, "{index} and {other}");
            }
        }
    }
}
