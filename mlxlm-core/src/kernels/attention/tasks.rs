//! Jobs cut into tasks, and the chunks of keys of one task, or of several, joined again.

use std::cell::Cell;
use std::ops::Range;

use super::job::{CHUNK, Job, Partial, Way};
use super::rows::Rows;
use crate::kernels::exp::Online;
use crate::kernels::gemm::Shared;
use crate::kernels::pool;
use crate::kernels::scratch::{Scratch, with_scratch};

/// Tasks for each thread below which the chunks of one are given to several threads.
const BALANCED: usize = 4;

thread_local! {
    static SUMS: Scratch = const { Cell::new(Vec::new()) };
}

/// Computes jobs of queries of one shape, all tasks of which are one list: threads that are done with short sequences help with
/// long ones.
pub(super) fn run(jobs: &[Job<'_>]) {
    let each = jobs.first().map_or(0, Job::tasks);
    let tasks = Tasks { jobs, each };
    let long = tasks.long();
    if long.is_empty() {
        return pool::parallel(tasks.len(), |task| whole(&tasks.rows(task)));
    }
    tasks.run_in_pieces(&long);
}

/// The tasks of some jobs, each of which has as many.
struct Tasks<'a> {
    jobs: &'a [Job<'a>],
    each: usize,
}

impl Tasks<'_> {
    fn len(&self) -> usize {
        self.jobs.len() * self.each
    }

    fn job(&self, task: usize) -> (&Job<'_>, usize) {
        (&self.jobs[task / self.each], task % self.each)
    }

    fn rows(&self, task: usize) -> Rows<'_> {
        let (job, task) = self.job(task);
        job.rows(task)
    }

    fn reach(&self, task: usize) -> usize {
        let (job, task) = self.job(task);
        job.reach(task)
    }

    /// Tasks of several chunks that are so much of the whole that they are cut, lest threads wait for the one that has them.
    fn long(&self) -> Vec<usize> {
        let threads = pool::threads();
        if threads == 1 || self.jobs.iter().all(|job| job.key_count() <= CHUNK) {
            return Vec::new();
        }
        let most = match self.len() < BALANCED * threads {
            true => CHUNK,
            // They begin with the longest, and none is much longer than others.
            false if self.jobs.len() == 1 => return Vec::new(),
            false => CHUNK.max((0..self.len()).map(|task| self.reach(task)).sum::<usize>() / (BALANCED * threads)),
        };
        (0..self.len()).filter(|&task| self.reach(task) > most).collect()
    }

    /// Computes the chunks of long tasks one by one, and all other tasks beside them. Chunks are joined in the order in which one
    /// task would take them.
    fn run_in_pieces(&self, long: &[usize]) {
        let rows: Vec<Rows<'_>> = long.iter().map(|&task| self.rows(task)).collect();
        let (mut pieces, mut firsts) = (Vec::<(usize, Range<usize>)>::new(), Vec::with_capacity(rows.len() + 1));
        for (i, rows) in rows.iter().enumerate() {
            firsts.push(pieces.len());
            pieces.extend(rows.job.chunks(rows).map(|keys| (i, keys)));
        }
        firsts.push(pieces.len());
        let others: Vec<usize> = (0..self.len()).filter(|task| long.binary_search(task).is_err()).collect();
        let (width, most) = (self.jobs[0].width(), rows.iter().map(Rows::len).max().unwrap_or(0));
        let mut states = vec![Online::EMPTY; pieces.len() * most];
        with_scratch(&SUMS, pieces.len() * most * width, |sums| {
            let (of_states, of_sums) = (Shared(states.as_mut_ptr()), Shared(sums.as_mut_ptr()));
            // SAFETY: a piece's part is inside the buffers; one task has it at a time.
            let part = |piece: usize, len: usize| unsafe {
                let states = std::slice::from_raw_parts_mut(of_states.get().add(piece * most), len);
                let sums = of_sums.get().add(piece * most * width);
                Partial { states, sums: std::slice::from_raw_parts_mut(sums, len * width) }
            };
            pool::parallel(pieces.len() + others.len(), |i| {
                let Some((of, keys)) = pieces.get(i) else { return whole(&self.rows(others[i - pieces.len()])) };
                let mut part = part(i, rows[*of].len());
                part.clear();
                Way::new(&rows[*of]).add(keys.clone(), &mut part);
            });
            pool::parallel(rows.len(), |i| {
                let len = rows[i].len();
                with_scratch(&SUMS, len * width, |sums| {
                    let mut states = vec![Online::EMPTY; len];
                    let mut total = Partial { states: &mut states, sums };
                    start(&rows[i], &mut total);
                    for piece in firsts[i]..firsts[i + 1] {
                        total.join(&part(piece, len));
                    }
                    rows[i].write(total.states, total.sums, width);
                });
            });
        });
    }
}

/// Computes a task as one, chunk by chunk.
fn whole(rows: &Rows<'_>) {
    let (width, len) = (rows.job.width(), rows.len());
    with_scratch(&SUMS, 2 * len * width, |sums| {
        let (total, part) = sums.split_at_mut(len * width);
        let mut states = vec![Online::EMPTY; 2 * len];
        let (of_total, of_part) = states.split_at_mut(len);
        let mut total = Partial { states: of_total, sums: total };
        let mut part = Partial { states: of_part, sums: part };
        start(rows, &mut total);
        let mut way = Way::new(rows);
        for keys in rows.job.chunks(rows) {
            part.clear();
            way.add(keys, &mut part);
            total.join(&part);
        }
        rows.write(total.states, total.sums, width);
    });
}

/// What rows made of no keys: nothing but their sinks.
fn start(rows: &Rows<'_>, total: &mut Partial<'_>) {
    total.clear();
    for (row, state) in total.states.iter_mut().enumerate() {
        *state = rows.start(row);
    }
}
