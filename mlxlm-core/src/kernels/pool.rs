//! A persistent thread pool for kernels of 20 µs to 50 ms.
//!
//! What is unusual:
//! - A job is open while its tasks last. Workers that wake in time join it, workers that do not are not waited for, so an
//!   oversubscribed machine costs speed and never a stall.
//! - Each thread has a run of neighbouring tasks, and takes from those of others when its own are done. So what a thread reads is
//!   one stream of memory: from task to task of a common queue it would jump, and processors fetch ahead only within a stream.
//! - One job runs at a time. A caller that finds the pool busy (another thread's kernel, or a task that itself calls
//!   [`parallel`]) runs its tasks inline, so nothing can deadlock.
//! - Idle workers spin for some tens of microseconds (the gap between two kernels of a decode step), then yield, then park.
//! - Which thread runs a task never changes a result: kernels split work so that a task's sums are its own.

use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, Thread};

use crate::process;

/// The environment variable that sets the number of kernel threads.
pub const THREADS_VAR: &str = "MLXLM_THREADS";

/// Pause instructions before an idle thread begins to yield: about 40 µs.
const SPINS: u32 = 1_000;
/// Yields before an idle worker parks: about 100 µs on an idle machine.
const YIELDS: u32 = 200;

/// The stack of a worker: what Rust gives a thread that does not ask.
const STACK_BYTES: usize = 2 << 20;

/// The state word holds the job's number above, then whether it still takes workers, then how many are in it.
const OPEN: u64 = 1 << 16;
const MEMBERS: u64 = OPEN - 1;
const JOB: u64 = OPEN << 1;

type Task<'a> = &'a (dyn Fn(usize) + Sync);

/// Why the number of threads was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ThreadsError {
    /// The variable or argument is not a number from 1 to 1024.
    #[error("`{THREADS_VAR}` is `{value}`, expected a number from 1 to 1024")]
    Invalid {
        /// What was given.
        value: String,
    },
    /// Kernels have run already, with another number.
    #[error("the kernel threads are running already: {running}, not {requested}")]
    Running {
        /// Threads of the running pool.
        running: usize,
        /// Threads asked for now.
        requested: usize,
    },
}

struct Slot {
    thread: OnceLock<Thread>,
    parked: AtomicBool,
}

struct Shared {
    /// One caller at a time.
    busy: AtomicBool,
    state: AtomicU64,
    /// The open job's task function; written only while no worker is in a job.
    task: UnsafeCell<Option<*const (dyn Fn(usize) + Sync)>>,
    /// The tasks of each thread; those of the caller come first.
    runs: Vec<Run>,
    panicked: AtomicBool,
    slots: Vec<Slot>,
}

/// A run of tasks, in a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Run {
    next: AtomicUsize,
    end: AtomicUsize,
}

impl Run {
    fn set(&self, tasks: Range<usize>) {
        self.next.store(tasks.start, Ordering::Relaxed);
        self.end.store(tasks.end, Ordering::Relaxed);
    }

    /// The next task, which is the caller's to run from here on, whatever happens to the job.
    fn take(&self) -> Option<usize> {
        // The end as it was before: a job that closes in between must not take back a task that has been counted as taken.
        let end = self.end.load(Ordering::Relaxed);
        if self.next.load(Ordering::Relaxed) >= end {
            return None;
        }
        Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|&task| task < end)
    }

    /// Hands out no further tasks.
    fn close(&self) {
        self.end.store(0, Ordering::Relaxed);
    }
}

// SAFETY: `task` is written by the one caller that holds `busy`, before it opens the job with a release store of `state`,
// and read by workers only after they joined that job through an acquire operation on `state`.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer in `task` is only followed while the job that set it is open or has members, see `Job::drop`.
unsafe impl Send for Shared {}

static POOL: OnceLock<&'static Shared> = OnceLock::new();

