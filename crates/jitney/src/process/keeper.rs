//! The thread that looks after one worker: it starts the process, greets it, listens to it, and buries it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};

use super::channel::{Channel, Greeting};
use super::child::{Child, resident};
use super::desk::{Bell, Desk, Message};
use super::frame::{DESCRIPTOR, Frame, Header, Inbox, Kind, REGION};
use super::guard::Guard;
use super::lines::{Lines, Meter};
use super::link::{Link, Received};
use super::outbox::Letter;
use super::region::Foreign;
use super::supervisor::{Advice, StartFailure, Supervisor, cost};
use super::{Output, Part, Program, Settings, Stream};
use crate::lock::lock;

/// What all keepers of a pool share.
pub(super) struct Shared {
    pub(super) program: Program,
    pub(super) settings: Settings,
    /// A random word that begins the tokens of all children.
    pub(super) token: String,
    pub(super) desk: Desk,
    /// What the first worker said when it was ready.
    pub(super) greeting: OnceLock<Bytes>,
    pub(super) guard: Option<Guard>,
    pub(super) output: Arc<dyn Fn(Output<'_>) + Send + Sync>,
}

/// One worker's keeper.
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) index: usize,
}

/// A process, and what has been heard from it.
struct Sitter {
    child: Child,
    pid: u32,
    channel: Arc<Channel>,
    inbox: Inbox,
    /// Descriptors that came before the frames they belong to.
    descriptors: VecDeque<OwnedFd>,
    /// What is left to be said to it first.
    greeting: Option<Greeting>,
    /// It can still be heard.
    listening: bool,
    /// It died before it had read all that it was sent.
    unread: bool,
    /// It was told to leave, or killed.
    dismissed: bool,
    stdout: Printed,
    stderr: Printed,
    meter: Meter,
    weighed: Instant,
}

/// One of its streams.
struct Printed {
    stream: Stream,
    lines: Lines,
    open: bool,
}

impl Keeper {
    /// Follows the supervisor's advice until it says to stop.
    pub(super) fn run(self) {
        let mut sitter = None;
        loop {
            match (
                self.supervise(|supervisor, now| supervisor.advice(self.index, now)),
                &mut sitter,
            ) {
                (Advice::Stop, _) => return,
                (Advice::Spawn, _) => sitter = self.spawn(),
                (Advice::Close, Some(sitter)) => sitter.dismiss(),
                (Advice::Kill(why), Some(sitter)) => self.kill(sitter, why),
                (Advice::Look, Some(sitter)) => self.look(sitter),
                (Advice::Wait(until), Some(sitting)) => {
                    if self.attend(sitting, until) {
                        self.bury(sitting);
                        sitter = None;
                    }
                }
                (Advice::Wait(until), None) => wait_for(self.bell(), until),
                (Advice::Close | Advice::Kill(_) | Advice::Look, None) => {}
            }
        }
    }

    /// Finds out whether a process that should have said something is stuck.
    fn look(&self, sitter: &Sitter) {
        self.mark(sitter);
        self.supervise(|supervisor, now| supervisor.looked(self.index, now));
    }

    /// Reports what the process has written down about its streams.
    fn mark(&self, sitter: &Sitter) {
        if self.shared.settings.streams > 0 {
            let marks = sitter.channel.marks();
            self.supervise(|supervisor, _| supervisor.marked(self.index, marks));
        }
    }

    fn supervise<T>(&self, act: impl FnOnce(&mut Supervisor, Instant) -> T) -> T {
        self.shared.desk.with(Some(self.index), |inner| {
            act(&mut inner.supervisor, Instant::now())
        })
    }

    fn bell(&self) -> &Bell {
        self.shared.desk.bell(self.index)
    }
}

/// Beginning and end of a process.
impl Keeper {
    fn spawn(&self) -> Option<Sitter> {
        let generation = self.supervise(|supervisor, _| supervisor.generation(self.index));
        match self.try_spawn(generation) {
            Ok(sitter) => {
                if let Some(guard) = &self.shared.guard {
                    guard.add(sitter.child.pid);
                }
                self.shared
                    .desk
                    .set_occupant(self.index, Some((sitter.pid, Arc::clone(&sitter.channel))));
                self.event(Some(sitter.pid), "started", true);
                Some(sitter)
            }
            Err(error) => {
                self.event(None, &format!("could not be started: {error}"), false);
                self.supervise(|supervisor, now| {
                    supervisor.exited(
                        self.index,
                        StartFailure::Spawn(error.to_string()),
                        false,
                        now,
                    );
                });
                self.shared.desk.announce();
                None
            }
        }
    }

