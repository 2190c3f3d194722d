//! What others want to know of the work.

use std::rc::Rc;
use std::time::Instant;

use mlxlm_core::free_memory;

use super::{Asked, Scheduler, add};
use crate::engine::AdapterUse;

impl Scheduler<'_> {
    /// Writes it down.
    pub(super) fn count(&mut self) {
        let (numbers, mut counters) = (&self.status.numbers, self.past);
        self.lanes.values().for_each(|lane| add(&mut counters, &lane.engine.counters()));
        let (kept, cache_bytes) = (self.reuse.stats(), self.lanes.values().map(|lane| lane.engine.cache_bytes()).sum());
        numbers.running.set(self.active());
        numbers.waiting.set(self.queue.iter().map(|asked| asked.open.get()).sum());
        numbers.generated_tokens.set(counters.generation_tokens);
        numbers.prompt_tokens.set(counters.prompt_tokens + self.read_apart);
        numbers.proposed_tokens.set(counters.proposed_tokens);
        numbers.accepted_tokens.set(counters.accepted_tokens);
        numbers.cache_bytes.set(cache_bytes);
        numbers.kept_sequences.set(kept.sequences);
        numbers.kept_bytes.set(kept.bytes);
        numbers.cache_hits.set(kept.hits as usize);
        numbers.cache_misses.set(kept.misses as usize);
        let disk = kept.disk.unwrap_or_default();
        numbers.disk_hits.set(disk.hits as usize);
        numbers.disk_written.set(disk.written as usize);
        self.status.set_adapter_use(self.adapter_use());
        // The system is asked once a second.
        if self.memory_seen.is_none_or(|seen| seen.elapsed().as_millis() >= 1000) {
            self.memory_seen = Some(Instant::now());
            let used = (cache_bytes + kept.bytes) as u64;
            let usage = free_memory::bytes().map_or(0.0, |free| used as f64 / used.saturating_add(free).max(1) as f64);
            numbers.cache_usage_ppm.set((usage * 1e6) as usize);
        }
    }

    /// The adapters of the requests that there are.
    fn adapter_use(&self) -> AdapterUse {
        let name = |asked: &Rc<Asked>| asked.generate().and_then(|generate| generate.adapter.clone());
        let scoring = self.scoring.iter().map(|(asked, _)| asked);
        let running = self.rows.values().map(|row| &row.asked).chain(scoring).filter_map(name).collect();
        AdapterUse { running, waiting: self.queue.iter().filter_map(name).collect() }
    }
}