/// Sets how many threads kernels use, the calling thread included. Must come before the first kernel.
pub fn set_threads(threads: usize) -> Result<(), ThreadsError> {
    if !(1..=1024).contains(&threads) {
        return Err(ThreadsError::Invalid { value: threads.to_string() });
    }
    let running = POOL.get_or_init(|| start(threads)).slots.len() + 1;
    if running == threads { Ok(()) } else { Err(ThreadsError::Running { running, requested: threads }) }
}

/// How many threads kernels use, the calling thread included: [`set_threads`], else `MLXLM_THREADS`, else the physical cores
/// that this process may run on.
pub fn threads() -> usize {
    shared().slots.len() + 1
}

/// Checks `MLXLM_THREADS`, for a program that wants to refuse a bad value at its start. Kernels ignore a bad one.
pub fn threads_from_env() -> Result<Option<usize>, ThreadsError> {
    let Some(value) = std::env::var_os(THREADS_VAR).filter(|v| !v.is_empty()) else { return Ok(None) };
    parse_threads(&value.to_string_lossy()).map(Some)
}

fn parse_threads(value: &str) -> Result<usize, ThreadsError> {
    match value.trim().parse() {
        Ok(n) if (1..=1024).contains(&n) => Ok(n),
        _ => Err(ThreadsError::Invalid { value: value.to_owned() }),
    }
}

/// Calls `task(0)` … `task(tasks - 1)`, each once, in no particular order, on the pool's threads and this one.
///
/// # Panics
/// When a task panics; no task is running any more then, but some may not have begun.
pub fn parallel(tasks: usize, task: impl Fn(usize) + Sync) {
    let pool = shared();
    if tasks <= 1 || pool.slots.is_empty() || pool.busy.swap(true, Ordering::Acquire) {
        (0..tasks).for_each(task);
        return;
    }
    let job = Job::open(pool, tasks, &task);
    work(pool, 0, &task);
    drop(job);
    let panicked = pool.panicked.swap(false, Ordering::Relaxed);
    pool.busy.store(false, Ordering::Release);
    assert!(!panicked, "a kernel task panicked on a pool thread");
}

/// Splits `0..len` into at most `parts` ranges whose borders are multiples of `step`, and calls `body(start, end)` for each.
pub fn parallel_ranges(len: usize, step: usize, parts: usize, body: impl Fn(usize, usize) + Sync) {
    let steps = len.div_ceil(step);
    let parts = parts.clamp(1, steps.max(1));
    parallel(if len == 0 { 0 } else { parts }, |i| {
        let (from, to) = (i * steps / parts * step, ((i + 1) * steps / parts * step).min(len));
        if from < to {
            body(from, to);
        }
    });
}

/// The open job; closing it waits for the workers that joined, also when the caller's own task panics.
struct Job {
    pool: &'static Shared,
    unwinding: bool,
}

impl Job {
    fn open(pool: &'static Shared, tasks: usize, task: Task<'_>) -> Self {
        // SAFETY: only the lifetime is erased. `Job::drop` closes the job and waits for its members before `task`'s borrow ends.
        let task: Task<'static> = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(task) };
        // SAFETY: this thread holds `busy` and no job is open, so nobody reads the cell.
        unsafe { *pool.task.get() = Some(std::ptr::from_ref(task)) };
        let threads = pool.runs.len();
        for (i, run) in pool.runs.iter().enumerate() {
            run.set(i * tasks / threads..(i + 1) * tasks / threads);
        }
        let number = pool.state.load(Ordering::Relaxed) & !(OPEN | MEMBERS);
        // SeqCst pairs with the worker's `parked` flag: either it sees the open job or this thread sees it parked.
        pool.state.store(number.wrapping_add(JOB) | OPEN, Ordering::SeqCst);
        for slot in pool.slots.iter().take(tasks - 1) {
            if slot.parked.load(Ordering::SeqCst)
                && slot.parked.swap(false, Ordering::SeqCst)
                && let Some(thread) = slot.thread.get()
            {
                thread.unpark();
            }
        }
        Self { pool, unwinding: thread::panicking() }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // All tasks are taken by now, unless the caller's panicked.
        self.pool.runs.iter().for_each(Run::close);
        self.pool.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut turns = 0;
        while self.pool.state.load(Ordering::Acquire) & MEMBERS != 0 {
            wait_a_little(&mut turns);
        }
        if thread::panicking() && !self.unwinding {
            self.pool.panicked.store(false, Ordering::Relaxed);
            self.pool.busy.store(false, Ordering::Release);
        }
    }
}

