//! What a thread does, as the operating system sees it.

use std::fmt;
use std::fs;
use std::time::Duration;

use crate::tree::ThreadInfo;

/// What a blocked thread was doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It used a processor: the work belongs to where computing does no harm.
    Computes,
    /// It slept in the operating system: a blocking call, or a lock.
    Sleeps {
        /// The system call, by name if it is a common one, else by number; none where that may not be read.
        call: Option<String>,
    },
    /// It was ready to run, and the machine gave it no processor: the machine is too busy, or stopped it. Not the task's fault.
    Starved,
    /// The operating system does not say.
    Unknown,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Computes => f.write_str("computes"),
            Verdict::Sleeps { call: Some(call) } => write!(f, "sleeps in the system call {call}"),
            Verdict::Sleeps { call: None } => f.write_str("sleeps in a system call"),
            Verdict::Starved => f.write_str("is ready to run, but gets no processor"),
            Verdict::Unknown => f.write_str("the operating system does not say what it does"),
        }
    }
}

impl fmt::Display for ThreadInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {}", self.name)?;
        match self.id {
            Some(id) => write!(f, " ({id})"),
            None => Ok(()),
        }
    }
}

/// What a thread has used since it began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    running: Duration,
    /// Ready to run, and waiting for a processor.
    waiting: Duration,
}

impl Usage {
    pub(super) fn read(thread: &ThreadInfo) -> Option<Usage> {
        Usage::parse(&of_thread(thread, "schedstat")?)
    }

    /// Two numbers of nanoseconds, and one that does not matter.
    fn parse(schedstat: &str) -> Option<Usage> {
        let mut numbers = schedstat.split_ascii_whitespace();
        let mut next = || numbers.next()?.parse().ok().map(Duration::from_nanos);
        Some(Usage {
            running: next()?,
            waiting: next()?,
        })
    }
}

impl Verdict {
    /// Of what a thread used over some time.
    pub(super) fn of(
        before: Option<Usage>,
        after: Option<Usage>,
        over: Duration,
        thread: &ThreadInfo,
    ) -> Verdict {
        let (Some(before), Some(after)) = (before, after) else {
            return Verdict::Unknown;
        };
        let running = after.running.saturating_sub(before.running);
        let waiting = after.waiting.saturating_sub(before.waiting);
        // What it spent neither running nor waiting to run, it slept.
        let slept = over.saturating_sub(running + waiting);
        match running.max(waiting).max(slept) {
            most if most.is_zero() => Verdict::Unknown,
            most if most == running => Verdict::Computes,
            most if most == waiting => Verdict::Starved,
            _ => Verdict::Sleeps {
                call: of_thread(thread, "syscall").as_deref().and_then(call),
            },
        }
    }
}

fn of_thread(thread: &ThreadInfo, file: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/self/task/{}/{file}", thread.id?)).ok()
}

/// The call's name or number, from a line that begins with the number; none if it says that the thread runs.
fn call(line: &str) -> Option<String> {
    let number: u32 = line.split_ascii_whitespace().next()?.parse().ok()?;
    let name = CALLS.iter().find(|(known, _)| *known == number);
    Some(name.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned()))
}

/// System calls in which threads sleep.
#[cfg(target_arch = "x86_64")]
const CALLS: &[(u32, &str)] = &[
    (0, "read"),
    (1, "write"),
    (7, "poll"),
    (17, "pread64"),
    (18, "pwrite64"),
    (23, "select"),
    (35, "nanosleep"),
    (42, "connect"),
    (43, "accept"),
    (44, "sendto"),
    (45, "recvfrom"),
    (46, "sendmsg"),
    (47, "recvmsg"),
    (61, "wait4"),
    (72, "fcntl"),
    (73, "flock"),
    (74, "fsync"),
    (75, "fdatasync"),
    (202, "futex"),
    (230, "clock_nanosleep"),
    (232, "epoll_wait"),
    (247, "waitid"),
    (257, "openat"),
    (271, "ppoll"),
    (281, "epoll_pwait"),
    (288, "accept4"),
];

/// System calls in which threads sleep.
#[cfg(not(target_arch = "x86_64"))]
const CALLS: &[(u32, &str)] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: ThreadInfo = ThreadInfo {
        name: String::new(),
        id: None,
    };

    #[test]
    fn most_of_the_time_decides() {
        let sleeps = Verdict::Sleeps { call: None };
        let cases = [
            ("0 0 1", "90000000 5000000 2", Verdict::Computes),
            ("0 0 1", "5000000 90000000 2", Verdict::Starved),
            ("7000000 0 1", "8000000 2000000 2", sleeps),
            ("0 0", "an older kernel", Verdict::Unknown),
        ];
        for (before, after, expected) in cases {
            let over = Duration::from_millis(100);
            let (before, after) = (Usage::parse(before), Usage::parse(after));
            assert_eq!(Verdict::of(before, after, over, &NOBODY), expected);
        }
    }

    #[test]
    fn calls_have_names_where_they_are_known() {
        assert_eq!(call("running\n"), None);
        assert_eq!(call("9999 0x0 0x1\n").as_deref(), Some("9999"));
        #[cfg(target_arch = "x86_64")]
        assert_eq!(call("202 0x7f 0x80").as_deref(), Some("futex"));
    }
}
