//! The thread that owns the models, and the one that watches over it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mlxlm_core::device::{self, WiredLimit};

use super::scheduler::Scheduler;
use super::{AdapterUse, Card, EngineOptions, Gate, Handle, Job, Loader, Message, Models, State, Status};
use crate::options::Log;

/// An engine that breaks down again within this time is not started anew.
const PATIENCE: Duration = Duration::from_mins(10);

/// Messages on their way, which outlive a thread that breaks down.
type Jobs = Arc<Mutex<Receiver<Message>>>;

/// Why a thread ended.
#[derive(Debug)]
enum End {
    /// Nobody sends jobs any more.
    Done,
    /// There was nothing to do for long.
    Asleep,
    /// The models could not be loaded.
    NotLoaded(String),
    /// It broke down.
    Broken(String),
}

/// Starts the engine. The models are loaded meanwhile; `timeout` is how long a job may take.
pub(crate) fn spawn(
    loader: Loader,
    options: EngineOptions,
    timeout: Option<Duration>,
    log: Log,
) -> std::io::Result<Handle> {
    let (jobs, received) = channel();
    let status = Arc::new(Status::new(log));
    let gate = Gate::new(options.decode_concurrency.saturating_add(options.queue));
    let handle = Handle { jobs, gate, status: Arc::clone(&status), timeout };
    let received: Jobs = Arc::new(Mutex::new(received));
    thread::Builder::new().name("engine keeper".into()).spawn(move || keep(&loader, &options, &received, &status))?;
    Ok(handle)
}

/// Runs an engine, and a fresh one if it breaks down.
fn keep(loader: &Loader, options: &EngineOptions, jobs: &Jobs, status: &Arc<Status>) {
    let mut broken: Option<Instant> = None;
    let mut first: Option<Job> = None;
    loop {
        let message = match run_apart(loader, options, jobs, status, first.take()) {
            End::Done => return status.set_state(State::Ended),
            End::Asleep => {
                status.set_busy(false);
                drop(device::clear_cache());
                status.set_state(State::Asleep);
                match wait(jobs) {
                    Some(job) => first = job,
                    None => return status.set_state(State::Ended),
                }
                status.set_state(State::Loading);
                continue;
            }
            End::NotLoaded(message) => return status.set_state(State::Failed(message)),
            End::Broken(message) => message,
        };
        status.set_busy(false);
        if broken.is_some_and(|last| last.elapsed() < PATIENCE) {
            return status.set_state(State::Failed(format!("the engine crashed again: {message}")));
        }
        broken = Some(Instant::now());
        status.numbers.restarts.add(1);
        status.set_state(State::Restarting);
    }
}

/// Waits until a model is wanted again, with the job that wants it, if that came first; nothing if the server ends.
#[expect(clippy::option_option, reason = "whether to go on, and with what")]
fn wait(jobs: &Jobs) -> Option<Option<Job>> {
    let jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        match jobs.recv() {
            Ok(Message::Job(job)) => return Some(Some(job)),
            Ok(Message::Wake) => return Some(None),
            // Adapters are those of a model in memory: who asks hears that there is none.
            Ok(Message::Adapters(_) | Message::Unload) => {}
            Ok(Message::Leave) | Err(_) => return None,
        }
    }
}

/// Runs an engine on a thread of its own, whose streams nobody has used before.
fn run_apart(loader: &Loader, options: &EngineOptions, jobs: &Jobs, status: &Arc<Status>, first: Option<Job>) -> End {
    let (loader, options) = (Arc::clone(loader), options.clone());
    let (jobs, status) = (Arc::clone(jobs), Arc::clone(status));
    let run = move || {
        catch_unwind(AssertUnwindSafe(|| run(&loader, &options, &jobs, &status, first)))
            .unwrap_or_else(|panic| End::Broken(words(&*panic)))
    };
    match thread::Builder::new().name("engine".into()).spawn(run) {
        Ok(thread) => thread.join().unwrap_or_else(|panic| End::Broken(words(&*panic))),
        Err(error) => End::NotLoaded(format!("no thread can be started: {error}")),
    }
}

/// What a panic says.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".to_owned())
}

/// Says that the engine broke down before anybody who waits hears of it, so that who asks again next is not sent to it.
struct Alarm<'a>(&'a Status);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.set_state(State::Restarting);
        }
    }
}

fn run(loader: &Loader, options: &EngineOptions, jobs: &Jobs, status: &Status, first: Option<Job>) -> End {
    let models = match loader() {
        Ok(models) => models,
        Err(message) => return End::NotLoaded(message),
    };
    let card = match Card::new(&models, options) {
        Ok(card) => card,
        Err(error) => return End::NotLoaded(error.to_string()),
    };
    let Models { main, draft } = models;
    let draft = draft.as_ref().map(|draft| &*draft.model);
    let mut scheduler = match Scheduler::new(main, draft, options, status) {
        Ok(scheduler) => scheduler,
        Err(message) => return End::NotLoaded(message),
    };
    // Dropped before the scheduler, and with it the tickets of whoever waits.
    let _alarm = Alarm(status);
    let _wired = WiredLimit::raise();
    status.set_card(card);
    status.set_adapters(Vec::new());
    status.set_adapter_use(AdapterUse::default());
    status.set_state(State::Ready);
    let jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
    first.into_iter().for_each(|job| scheduler.take(job));
    loop {
        if scheduler.is_idle() {
            status.set_busy(false);
            let message = match (scheduler.has_to_write(), options.idle_unload) {
                (true, _) => jobs.try_recv(),
                (false, None) => jobs.recv().map_err(|_| TryRecvError::Disconnected),
                (false, Some(patience)) => match jobs.recv_timeout(patience) {
                    Err(RecvTimeoutError::Timeout) => return End::Asleep,
                    Err(RecvTimeoutError::Disconnected) => Err(TryRecvError::Disconnected),
                    Ok(message) => Ok(message),
                },
            };
            match message {
                Ok(Message::Wake) => continue,
                Ok(Message::Unload) => {
                    scheduler.flush();
                    return End::Asleep;
                }
                Ok(Message::Job(job)) => scheduler.take(job),
                Ok(Message::Adapters(order)) => scheduler.order(order),
                Ok(Message::Leave) | Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    // There is nothing else to do.
                    scheduler.write(false);
                    continue;
                }
            }
        }
        let mut leaves = false;
        for message in jobs.try_iter() {
            match message {
                Message::Job(job) => scheduler.take(job),
                Message::Adapters(order) => scheduler.order(order),
                Message::Leave => leaves = true,
                // It is awake, and has something to do.
                Message::Wake | Message::Unload => {}
            }
        }
        if leaves {
            break;
        }
        status.set_busy(true);
        if let Err(message) = scheduler.turn() {
            status.set_state(State::Restarting);
            return End::Broken(message);
        }
    }
    scheduler.flush();
    End::Done
}