    fn kill(&self, sitter: &mut Sitter, why: Option<&str>) {
        if let Some(why) = why {
            self.event(Some(sitter.pid), &format!("is killed: {why}"), false);
        }
        sitter.kill();
    }

    fn try_spawn(&self, generation: u64) -> io::Result<Sitter> {
        let Shared {
            program,
            settings,
            token,
            ..
        } = &*self.shared;
        let (link, theirs) = Link::pair()?;
        let channel = Channel::new(generation, link, settings)?;
        let child = Child::spawn(
            program,
            theirs,
            format!("{token}.{}.{generation}", self.index),
        )?;
        let now = Instant::now();
        Ok(Sitter {
            pid: child.pid.as_raw_nonzero().get().unsigned_abs(),
            child,
            channel: Arc::new(channel),
            inbox: Inbox::new(),
            descriptors: VecDeque::new(),
            greeting: Some(Greeting::new(&program.preamble, &program.hello)),
            listening: true,
            unread: false,
            dismissed: false,
            stdout: Printed::new(Stream::Out),
            stderr: Printed::new(Stream::Err),
            meter: Meter::new(now),
            weighed: now,
        })
    }

    /// The process has ended: hears what it said last, tells what became of it, and kills what it left behind.
    fn bury(&self, sitter: &mut Sitter) {
        self.hear_the_last(sitter);
        let how = sitter.child.reap();
        self.report_death(sitter, &how);
        sitter.child.sweep();
        self.print_the_last(sitter);
        self.event(Some(sitter.pid), &how, sitter.dismissed);
        if let Some(guard) = &self.shared.guard {
            guard.remove(sitter.child.pid);
        }
    }

    /// Nobody may be sending meanwhile: whoever failed to send has to say so before the blame is given.
    fn report_death(&self, sitter: &Sitter, how: &str) {
        sitter.channel.link.shut();
        let turn = lock(&sitter.channel.sending);
        self.mark(sitter);
        let failure = StartFailure::Died(how.to_owned());
        self.supervise(|supervisor, now| {
            supervisor.exited(self.index, failure, sitter.unread, now);
        });
        drop(turn);
        self.shared.desk.set_occupant(self.index, None);
        self.shared.desk.announce();
    }

    /// A reply that was sent before the death counts; what was not answered is then known not to have been.
    fn hear_the_last(&self, sitter: &mut Sitter) {
        for _ in 0..LAST_MAX {
            if !sitter.listening || !self.listen(sitter) {
                return;
            }
        }
    }

    fn print_the_last(&self, sitter: &mut Sitter) {
        for _ in 0..LAST_MAX {
            if !self.print(sitter, Stream::Out) & !self.print(sitter, Stream::Err) {
                break;
            }
        }
        let Sitter {
            stdout,
            stderr,
            meter,
            pid,
            ..
        } = sitter;
        for printed in [stdout, stderr] {
            let stream = printed.stream;
            printed
                .lines
                .end(|text, cut| self.line(*pid, stream, meter, text, cut));
        }
        self.report_dropped(sitter, true);
    }
}

/// While it lives.
impl Keeper {
    /// Waits until then for something to happen, and deals with it; whether the process has ended.
    fn attend(&self, sitter: &mut Sitter, until: Option<Instant>) -> bool {
        let until = until.into_iter().chain(sitter.meter.due()).min();
        let Some([bell, channel, stdout, stderr, ended]) = sitter.poll(self.bell(), until) else {
            return false;
        };
        if !bell.is_empty() {
            self.bell().silence();
        }
        if !channel.is_empty() {
            // Where the two share a core, a process with its next run before it would wait while this one's answers are dealt with. It goes
            // first; where they do not, this costs nothing.
            thread::yield_now();
            self.greet(sitter);
            self.go_on_sending(sitter);
            self.listen(sitter);
        }
        if !stdout.is_empty() {
            self.print(sitter, Stream::Out);
        }
        if !stderr.is_empty() {
            self.print(sitter, Stream::Err);
        }
        self.report_dropped(sitter, false);
        !ended.is_empty()
    }