fn wait_a_little(turns: &mut u32) {
    if *turns < SPINS {
        std::hint::spin_loop();
    } else {
        thread::yield_now();
    }
    *turns = turns.saturating_add(1);
}

/// Runs tasks: those of the thread, then those that others have left.
fn work(pool: &Shared, thread: usize, task: Task<'_>) {
    let (before, from) = pool.runs.split_at(thread);
    for run in from.iter().chain(before) {
        while let Some(i) = run.take() {
            task(i);
        }
    }
}

fn shared() -> &'static Shared {
    POOL.get_or_init(|| start(threads_from_env().ok().flatten().unwrap_or_else(physical_cores)))
}

fn start(threads: usize) -> &'static Shared {
    let shared: &'static Shared = Box::leak(Box::new(Shared {
        busy: AtomicBool::new(false),
        state: AtomicU64::new(0),
        task: UnsafeCell::new(None),
        runs: (0..threads).map(|_| Run::default()).collect(),
        panicked: AtomicBool::new(false),
        slots: (1..threads).map(|_| Slot { thread: OnceLock::new(), parked: AtomicBool::new(false) }).collect(),
    }));
    for i in 0..shared.slots.len() {
        // A system that refuses a thread leaves fewer workers: jobs never wait for one that did not join.
        let thread = process::thread(format!("mlxlm-kernel-{}", i + 1), STACK_BYTES);
        let _ = thread.and_then(|thread| thread.spawn(move || worker(shared, i + 1)));
    }
    shared
}