    /// Goes on with the greeting. That it cannot be sent shows when listening.
    fn greet(&self, sitter: &mut Sitter) {
        if let Some(greeting) = &mut sitter.greeting
            && !matches!(greeting.go_on(&sitter.channel), Ok(false))
        {
            sitter.greeting = None;
        }
    }

    /// Sends on what the channel would not take before.
    fn go_on_sending(&self, sitter: &Sitter) {
        let Channel { outbox, link, .. } = &*sitter.channel;
        if outbox.flush(link).is_err() {
            link.shut();
        }
    }

    /// Hears what the process has to say; whether there was anything.
    fn listen(&self, sitter: &mut Sitter) -> bool {
        let received = sitter
            .channel
            .link
            .receive(&mut sitter.inbox, &mut sitter.descriptors);
        match received {
            Ok(Received::Bytes(_)) => {
                if let Err(what) = self.heed_all(sitter) {
                    self.garbage(sitter, &what);
                }
                self.weigh(sitter);
                true
            }
            Ok(Received::Nothing) => false,
            Ok(Received::End) => self.deaf(sitter, "it closed its channel"),
            Err(error) => {
                // The system says so when a socket is closed before everything was read.
                sitter.unread = error.kind() == io::ErrorKind::ConnectionReset;
                self.deaf(sitter, &error.to_string())
            }
        }
    }

    /// Nothing more is to be heard. The channel of a process that dies ends a moment before the process does.
    fn deaf(&self, sitter: &mut Sitter, why: &str) -> bool {
        sitter.listening = false;
        if !sitter.dismissed && !sitter.child.ends_within(1000) {
            self.garbage(sitter, why);
        }
        false
    }

    fn garbage(&self, sitter: &mut Sitter, what: &str) {
        sitter.listening = false;
        self.event(
            Some(sitter.pid),
            &format!("did not keep to the protocol: {what}"),
            false,
        );
        self.mark(sitter);
        self.supervise(|supervisor, now| supervisor.garbage(self.index, what, now));
        self.shared.desk.announce();
    }

    fn heed_all(&self, sitter: &mut Sitter) -> Result<(), String> {
        while let Some(frame) = sitter.inbox.next()? {
            self.heed(sitter, frame)?;
        }
        Ok(())
    }

    fn heed(&self, sitter: &mut Sitter, frame: Frame) -> Result<(), String> {
        let region = match frame.header.has(DESCRIPTOR) {
            true => Some(sitter.region()?),
            false => None,
        };
        match (frame.header.kind, region) {
            (Kind::Ready, _) => self.ready(sitter, &frame.body),
            (Kind::Failed, _) => self.failed(sitter, frame.body),
            (Kind::Chunk, region) => self.chunk(frame, region),
            (Kind::End, _) => self.end(frame),
            (_, Some(region)) => {
                let slot = frame.header.slot.into();
                sitter.channel.replace(slot, region)?;
                self.done(sitter, frame)
            }
            (_, None) => self.done(sitter, frame),
        }
    }

    fn ready(&self, sitter: &Sitter, greeting: &Bytes) -> Result<(), String> {
        let first = self.shared.greeting.get_or_init(|| greeting.clone());
        if first != greeting {
            return self.failed(
                sitter,
                Bytes::from_static(b"its greeting is not the one that the first worker gave"),
            );
        }
        self.event(Some(sitter.pid), "is ready", true);
        let result = self.supervise(|supervisor, now| supervisor.ready(self.index, now));
        self.shared.desk.announce();
        result
    }

    fn failed(&self, sitter: &Sitter, why: Bytes) -> Result<(), String> {
        self.event(
            Some(sitter.pid),
            &format!("cannot serve: {}", String::from_utf8_lossy(&why)),
            false,
        );
        let result = self.supervise(|supervisor, now| supervisor.refused(self.index, why, now));
        self.shared.desk.announce();
        result
    }