fn worker(pool: &'static Shared, thread: usize) {
    let slot = &pool.slots[thread - 1];
    let _ = slot.thread.set(thread::current());
    let mut seen = 0;
    loop {
        seen = wait_for_job(pool, slot, seen);
        let mut state = pool.state.load(Ordering::Acquire);
        let joined = loop {
            if state & OPEN == 0 || state & !(OPEN | MEMBERS) != seen {
                break false;
            }
            match pool.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break true,
                Err(now) => state = now,
            }
        };
        if !joined {
            continue;
        }
        // SAFETY: this worker is a member of the open job, whose caller keeps the task alive until no members are left.
        let task = unsafe { (*pool.task.get()).map(|t| &*t) };
        if let Some(task) = task
            && catch_unwind(AssertUnwindSafe(|| work(pool, thread, task))).is_err()
        {
            pool.panicked.store(true, Ordering::Relaxed);
        }
        pool.state.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Returns the number of an open job other than `seen`: spins, then yields, then parks.
fn wait_for_job(pool: &Shared, slot: &Slot, seen: u64) -> u64 {
    let is_new = |state: u64| state & OPEN != 0 && state & !(OPEN | MEMBERS) != seen;
    let mut turns = 0;
    loop {
        let state = pool.state.load(Ordering::Acquire);
        if is_new(state) {
            return state & !(OPEN | MEMBERS);
        }
        if turns < SPINS + YIELDS {
            wait_a_little(&mut turns);
            continue;
        }
        slot.parked.store(true, Ordering::SeqCst);
        if is_new(pool.state.load(Ordering::SeqCst)) {
            slot.parked.store(false, Ordering::SeqCst);
            continue;
        }
        while slot.parked.load(Ordering::SeqCst) {
            thread::park();
        }
        turns = 0;
    }
}

/// Physical cores among the CPUs that this process may use; hardware threads of one core share its vector units.
fn physical_cores() -> usize {
    let logical = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let read = |path| crate::io::read_to_string(path).ok();
    let cores = read("/proc/cpuinfo").zip(read("/proc/self/status")).and_then(|(info, status)| {
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        cores_of(&info, allowed)
    });
    logical.min(cores.unwrap_or(logical))
}

/// Distinct (package, core) pairs of a `/proc/cpuinfo`, of the CPUs in a list as `0-3,8`.
fn cores_of(cpuinfo: &str, allowed: &str) -> Option<usize> {
    let ends = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse().ok()?)
    };
    let allowed: Vec<_> = allowed.split(',').filter_map(ends).collect();
    let mut cores = std::collections::BTreeSet::new();
    let (mut package, mut counts) = ("0", false);
    for line in cpuinfo.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match key.trim() {
            "processor" => counts = value.parse().is_ok_and(|cpu| allowed.iter().any(|cpus| cpus.contains(&cpu))),
            "physical id" => package = value,
            "core id" if counts => {
                cores.insert((package, value));
            }
            _ => {}
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn check_each_once(tasks: usize) {
        let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        parallel(tasks, |i| {
            counts[i].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{tasks} tasks");
    }

    #[test]
    fn every_task_runs_once() {
        for tasks in [0, 1, 2, 3, 64, 1000] {
            check_each_once(tasks);
        }
    }

    #[test]
    fn many_small_jobs_in_a_row() {
        // As many as a second has: what goes wrong when a thread is stopped at a certain place goes wrong seldom.
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            check_each_once(threads());
        }
    }

    #[test]
    fn a_parked_pool_wakes() {
        check_each_once(8);
        thread::sleep(Duration::from_millis(30));
        check_each_once(8);
    }

    #[test]
    fn nested_and_concurrent_calls_end() {
        thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    let sum = AtomicUsize::new(0);
                    for _ in 0..50 {
                        parallel(4, |_| {
                            parallel(4, |j| {
                                sum.fetch_add(j, Ordering::Relaxed);
                            });
                        });
                    }
                    assert_eq!(sum.into_inner(), 50 * 4 * 6);
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        for culprit in 0..8 {
            let job = || parallel(8, |i| assert_ne!(i, culprit));
            assert!(catch_unwind(job).is_err(), "task {culprit}");
            check_each_once(16);
        }
    }

    #[test]
    fn ranges_cover_and_align() {
        for (len, step, parts) in [(0, 4, 3), (1, 4, 3), (100, 16, 7), (64, 64, 9), (1000, 1, 3)] {
            let hits: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
            parallel_ranges(len, step, parts, |from, to| {
                assert_eq!(from % step, 0);
                hits[from..to].iter().for_each(|h| {
                    h.fetch_add(1, Ordering::Relaxed);
                });
            });
            assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn thread_counts_are_checked() {
        let invalid = |value: &str| Err(ThreadsError::Invalid { value: value.to_owned() });
        assert_eq!(parse_threads("3"), Ok(3));
        for bad in ["0", "-1", "1025", "two"] {
            assert_eq!(parse_threads(bad), invalid(bad));
        }
        assert_eq!(set_threads(0), Err(ThreadsError::Invalid { value: "0".into() }));
        let running = threads();
        assert_eq!(set_threads(running), Ok(()));
        assert_eq!(set_threads(running + 1), Err(ThreadsError::Running { running, requested: running + 1 }));
    }

    #[test]
    fn cores_are_counted_by_package_where_the_process_may_run() {
        let cpu = |i: usize, package: usize| format!("processor\t: {i}\nphysical id\t: {package}\ncore id\t\t: 0\n\n");
        let cpus = [cpu(0, 0), cpu(1, 0), cpu(2, 1)].concat();
        assert_eq!(cores_of(&cpus, "\t0-2"), Some(2));
        assert_eq!(cores_of(&cpus, "0,1"), Some(1));
        assert_eq!(cores_of(&cpus, "1-1,2"), Some(2));
        assert_eq!(cores_of(&cpus, "7"), None);
        assert_eq!(cores_of("processor : 0\n", "0"), None);
    }
}