    fn done(&self, sitter: &Sitter, frame: Frame) -> Result<(), String> {
        let Header { id, slot, a, .. } = frame.header;
        let (slot, kept) = (usize::from(slot), frame.header.has(REGION));
        if kept {
            self.check_region(sitter, slot, a)?;
        }
        self.shared.desk.with(Some(self.index), |inner| {
            let took = inner
                .supervisor
                .done(self.index, id, slot, kept, Instant::now())?;
            if let (Some(took), Some(mailbox)) = (took, inner.mailboxes.remove(&id)) {
                mailbox.put(Message::Reply { frame, took });
            }
            Ok(())
        })
    }

    /// One reply of a stream. It is looked at only when it may come at all.
    fn chunk(&self, frame: Frame, region: Option<Foreign>) -> Result<(), String> {
        let Header { id, slot, a, b, .. } = frame.header;
        if a > self.shared.settings.payload_max {
            let max = self.shared.settings.payload_max;
            return Err(format!("a payload of {a} bytes, where {max} is the most"));
        }
        let tray = self.shared.desk.with(Some(self.index), |inner| {
            let now = Instant::now();
            let supervisor = &mut inner.supervisor;
            let read = supervisor.replied(self.index, id, slot.into(), cost(a), now)?;
            Ok::<_, String>(inner.trays.get(&id).filter(|_| read).cloned())
        })?;
        let Some(tray) = tray else {
            return Ok(());
        };
        let (meta, payload) = match region {
            None => frame.split(),
            Some(region) if region.holds(a) => {
                let payload = region.read(a);
                let payload =
                    payload.map_err(|error| format!("a region that cannot be read: {error}"))?;
                (frame.body, payload)
            }
            Some(_) => {
                return Err(format!(
                    "a payload of {a} bytes in a region that is smaller"
                ));
            }
        };
        tray.put(Part {
            meta,
            payload,
            b,
            last: false,
        });
        Ok(())
    }

    fn end(&self, frame: Frame) -> Result<(), String> {
        let Header { id, slot, b, .. } = frame.header;
        let tray = self.shared.desk.with(Some(self.index), |inner| {
            let now = Instant::now();
            let wanted = inner.supervisor.ended(self.index, id, slot.into(), now)?;
            Ok::<_, String>(inner.trays.remove(&id).filter(|_| wanted))
        })?;
        if let Some(tray) = tray {
            let (meta, payload) = frame.split();
            tray.put(Part {
                meta,
                payload,
                b,
                last: true,
            });
        }
        Ok(())
    }

    fn check_region(&self, sitter: &Sitter, slot: usize, bytes: u64) -> Result<(), String> {
        let max = self.shared.settings.payload_max;
        if bytes > max {
            return Err(format!(
                "a payload of {bytes} bytes, where {max} is the most"
            ));
        }
        match sitter.channel.region(slot) {
            Some(region) if region.holds(bytes) => Ok(()),
            Some(_) => Err(format!(
                "a payload of {bytes} bytes in a region that is smaller"
            )),
            None => Err("a payload in a region that was never sent".to_owned()),
        }
    }

    /// Looks at the memory of the process, after a run and at most once a second.
    fn weigh(&self, sitter: &mut Sitter) {
        let now = Instant::now();
        if self.shared.settings.memory_mark.is_none() || now < sitter.weighed + WEIGH_EVERY {
            return;
        }
        sitter.weighed = now;
        if let Some(rss) = resident(sitter.pid) {
            self.supervise(|supervisor, _| supervisor.weighed(self.index, rss));
        }
    }
}

/// What is logged.
impl Keeper {
    /// Passes on some of what was printed; whether there was anything.
    fn print(&self, sitter: &mut Sitter, stream: Stream) -> bool {
        let Sitter {
            child,
            stdout,
            stderr,
            meter,
            pid,
            ..
        } = sitter;
        let (descriptor, printed) = match stream {
            Stream::Out => (&child.stdout, stdout),
            Stream::Err => (&child.stderr, stderr),
        };
        let mut buffer = [0; PRINT_AT_ONCE];
        match read(descriptor, &mut buffer) {
            Ok(0) => printed.open = false,
            Ok(bytes) => {
                printed.lines.feed(&buffer[..bytes], |text, cut| {
                    self.line(*pid, stream, meter, text, cut);
                });
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => printed.open = false,
        }
        false
    }

    fn line(&self, pid: u32, stream: Stream, meter: &mut Meter, text: &str, cut: bool) {
        if meter.admits(Instant::now()) {
            self.emit(Output::Line {
                worker: self.index,
                pid,
                stream,
                text,
                cut,
            });
        }
    }

    fn report_dropped(&self, sitter: &mut Sitter, last: bool) {
        if sitter.meter.due().is_none() {
            return;
        }
        if let Some(lines) = sitter.meter.report(Instant::now(), last) {
            self.emit(Output::Dropped {
                worker: self.index,
                pid: sitter.pid,
                lines,
            });
        }
    }

    fn event(&self, pid: Option<u32>, text: &str, expected: bool) {
        self.emit(Output::Event {
            worker: Some(self.index),
            pid,
            text,
            expected,
        });
    }

    /// A logger that panics must not take the worker's keeper with it.
    fn emit(&self, output: Output<'_>) {
        let _ = catch_unwind(AssertUnwindSafe(|| (self.shared.output)(output)));
    }
}

impl Sitter {
    /// What is ready of the bell, the channel, both streams and the end of the process. `None`: nothing, or the wait was disturbed.
    fn poll(&self, bell: &Bell, until: Option<Instant>) -> Option<[PollFlags; 5]> {
        let channel = match (self.listening, &self.greeting) {
            (false, _) => PollFlags::empty(),
            (true, None) if self.channel.outbox.is_empty() => PollFlags::IN,
            (true, _) => PollFlags::IN | PollFlags::OUT,
        };
        // A descriptor that is at its end would be ready for ever: the bell stands in for it.
        let channel = if self.listening {
            PollFd::new(&self.channel.link, channel)
        } else {
            PollFd::new(bell, channel)
        };
        let stdout = if self.stdout.open {
            PollFd::new(&self.child.stdout, PollFlags::IN)
        } else {
            PollFd::new(bell, PollFlags::empty())
        };
        let stderr = if self.stderr.open {
            PollFd::new(&self.child.stderr, PollFlags::IN)
        } else {
            PollFd::new(bell, PollFlags::empty())
        };
        let ended = PollFd::new(&self.child.ended, PollFlags::IN);
        let mut fds = [
            PollFd::new(bell, PollFlags::IN),
            channel,
            stdout,
            stderr,
            ended,
        ];
        match poll(&mut fds, timeout(until).as_ref()) {
            Ok(ready) if ready > 0 => Some(fds.map(|fd| fd.revents())),
            _ => None,
        }
    }

    /// Tells the process to leave. If it cannot be told because it does not read, it will be killed.
    fn dismiss(&mut self) {
        self.dismissed = true;
        let close = Letter::new(Header::new(Kind::Close).encode().to_vec(), None);
        let Channel { outbox, link, .. } = &*self.channel;
        let _ = outbox.post(link, close, || true);
    }

    /// The region that came with a frame.
    fn region(&mut self) -> Result<Foreign, String> {
        let descriptor = self.descriptors.pop_front();
        Foreign::accept(descriptor.ok_or("a frame without the descriptor that it announces")?)
    }

    fn kill(&mut self) {
        self.dismissed = true;
        self.child.kill();
        self.channel.link.shut();
    }
}

impl Printed {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            lines: Lines::default(),
            open: true,
        }
    }
}

/// Waits until the bell rings or that time comes.
fn wait_for(bell: &Bell, until: Option<Instant>) {
    let _ = poll(
        &mut [PollFd::new(bell, PollFlags::IN)],
        timeout(until).as_ref(),
    );
    bell.silence();
}

fn timeout(until: Option<Instant>) -> Option<Timespec> {
    let left = until?.saturating_duration_since(Instant::now());
    let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
    Some(Timespec {
        tv_sec: seconds,
        tv_nsec: left.subsec_nanos().into(),
    })
}

const PRINT_AT_ONCE: usize = 64 << 10;
const WEIGH_EVERY: Duration = Duration::from_secs(1);
/// How often a dead process is listened to once more. What it can have left behind is bounded by the buffers of its channel and pipes;
/// but a descendant of it may still be writing.
const LAST_MAX: usize = 64;
